"""The kubelet's part: looks at the Pods in the Store, runs each with a shim, and writes down what became of it.

One task per pod, from its directory to its last status. It decides by what lies in the directory alone, so that it is
the same for a pod just created, one whose preparation was cut off, one that ran on while solo was dead, and one that
has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import logging
import os
import random
import signal
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from solo.pods import probes
from solo.pods.artifacts import ObjectStore, read_result, save_outputs
from solo.pods.directory import PodDirectory, State, collect, kill_leftovers
from solo.pods.exits import DEADLINE_EXCEEDED, EXECUTOR_ERROR, LOST, exit_message
from solo.pods.launcher import Launcher, ServerDiedError, Watched
from solo.pods.paths import plain
from solo.pods.prepare import (
    Images,
    NotReadyError,
    RefusedError,
    declared_ports,
    locator,
    outputs,
    prepare,
    restart_policy,
)
from solo.store import Change, NotFoundError, Object, Store

log = logging.getLogger(__name__)

ENDED = ("Succeeded", "Failed")
# below the range from which the kernel takes the ports of outgoing connections
PORTS = range(20000, 32000)
MAX_ATTEMPTS = 3
MAX_SERVER_DEATHS = 20  # somebody is killing it, or this Python is broken


class _Pod:
    """What this process knows of a pod that has not ended."""

    def __init__(self, obj: Object) -> None:
        meta = obj["metadata"]
        self.namespace, self.name, self.uid = meta.get("namespace", ""), meta["name"], meta["uid"]
        self.ports: dict[int, int] = {}
        self.stopping = self.deleted = False
        self.shim: Watched | None = None
        self.config = asyncio.Event()  # a ConfigMap or Secret appeared, or the pod is to stop
        self.probing: dict[str, tuple[int, asyncio.Task[None]]] = {}  # container → (its process, its probes)
        self.ready: dict[str, bool] = {}
        self.task: asyncio.Task[None] | None = None

    def stop(self) -> None:
        self.stopping = True
        self.config.set()
        if self.shim is not None:
            self.shim.signal(signal.SIGTERM)


class Runtime:
    """Runs pods under `home/pods`. One at a time for one home: the daemon sees to that."""

    def __init__(self, store: Store, home: Path, images: Images, objects: ObjectStore) -> None:
        self.store, self.images, self.objects = store, images, objects
        self.home = plain(home)
        (self.home / "pods").mkdir(mode=0o700, parents=True, exist_ok=True)
        self.bell = self.home / "pods" / "bell"  # shims write their pod's uid here when a container's state changes
        self.launcher = Launcher(self.home)
        self._pods: dict[str, _Pod] = {}
        self._removals: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled; the pods go on."""
        changes = {kind: self.store.subscribe(kind) for kind in ("Pod", "ConfigMap", "Secret")}
        bell = self._open_bell()
        try:
            self.launcher.open()
            present = self.store.list("Pod")
            # pods that were deleted while solo was dead
            await asyncio.to_thread(collect, self.home, {pod["metadata"]["uid"] for pod in present})
            for pod in present:
                self._see(pod)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow_pods(changes["Pod"]))
                group.create_task(self._follow_configuration(changes["ConfigMap"]))
                group.create_task(self._follow_configuration(changes["Secret"]))
        finally:
            for queue in changes.values():
                self.store.unsubscribe(queue)
            asyncio.get_running_loop().remove_reader(bell)
            os.close(bell)
            tasks = [pod.task for pod in self._pods.values() if pod.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, *self._removals, return_exceptions=True)
            self.launcher.close()

    # what changes

    async def _follow_pods(self, queue: asyncio.Queue[Change]) -> None:
        while True:
            change = await queue.get()
            if change.type == "DELETED":
                self._delete(change.object["metadata"]["uid"])
            else:
                self._see(change.object)

    async def _follow_configuration(self, queue: asyncio.Queue[Change]) -> None:
        while True:
            await queue.get()
            for pod in self._pods.values():
                pod.config.set()

    def _see(self, obj: Object) -> None:
        uid = obj["metadata"]["uid"]
        pod = self._pods.get(uid)
        if pod is None:
            if (obj.get("status") or {}).get("phase") in ENDED:
                return
            pod = self._pods[uid] = _Pod(obj)
            pod.task = asyncio.create_task(self._drive(pod, obj))
        if (obj.get("solo") or {}).get("stop") and not pod.stopping:
            pod.stop()

    def _delete(self, uid: str) -> None:
        pod = self._pods.get(uid)
        if pod is not None:
            pod.deleted = True
            pod.stop()
        else:
            task = asyncio.create_task(asyncio.to_thread(PodDirectory(self.home, uid).remove))
            self._removals.add(task)
            task.add_done_callback(self._removals.discard)

    def _open_bell(self) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self.bell, 0o600)
        # also for writing: else it would be readable for ever after the first shim has closed it
        bell = os.open(self.bell, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        asyncio.get_running_loop().add_reader(bell, self._heard, bell)
        return bell

    def _heard(self, bell: int) -> None:
        for uid in set(os.read(bell, 65536).decode().split()):
            pod = self._pods.get(uid)
            if pod is not None and pod.shim is not None:
                self._running(pod)

    # one pod

    async def _drive(self, pod: _Pod, obj: Object) -> None:
        directory = PodDirectory(self.home, pod.uid)
        try:
            await self._run_pod(pod, obj, directory)
        except asyncio.CancelledError:
            raise
        except Exception as problem:  # a bug, or a broken disk: the pod must not hang for ever
            log.exception("pod %s/%s", pod.namespace, pod.name)
            self._write(pod, {"phase": "Failed", "reason": "StartError", "message": f"solo failed: {problem!r}"})
        finally:
            self._stop_probes(pod)
            if pod.shim is not None:
                pod.shim.close()
        if pod.deleted:
            await asyncio.to_thread(directory.remove)
        del self._pods[pod.uid]

    async def _run_pod(self, pod: _Pod, obj: Object, directory: PodDirectory) -> None:
        launched = died = 0
        while True:
            state, pid = directory.examine()
            if state is State.FINISHED:
                await self._finish(pod, obj, directory)
                return
            if state is State.LOST:
                await asyncio.to_thread(kill_leftovers, pod.uid)
                self._write(pod, {"phase": "Failed", "reason": "Lost", "message": LOST, "finishTime": _time()})
                return
            if state is State.RUNNING and pid is not None:
                if not await self._adopt(pod, obj, directory, pid):
                    continue
            elif pod.stopping:
                self._refuse(directory, "Pod was stopped before it started", "")
                continue
            elif launched == MAX_ATTEMPTS or died == MAX_SERVER_DEATHS:
                self._refuse(directory, f"its shim cannot be started; see {self.home / 'pods' / 'forkserver.log'}")
                continue
            else:
                if not await self._prepare(pod, obj, directory):
                    continue
                try:
                    pod.shim = await self.launcher.start(directory.path)
                except ServerDiedError:
                    died += 1
                    await asyncio.sleep(0.01 * died)
                    continue  # it may have forked our shim before it died; the directory knows
                launched += 1
                self._running(pod)  # its first word may have come before we knew the shim
            assert pod.shim is not None
            if pod.stopping:
                pod.shim.signal(signal.SIGTERM)
            await pod.shim.wait()
            pod.shim = None

    async def _adopt(self, pod: _Pod, obj: Object, directory: PodDirectory, pid: int) -> bool:
        """Watch a shim of an earlier solo."""
        try:
            shim = Watched.adopt(pid)
        except ProcessLookupError:
            return False
        if directory.examine() != (State.RUNNING, pid):  # it ended, and the number may be another's by now
            shim.close()
            return False
        pod.shim = shim
        status = (self._status(pod) or {}).get("solo") or {}
        pod.ports = {int(port): host for port, host in (status.get("ports") or {}).items()}
        self._running(pod)
        return True

    async def _prepare(self, pod: _Pod, obj: Object, directory: PodDirectory) -> bool:
        """Make the directory ready to start; False to look again."""
        claim = directory.claim()
        if claim is None:
            return False
        try:
            if not pod.ports:
                pod.ports = self._free_ports(declared_ports(obj))
            started = (self._status(pod) or {}).get("startTime") or _time()
            pod.config.clear()
            arguments: dict[str, Any] = {
                "find": self._finder(obj),
                "images": self.images,
                "objects": self.objects,
                "ports": pod.ports,
                "bell": self.bell,
                "started": datetime.fromisoformat(started).timestamp(),
            }
            for container in obj["spec"]["containers"]:
                probes.check(container)
            await asyncio.to_thread(prepare, obj, directory, **arguments)
        except NotReadyError as problem:
            self._waiting(pod, obj, str(problem), started)
            os.close(claim)
            claim = None
            await pod.config.wait()
            return False
        except (RefusedError, probes.ProbeError) as problem:
            self._refuse(directory, str(problem))
            return False
        except OSError as problem:
            if problem.errno != errno.ENOSPC:
                raise
            self._refuse(directory, f"{directory.path}: {problem.strerror}; free some space")
            return False
        finally:
            if claim is not None:
                os.close(claim)
        return not pod.stopping

    def _refuse(self, directory: PodDirectory, message: str, reason: str = "StartError") -> None:
        """The pod ends before it started; noted where every other end is."""
        directory.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.write("exit.json", {"reason": reason, "refused": message, "finishedAt": time.time()})

    def _finder(self, obj: Object) -> Any:
        """Look up in the Store what the pod names; read here, because only this thread may use the Store."""
        namespace = obj["metadata"].get("namespace", "")
        found = {
            (kind, namespace, name): self.store.find(kind, namespace, name)
            for kind, name in set(_references(obj["spec"]))
        }
        return lambda kind, namespace, name: found.get((kind, namespace, name))

    def _free_ports(self, wanted: list[int]) -> dict[int, int]:
        """A loopback port for each containerPort: in the host's one network the declared ones would collide."""
        taken = {host for pod in self._pods.values() for host in pod.ports.values()}
        chosen: dict[int, int] = {}
        for port in wanted:
            for _ in range(1000):
                candidate = random.choice(PORTS)  # noqa: S311 - not a secret
                if candidate not in taken and _is_free(candidate):
                    chosen[port] = candidate
                    taken.add(candidate)
                    break
            else:
                raise OSError(errno.EADDRINUSE, f"no free port in {PORTS.start}-{PORTS.stop}")
        return chosen

    # while it runs

    def _running(self, pod: _Pod) -> None:
        """Write down that the pod runs, and what its shim last said of the containers."""
        obj = self.store.find("Pod", pod.namespace, pod.name)
        if obj is None or obj["metadata"]["uid"] != pod.uid:
            return
        state = PodDirectory(self.home, pod.uid).read("state.json")
        if state is None:
            return
        self._keep_probing(pod, obj, state["containers"])
        initialising = bool(obj["spec"].get("initContainers")) and not any(c["pid"] for c in state["containers"])
        statuses = [
            _container_status(container, pod.ready.get(container["name"], False)) for container in state["containers"]
        ]
        status = {
            "phase": "Pending" if initialising else "Running",
            "podIP": "127.0.0.1",
            "startTime": (obj.get("status") or {}).get("startTime") or _time(),
            "conditions": [_ready_condition(bool(statuses) and all(s["ready"] for s in statuses), obj.get("status"))],
            "containerStatuses": statuses,
            "initContainerStatuses": [_container_status(container, False) for container in state["init"]],
            "solo": {"ports": {str(port): host for port, host in pod.ports.items()}},
        }
        self._write(pod, status)

    def _keep_probing(self, pod: _Pod, obj: Object, containers: list[dict[str, Any]]) -> None:
        """One task of probes for each process that runs; a restarted container is a new process."""
        if restart_policy(obj) == "Never":  # no server: ready is that it runs
            pod.ready = {container["name"]: container["state"] == "running" for container in containers}
            return
        specs = {container["name"]: container for container in obj["spec"]["containers"]}
        for container in containers:
            name, pid = container["name"], container["pid"] if container["state"] == "running" else 0
            probed, task = pod.probing.get(name, (0, None))
            if probed == pid:
                continue
            if task is not None:
                task.cancel()
            pod.probing.pop(name, None)
            pod.ready[name] = False
            if pid:
                watch = probes.watch(
                    specs[name],
                    pod.ports,
                    lambda ready, name=name: self._became(pod, name, ready),  # type: ignore[misc]
                    lambda name=name: self._restart(pod, name),  # type: ignore[misc]
                )
                pod.probing[name] = (pid, asyncio.create_task(watch))

    def _became(self, pod: _Pod, container: str, ready: bool) -> None:
        pod.ready[container] = ready
        self._running(pod)

    def _restart(self, pod: _Pod, container: str) -> None:
        """The liveness probe failed: the shim ends the container, and its restart policy brings it back."""
        if pod.shim is not None:
            PodDirectory(self.home, pod.uid).write("restart.json", [container])
            pod.shim.signal(signal.SIGUSR1)

    def _stop_probes(self, pod: _Pod) -> None:
        for _, task in pod.probing.values():
            task.cancel()
        pod.probing.clear()

    def _waiting(self, pod: _Pod, obj: Object, problem: str, started: str) -> None:
        waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": problem}}
        statuses = [
            {"name": container["name"], "ready": False, "restartCount": 0, "state": waiting}
            for container in obj["spec"]["containers"]
        ]
        status = {"phase": "Pending", "message": problem, "startTime": started, "containerStatuses": statuses}
        self._write(pod, status)

    # its end

    async def _finish(self, pod: _Pod, obj: Object, directory: PodDirectory) -> None:
        end = directory.read("exit.json")
        assert end is not None
        status: dict[str, Any] = {"finishTime": _time(end["finishedAt"]), "podIP": "127.0.0.1"}
        begin = _time(end.get("startedAt", end["finishedAt"]))
        status["startTime"] = (self._status(pod) or {}).get("startTime") or begin
        if "refused" in end:
            code = EXECUTOR_ERROR if end["reason"] else None
            found: dict[str, Any] = {"parameters": {}, "artifacts": {}, "result": None, "exitCode": code}
            status |= {
                "phase": "Failed",
                "reason": end["reason"],
                "message": end["refused"],
                "solo": {"outputs": found},
            }
            self._write(pod, status)
            return
        # absent while it was not yet the turn of the containers
        begun = [container for container in end["containers"] if container["exitCode"] is not None]
        outcome: dict[str, Any] = {"parameters": {}, "artifacts": {}, "result": None, "exitCode": None}
        problems: list[str] = []
        if begun:
            outcome["exitCode"] = begun[0]["exitCode"]
            if (directory.path / "result").exists():
                outcome["result"] = await asyncio.to_thread(read_result, directory.path / "result")
            if outputs(obj).get("parameters") or outputs(obj).get("artifacts"):
                collected, problems = await asyncio.to_thread(self._collect, obj, directory)
                outcome |= collected
        reason, message = _verdict(end, problems)
        status |= {
            "phase": "Failed" if message else "Succeeded",
            "reason": reason,
            "message": message,
            "conditions": [_ready_condition(False, self._status(pod))],
            "containerStatuses": [_container_status(container, False) for container in end["containers"]],
            "initContainerStatuses": [_container_status(container, False) for container in end["init"]],
            "solo": {"outputs": outcome, "ports": {str(port): host for port, host in pod.ports.items()}},
        }
        self._write(pod, status)

    def _collect(self, obj: Object, directory: PodDirectory) -> tuple[dict[str, Any], list[str]]:
        plan = directory.read("started.json")
        assert plan is not None
        return save_outputs(outputs(obj), locator(plan), self.objects, directory.path, directory.staging)

    # the Store

    def _status(self, pod: _Pod) -> dict[str, Any] | None:
        obj = self.store.find("Pod", pod.namespace, pod.name)
        status: dict[str, Any] | None = (obj or {}).get("status")
        return status

    def _write(self, pod: _Pod, status: dict[str, Any]) -> None:
        """Put a new status; nothing is written if nothing differs, or the pod is gone."""
        with contextlib.suppress(NotFoundError), self.store.transaction():
            obj = self.store.get("Pod", pod.namespace, pod.name)
            if obj["metadata"]["uid"] == pod.uid:
                before = copy.deepcopy(obj.get("status"))
                obj["status"] = {"message": "", "reason": "", **status}
                if obj["status"] != before:
                    self.store.update(obj)


def _verdict(end: dict[str, Any], problems: list[str]) -> tuple[str, str]:
    """Reason and message; "" is success. The step's own failure says more than an output that is missing for it."""
    if end["reason"] == "DeadlineExceeded":
        return "DeadlineExceeded", DEADLINE_EXCEEDED
    for container in [*end["init"], *end["containers"]]:
        if container["exitCode"]:
            text = exit_message(container["exitCode"], oom=container["oom"], detail=container["message"])
            # a pod has one message: say whose, if it is not the step itself
            return "", text if container is end["containers"][0] else f"{container['name']}: {text}"
    if any(container["exitCode"] is None for container in end["containers"]):
        return "", "Pod was stopped before it started"
    # argoexec's container "wait" collects outputs and ends with 64
    text = f"wait: {exit_message(EXECUTOR_ERROR, detail='; '.join(problems))}"
    return ("OutputError", text) if problems else ("", "")


def _container_status(container: dict[str, Any], ready: bool) -> dict[str, Any]:
    """A container as `kubectl get pod -o json` shows it."""
    if container["exitCode"] is not None and container["state"] != "running":
        state = {
            "exitCode": container["exitCode"],
            "reason": "OOMKilled" if container["oom"] else "Error" if container["exitCode"] else "Completed",
            "message": container["message"],
            "startedAt": _time(container["startedAt"]),
            "finishedAt": _time(container["finishedAt"]),
        }
        shown: dict[str, Any] = {"terminated": state}
        if container["state"] == "waiting":
            shown = {"waiting": {"reason": container["reason"]}}
    elif container["state"] == "running":
        shown = {"running": {"startedAt": _time(container["startedAt"])}}
    else:
        shown = {"waiting": {"reason": "PodInitializing"}}
    return {"name": container["name"], "ready": ready, "restartCount": container["restartCount"], "state": shown}


def _ready_condition(ready: bool, before: dict[str, Any] | None) -> dict[str, str]:
    """The condition, with the time since when it is so."""
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    for old in (before or {}).get("conditions") or []:
        if old["status"] == condition["status"] and "lastTransitionTime" in old:
            return {**condition, "lastTransitionTime": old["lastTransitionTime"]}
    return {**condition, "lastTransitionTime": _time()}


def _references(value: Any) -> list[tuple[str, str]]:
    """(kind, name) of every ConfigMap and Secret that a PodSpec names."""
    if isinstance(value, list):
        return [found for item in value for found in _references(item)]
    if not isinstance(value, dict):
        return []
    found = []
    for key, item in value.items():
        if key in ("configMap", "configMapRef", "configMapKeyRef") and isinstance(item, dict):
            found.append(("ConfigMap", item.get("name", "")))
        elif key in ("secret", "secretRef", "secretKeyRef") and isinstance(item, dict):
            found.append(("Secret", item.get("secretName") or item.get("name", "")))
        else:
            found += _references(item)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _time(at: float | None = None) -> str:
    return datetime.fromtimestamp(time.time() if at is None else at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
