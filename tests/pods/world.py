"""A runtime with a real Store, real processes and a directory for an object store."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from solo.builder.images import ImageTable, Platform
from solo.pods.runtime import Runtime
from solo.store import Object, Store

DEADLINE = 30.0


class Objects:
    """An object store that is a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open_blob(self, bucket: str, key: str) -> Path:
        path = self.root / bucket / key
        if not path.is_file():
            raise FileNotFoundError(path)
        return path

    def put_file(self, bucket: str, key: str, path: Path) -> None:
        target = self.root / bucket / key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)


class World:
    def __init__(self, tmp: Path) -> None:
        self.home, self.tmp = tmp / "home", tmp
        self.home.mkdir(exist_ok=True)
        self.store = Store(self.home / "solo.db")
        self.objects = Objects(tmp / "objects")
        self.images = ImageTable(self.home, {"trainyard/pipelines": Platform()})
        self.runtime = self.new_runtime()

    def new_runtime(self) -> Runtime:
        return Runtime(self.store, self.home, self.images, self.objects)

    def pod(self, *command: str, owner: str = "Workflow", **changes: Any) -> Object:
        """Create a pod with one container `main`; `changes` go to the container, `spec` and `solo` to these parts."""
        name = f"pod-{uuid.uuid4().hex[:8]}"
        spec, solo = changes.pop("spec", {}), changes.pop("solo", None)
        labels = changes.pop("labels", {})
        container = {"name": "main", "image": "busybox", "command": list(command), **changes}
        pod: Object = {
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "mlops",
                "labels": labels,
                "ownerReferences": [{"kind": owner, "name": "owner", "uid": "1"}],
            },
            "spec": {"containers": [container], **spec},
        }
        if solo is not None:
            pod["solo"] = solo
        return self.store.create(pod)

    def shell(self, script: str, **changes: Any) -> Object:
        return self.pod("sh", "-c", script, **changes)

    def get(self, pod: Object) -> Object:
        return self.store.get("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])

    def status(self, pod: Object) -> dict[str, Any]:
        return self.get(pod).get("status") or {}

    def directory(self, pod: Object) -> Path:
        return self.home / "pods" / pod["metadata"]["uid"]

    def log(self, pod: Object, container: str = "main") -> str:
        return (self.directory(pod) / f"{container}.log").read_text()

    def stop(self, pod: Object) -> None:
        obj = self.get(pod)
        obj.setdefault("solo", {})["stop"] = True
        self.store.update(obj)

    def delete(self, pod: Object) -> None:
        self.store.delete("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])

    async def phase(self, pod: Object, *phases: str) -> dict[str, Any]:
        """Wait until the pod is in one of the phases; its status."""
        await until(lambda: self.status(pod).get("phase") in phases, lambda: f"status {self.status(pod)}")
        return self.status(pod)

    async def ended(self, pod: Object) -> dict[str, Any]:
        return await self.phase(pod, "Succeeded", "Failed")


async def until(condition: Callable[[], Any], told: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {DEADLINE} s; {told()}"
        await asyncio.sleep(0.01)


def outside(path: Path) -> str:
    """A name for a path below /tmp that solo does not take for the pod's own /tmp."""
    return f"/proc/self/root{path}"


@contextlib.asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    task = asyncio.create_task(world.runtime.run())
    try:
        yield world
    finally:
        for pod in world.store.list("Pod"):
            world.delete(pod)
        await until(lambda: task.done() or not any(p.is_dir() for p in (world.home / "pods").iterdir()))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
