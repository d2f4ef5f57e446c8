"""Solo, wired: loads the manifests, refuses what it cannot do, and runs every part in one process until stopped."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import uvicorn
from starlette.types import ASGIApp

from solo import support, workflows
from solo.api import Api
from solo.builder.images import ImageTable, Platform
from solo.builder.registry import Registry
from solo.cd import Applications, Deployments, Services
from solo.cd import check as check_application
from solo.events import Bus, targets
from solo.events import apps as event_apps
from solo.events import check as check_events
from solo.git import Deliverer, create_repo, status_routes
from solo.manifests import (
    Manifest,
    ManifestError,
    field_of,
    load,
    make_registry_login,
    make_secrets,
    make_status_token,
    public_key,
    readdress,
    secret_names,
    secret_value,
)
from solo.pods.directory import kill_all
from solo.pods.runtime import Runtime
from solo.storage import CLOSED, Storage
from solo.storage import app as storage_app
from solo.store import Object, Store

FOLDERS = ("argocd/projects", "argo-events/sources", "mlops", "applications/services")
LOOPBACK = "127.0.0.1"
API_PORT = 2746  # the Argo Server's
STORAGE_PORT = 4443  # what Cloud Storage emulators use
REGISTRY = "solo.invalid/trainyard"
PLATFORM_IMAGES = ("PIPELINES_IMAGE", "SERVING_IMAGE")  # keys of ConfigMap `platform`


class PortInUseError(Exception):
    """A port that solo needs is taken."""


class Solo:
    """One machine's runtime over `home` (its state) and `root` (a checkout with the manifests).

    With `any_port` each server takes a free port in place of its own, so that several can run at once.
    """

    def __init__(self, home: Path, root: Path, *, any_port: bool = False, progress: list[str] | None = None) -> None:
        self.home, self.root, self.any_port, self.progress = home, root, any_port, progress or []
        self.stopping = asyncio.Event()

    async def run(self, say: Callable[[str], None] = print) -> None:
        """Serve until `stopping` is set. Raises ManifestError, PortInUseError, or RuntimeError if another solo has
        this home.
        """
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _only_one(self.home):
            manifests = load(self.root, FOLDERS)
            self._check(manifests)
            objects = [manifest.object for manifest in manifests]
            ports = self._ports(objects)
            sockets = self._listen(ports)
            actual = {port: sock.getsockname()[1] for port, sock in sockets.items()}
            store = Store(self.home / "solo.db")
            (self.home / "solo.db").chmod(0o600)
            try:
                await self._serve(store, objects, sockets, actual, say)
            finally:
                for sock in sockets.values():
                    sock.close()
                (self.home / "solo.json").unlink(missing_ok=True)
                store.close()

    async def _serve(
        self,
        store: Store,
        objects: list[Object],
        sockets: Mapping[int, socket.socket],
        actual: Mapping[int, int],
        say: Callable[[str], None],
    ) -> None:
        committed = dict(next(obj["data"] for obj in objects if _is(obj, "ConfigMap", "endpoints")))
        endpoints = self._endpoints(committed, actual)
        changed = readdress(objects, endpoints)
        platform = next(obj["data"] for obj in objects if _is(obj, "ConfigMap", "platform"))
        with store.transaction():
            _apply(store, objects)
            make_secrets(store, objects)
            hook_secret = secret_value(store, "github-webhook", "secret")
            writer, reader = (secret_value(store, name, "credentials") for name in ("registry", "registry-read"))
            registry_login, docker_config = make_registry_login(store, objects, REGISTRY.partition("/")[0])
            signing_key = public_key(store, "signing", "key.pem")
            status_token = make_status_token(store, objects)
        registry_bucket, scratch_bucket = committed["REGISTRY_BUCKET"], committed["SCRATCH_BUCKET"]
        storage = Storage(self.home / "storage")
        for bucket in (registry_bucket, scratch_bucket):
            storage.ensure_bucket(bucket)
        images = ImageTable(self.home, {_repository(platform[key]): Platform() for key in PLATFORM_IMAGES})
        runtime = Runtime(store, self.home, images, storage)
        runner = workflows.Runner(store, scratch_bucket=scratch_bucket)
        services = Services(store)
        url_of = self._repo_url(committed["GIT_URL"], endpoints["GIT_URL"])
        # as on a cluster, a release that names a Secret of the platform waits for it in vain
        prepare = partial(make_secrets, store, but=secret_names(objects))
        applications = Applications(store, self.home, resolve=url_of, check=_refusals, prepare=prepare)
        deployments = Deployments(store)
        bus = Bus(store, lambda obj: _submit(store, obj))
        api = Api(
            store,
            self.home,
            address=services.address,
            extra=[
                *status_routes(self.home, store, status_token),
                *applications.routes(hook_secret),
                *bus.routes(),
                *Registry(images.store, REGISTRY.partition("/")[0], registry_login).routes(),
            ],
        )
        apps: dict[int, ASGIApp] = {
            API_PORT: api.app,
            STORAGE_PORT: storage_app(
                storage,
                {registry_bucket: {"write": {writer}, "read": {reader}}, scratch_bucket: CLOSED},
                closed_by_default=True,
            ),
            **event_apps(store, bus),
        }
        argocd = f"{endpoints['ARGO_URL']}/api/webhook"
        synced = {_repo_of(obj["spec"]["source"]["repoURL"]) for obj in objects if obj["kind"] == "Application"}
        for repo in _repositories(objects):
            # whoever pushes a release is a step, and must not wait for what the release starts
            create_repo(self.home, repo, progress=[] if repo in synced else self.progress)
        deliverer = Deliverer(
            self.home,
            store,
            lambda repo: [
                *targets(store, repo, lambda port: f"http://{LOOPBACK}:{actual[port]}"),
                *([(argocd, hook_secret)] if repo in synced else []),
            ],
        )
        loops: list[Coroutine[Any, Any, None]] = [
            _expire(store, storage, scratch_bucket),
            *(part.run() for part in (runtime, runner, bus, applications, deployments, services, deliverer)),
        ]
        servers = [_Server(apps[port]) for port in apps]
        async with _tasks(
            [*loops, *(server.serve([sockets[port]]) for server, port in zip(servers, apps, strict=True))]
        ) as failed:
            for server in servers:
                await server.up()
            files = {
                "registry_credentials": _write_private(self.home / "registry.credentials", writer),
                "registry_auth": _write_private(self.home / "registry.config.json", docker_config),
                "signing_key": _write_private(self.home / "signing.pub.pem", signing_key),
            }
            self._announce(endpoints, changed, images, objects, actual, say, files)
            stop = asyncio.create_task(self.stopping.wait())
            waiting: list[asyncio.Future[Any]] = [stop, failed]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            if failed.done():
                failed.result()
            for server in servers:
                server.should_exit = True
        await asyncio.to_thread(kill_all, self.home)

    def _announce(
        self,
        endpoints: Mapping[str, str],
        changed: Mapping[str, tuple[str, str]],
        images: ImageTable,
        objects: list[Object],
        actual: Mapping[int, int],
        say: Callable[[str], None],
        files: Mapping[str, str],
    ) -> None:
        """Print the two things that differ from a cluster, and what is noted; then solo.json, which says that solo is
        up.
        """
        say("Addresses (ConfigMap endpoints), in place of the committed ones:")
        for key, (_, ours) in changed.items():
            say(f"  {key:<16}{ours}")
        say("Webhooks (EventSource/event):")
        for name, port, endpoint in _webhooks(objects):
            say(f"  {name:<16}http://{LOOPBACK}:{actual[port]}{endpoint}")
        say("Images, on this host:")
        for name, meaning in images.rows():
            say(f"  {name:<44}{meaning}")
        say("Noted, not enforced:")
        for line in noted(objects):
            say(f"  {line}")
        state = {"pid": os.getpid(), "endpoints": dict(endpoints), **files}
        _write_private(self.home / "solo.json", json.dumps(state, indent=1))

    def _check(self, manifests: list[Manifest]) -> None:
        problems = [
            f"{manifest.where(field_of(name))}: {name}: {why}"
            for manifest in manifests
            for name, why in _refusals(manifest.object)
        ]
        if problems:
            raise ManifestError(problems)

    def _ports(self, objects: list[Object]) -> list[int]:
        return [API_PORT, STORAGE_PORT, *sorted({port for _, port, _ in _webhooks(objects)})]

    def _listen(self, ports: list[int]) -> dict[int, socket.socket]:
        """A socket for each port. With `any_port` the same ones as the last time, since running pods know those."""
        kept = self.home / "ports.json"
        last = json.loads(kept.read_text()) if self.any_port and kept.exists() else {}
        sockets = {port: self._bind(int(last.get(str(port), 0)) if self.any_port else port) for port in ports}
        if self.any_port:
            _write_private(kept, json.dumps({port: sock.getsockname()[1] for port, sock in sockets.items()}))
        return sockets

    def _bind(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # connections inherit it; asyncio sets it on its own sockets only, and without it answers wait 40 ms for an ACK
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.bind((LOOPBACK, port))
        except OSError as error:
            sock.close()
            raise PortInUseError(
                f"{LOOPBACK}:{port}: {error.strerror}\n  → stop what listens there, or `yard solo up --any-port`"
            ) from None
        return sock

    def _endpoints(self, committed: Mapping[str, str], actual: Mapping[int, int]) -> dict[str, str]:
        api = f"http://{LOOPBACK}:{actual[API_PORT]}"
        events = re.search(r":(\d+)$", committed["EVENTS_URL"])
        if events is None or int(events[1]) not in actual:
            raise ManifestError([f"endpoints: EVENTS_URL {committed['EVENTS_URL']!r} names no port of an EventSource"])
        return {
            **committed,
            "GIT_URL": f"file://{self.home.resolve()}/git",
            "GIT_API_URL": api,
            "REGISTRY": REGISTRY,
            "REGISTRY_URL": api,
            "REGISTRY_MIRROR": "",
            "STORAGE_URL": f"http://{LOOPBACK}:{actual[STORAGE_PORT]}",
            "EVENTS_URL": f"http://{LOOPBACK}:{actual[int(events[1])]}",
            "ARGO_URL": api,
            "KUBERNETES_URL": api,
            "SERVING_URL": f"{api}/services/{{namespace}}/{{service}}",
        }

    def _repo_url(self, committed: str, ours: str) -> Callable[[str], str]:
        return lambda url: ours + url[len(committed) :] if url.startswith(f"{committed}/") else url


class _Server(uvicorn.Server):
    """One of several servers in one event loop; signals are solo's own business."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1)
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    async def up(self) -> None:
        while not self.started:
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def _tasks(coroutines: list[Coroutine[Any, Any, None]]) -> AsyncIterator[asyncio.Future[None]]:
    """Run them all; the future fails as soon as one does (none of them ends by itself while solo runs)."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() and not failed.done():
            failed.set_exception(task.exception() or RuntimeError())

    for task in tasks:
        task.add_done_callback(done)
    try:
        yield failed
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not failed.done():
            failed.cancel()


def noted(objects: list[Object]) -> list[str]:
    """One line for each reason, with the fields it concerns."""
    reasons: dict[str, set[str]] = {}
    for obj in objects:
        for verdict in support.check(obj):
            if verdict.verdict == "noted":
                parts = [part for part in verdict.field if isinstance(part, str)]
                known = {
                    "securityContext",
                    "resources",
                    "affinity",
                    "tolerations",
                    "nodeSelector",
                    "podGC",
                    "repositories",
                    "labels",
                }
                whole = obj["kind"] in ("EventBus", "NetworkPolicy", "ResourceQuota", "LimitRange")
                name = obj["kind"] if whole else next((part for part in parts if part in known), parts[-1])
                reasons.setdefault(verdict.why, set()).add(name)
    return [f"{', '.join(sorted(names))}: {why}" for why, names in sorted(reasons.items())]


@contextlib.contextmanager
def _only_one(home: Path) -> Any:
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RuntimeError(f"{home}: another solo runs on this folder\n  → yard solo status") from None
        yield


def locked(home: Path) -> bool:
    """Whether a solo runs on this home."""
    try:
        with (home / "lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


async def _expire(store: Store, storage: Storage, bucket: str) -> None:
    """Scratch lives as long as its Workflow: ttlStrategy ends both."""
    queue = store.subscribe("Workflow")
    while True:
        change = await queue.get()
        if change.type == "DELETED":
            await asyncio.to_thread(_clear, storage, bucket, f"{change.object['metadata']['name']}/")


def _clear(storage: Storage, bucket: str, prefix: str) -> None:
    while found := storage.list(bucket, prefix=prefix).objects:
        for obj in found:
            storage.delete(bucket, obj.name)


def _apply(store: Store, objects: list[Object]) -> None:
    """Make the store hold exactly these of what was loaded from files; what a release deployed is not touched."""
    loaded: Object = {"apiVersion": "solo/v1", "kind": "Loaded", "metadata": {"name": "manifests"}, "items": []}
    before = store.find("Loaded", "", "manifests") or loaded
    keys = []
    for obj in objects:
        store.apply(obj)
        keys.append([obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]])
    for kind, namespace, name in before["items"]:
        if [kind, namespace, name] not in keys and store.find(kind, namespace, name):
            store.delete(kind, namespace, name)
    store.apply({**loaded, "metadata": {"name": "manifests"}, "items": keys})


def _refusals(obj: Object) -> list[tuple[str, str]]:
    """(field, why) of everything in an object that solo would not do."""
    found = [(verdict.name(), verdict.why) for verdict in support.refused(obj)]
    if not found and obj["kind"] in ("EventSource", "Sensor"):
        found = [(problem.field, problem.message) for problem in check_events(obj)]
    if not found and obj["kind"] in ("Application", "AppProject"):
        found = [(problem.field, problem.message) for problem in check_application(obj)]
    return found


def _submit(store: Store, obj: Object) -> Object:
    problems = _refusals(obj)
    if problems:
        raise ValueError("; ".join(f"{field}: {why}" for field, why in problems))
    return workflows.submit(store, obj)


def _is(obj: Object, kind: str, name: str) -> bool:
    return bool(obj["kind"] == kind and obj["metadata"]["name"] == name)


def _webhooks(objects: list[Object]) -> list[tuple[str, int, str]]:
    """(EventSource/event, port, endpoint) of all that listens."""
    found = []
    for obj in objects:
        if obj["kind"] == "EventSource":
            spec, source = obj["spec"], obj["metadata"]["name"]
            hooks = {name: event["webhook"] for name, event in spec.get("github", {}).items()} | spec.get("webhook", {})
            found += [(f"{source}/{name}", int(hook["port"]), hook["endpoint"]) for name, hook in hooks.items()]
    return found


def _repositories(objects: list[Object]) -> list[str]:
    return sorted(
        f"{entry['owner']}/{name}"
        for obj in objects
        if obj["kind"] == "EventSource"
        for event in obj["spec"].get("github", {}).values()
        for entry in event.get("repositories", [])
        for name in entry["names"]
    )


def _repo_of(url: str) -> str:
    return "/".join(url.removesuffix(".git").split("/")[-2:])


def _repository(image: str) -> str:
    """`trainyard/serving` of `ghcr.io/trainyard/serving:0.1.0`."""
    return "/".join(image.split("@")[0].rsplit(":", 1)[0].split("/")[-2:])


def _write_private(path: Path, text: str) -> str:
    """Write a file that only this user may read; returns its path."""
    temporary = path.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_text(text)
    temporary.replace(path)
    return str(path)


def serve(home: Path, root: Path, *, any_port: bool, progress: list[str], out: TextIO = sys.stdout) -> int:
    """Run solo in the foreground until SIGTERM or SIGINT; returns an exit code (see `pipelines`' table: 3 invalid, 5
    conflict, 6 taken).
    """

    async def main() -> None:
        solo = Solo(home, root, any_port=any_port, progress=progress)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, solo.stopping.set)
        await solo.run(lambda line: print(line, file=out, flush=True))

    try:
        asyncio.run(main())
    except ManifestError as error:
        print(
            f"{error}\n  → solo runs nothing until this is mended; `yard solo support` lists what it can do",
            file=sys.stderr,
        )
        return 3
    except PortInUseError as error:
        print(error, file=sys.stderr)
        return 6
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 5
    return 0
