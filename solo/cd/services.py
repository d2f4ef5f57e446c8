"""ClusterIP Services: for each port an address on loopback that outlives pods, restarts and solo itself.

A new connection goes to a pod that is Ready and not on its way out, in turn; an established one stays with its pod
until either side closes it. With no such pod it is held for a second, then answered with 503.

For a roll without a failed request the pod does its part: on SIGTERM it stops being ready, answers with
`Connection: close`, goes on accepting for as long as a connection may be on its way (2 s), finishes what it has begun
and exits with 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from solo.cd.problems import COMMON, Problem, compare
from solo.cd.proxy import Address, Backend, Client, reset
from solo.cd.rollout import is_ready
from solo.store import Change, Object, Store

Key = tuple[str, str]

HOST = "127.0.0.1"
# below the ports that the kernel hands out (32768…), so that a restart seldom finds one taken
PORTS = range(20000, 30000)

SHAPE = COMMON | {
    "spec!": {
        "type": {"ClusterIP"},
        "selector!": {"*": str},
        "ports!": [
            {"name": str, "port!": int, "targetPort": (int, str), "protocol": {"TCP"}, "appProtocol": str},
        ],
    }
}


class AddressTakenError(Exception):
    """Another program listens where a Service has promised to be."""


def check(service: Object) -> Iterator[Problem]:
    """What Kubernetes would refuse, and what solo does not honour, in a Service."""
    problems = list(compare(service, SHAPE))
    if problems:
        yield from problems
        return
    ports = service["spec"]["ports"]
    if not ports:
        yield Problem("spec.ports", "must have at least one port")
    if not service["spec"]["selector"]:
        yield Problem("spec.selector", "must not be empty")
    for index, port in enumerate(ports):
        if not 0 < port["port"] < 65536:
            yield Problem(f"spec.ports[{index}].port", f"{port['port']} is not between 1 and 65535")
        if port["port"] in [other["port"] for other in ports[:index]]:
            yield Problem(f"spec.ports[{index}].port", f"{port['port']} is given twice")
        if len(ports) > 1 and not port.get("name"):
            yield Problem(f"spec.ports[{index}].name", "is needed when a Service has several ports")


class Services:
    """Listens for every Service of the Store while `run()` runs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._services: dict[Key, Object] = {}
        self._pods: dict[Key, Object] = {}
        self._listeners: dict[tuple[str, str, int], _Listener] = {}
        self._cache: dict[tuple[str, str, int], list[Address]] = {}
        self._queues: dict[str, asyncio.Queue[Change]] = {}

    async def run(self) -> None:
        """Until cancelled. Raises AddressTakenError, which names the port and the next step."""
        try:
            await self._start()
            async with asyncio.TaskGroup() as group:
                for kind in self._queues:
                    group.create_task(self._follow(kind))
        finally:
            self._close()

    def address(self, namespace: str, name: str, port: int) -> str | None:
        """`host:port` on this machine; None if there is no such Service or port."""
        listener = self._listeners.get((namespace, name, port))
        return f"{HOST}:{listener.port}" if listener else None

    async def _start(self) -> None:
        self._queues = {kind: self._store.subscribe(kind) for kind in ("Pod", "Service")}
        for pod in self._store.list("Pod"):
            self._note(Change("ADDED", pod))
        for service in self._store.list("Service"):
            self._note(Change("ADDED", service))
            await self._listen(_key(service))

    def _close(self) -> None:
        for queue in self._queues.values():
            self._store.unsubscribe(queue)
        for listener in self._listeners.values():
            listener.close()
            listener.cut()
        self._listeners.clear()

    async def _follow(self, kind: str) -> None:
        while True:
            change = await self._queues[kind].get()
            self._note(change)
            if kind == "Service":
                await self._listen(_key(change.object))

    def _note(self, change: Change) -> None:
        known = self._pods if change.object["kind"] == "Pod" else self._services
        if change.type == "DELETED":
            known.pop(_key(change.object), None)
        elif change.object["kind"] == "Service" or "solo" not in change.object:  # a Workflow's pod serves nobody
            known[_key(change.object)] = change.object
        else:
            return
        self._cache.clear()
        for listener in self._listeners.values():
            listener.backend.changed()

    def _endpoints(self, key: tuple[str, str, int]) -> Sequence[Address]:
        """The pods that may get a new connection, as of the Store's last transaction."""
        # what is committed counts, though this loop's turn to hear of it may come later
        pods = self._queues["Pod"]
        while not pods.empty():
            self._note(pods.get_nowait())
        if key not in self._cache:
            self._cache[key] = list(self._find(key))
        return self._cache[key]

    def _find(self, key: tuple[str, str, int]) -> Iterator[Address]:
        for pod in self._selected(key):
            if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]:
                port = _pod_port(pod, self._port(key))
                if port is not None:
                    yield pod["status"].get("podIP", HOST), port

    def _selected(self, key: tuple[str, str, int]) -> list[Object]:
        service = self._services.get(key[:2])
        selector = service["spec"].get("selector", {}).items() if service else ()
        if not selector:
            return []
        pods = (pod for (namespace, _), pod in sorted(self._pods.items()) if namespace == key[0])
        return [pod for pod in pods if selector <= pod["metadata"].get("labels", {}).items()]

    def _port(self, key: tuple[str, str, int]) -> Object:
        ports = self._services[key[:2]]["spec"]["ports"]
        return next((port for port in ports if port["port"] == key[2]), {})

    def _why(self, key: tuple[str, str, int]) -> str:
        """For the client that nobody could be found for."""
        pods = self._selected(key)
        ready = [pod for pod in pods if is_ready(pod)]
        text = f"no ready endpoint of service {key[0]}/{key[1]}: {len(ready)} of {len(pods)} pods are ready"
        if self._endpoints(key):
            text += ", and none took the connection"
        elif ready:
            text += f", but none declares the container port {self._port(key).get('targetPort', key[2])}"
        return text

    async def _listen(self, key: Key) -> None:
        """Open and close listeners until they are what the Service says; its addresses are kept in its status."""
        service = self._store.find("Service", *key)
        ports = [port["port"] for port in service["spec"]["ports"]] if service else []
        for number in [number for *owner, number in self._listeners if tuple(owner) == key and number not in ports]:
            self._listeners.pop((*key, number)).close()
        if service is None:
            return
        kept: dict[str, str] = service.get("status", {}).get("solo", {}).get("addresses", {})
        sockets = {
            number: self._bind(key, number, kept.get(str(number)))
            for number in ports
            if (*key, number) not in self._listeners
        }
        bound = {str(number): f"{HOST}:{sock.getsockname()[1]}" for number, sock in sockets.items()}
        addresses = {number: address for number, address in (kept | bound).items() if int(number) in ports}
        if addresses != kept:
            service.setdefault("status", {}).setdefault("solo", {})["addresses"] = addresses
            self._store.update(service)
        for number, sock in sockets.items():
            self._listeners[*key, number] = await self._open((*key, number), sock)

    async def _open(self, key: tuple[str, str, int], sock: socket.socket) -> _Listener:
        backend = Backend(lambda: self._endpoints(key), lambda: self._why(key))
        server = await asyncio.get_running_loop().create_server(lambda: Client(backend), sock=sock, backlog=1024)
        return _Listener(server, backend, sock.getsockname()[1])

    def _bind(self, key: Key, number: int, kept: str | None) -> socket.socket:
        if kept is not None:
            port = int(kept.rpartition(":")[2])
            if sock := _try(port):
                return sock
            raise AddressTakenError(
                f"port {port}, the address of service {key[0]}/{key[1]}:{number}, is taken by another program\n"
                f"  → see which one with `ss -ltnp 'sport = :{port}'`, stop it, and start solo again"
            )
        promised = {
            int(address.rpartition(":")[2])
            for service in self._store.list("Service")
            for address in service.get("status", {}).get("solo", {}).get("addresses", {}).values()
        }
        # at random: two solos on one machine would otherwise take each other's address while one of them is down
        for port in random.sample(PORTS, len(PORTS)):
            if port not in promised and (sock := _try(port)):
                return sock
        raise AddressTakenError(
            f"no free port between {PORTS.start} and {PORTS.stop} for service {key[0]}/{key[1]}:{number}\n"
            f"  → see what listens there with `ss -ltn`"
        )


class _Listener:
    def __init__(self, server: asyncio.Server, backend: Backend, port: int) -> None:
        self.server, self.backend, self.port = server, backend, port

    def close(self) -> None:
        self.server.close()

    def cut(self) -> None:
        for client in list(self.backend.clients):
            reset(client.transport)


def _try(port: int) -> socket.socket | None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with contextlib.suppress(OSError):
        sock.bind((HOST, port))
        # bound is not taken yet: with SO_REUSEADDR two may bind, only one can listen
        sock.listen(1024)
        sock.setblocking(False)
        return sock
    sock.close()
    return None


def _pod_port(pod: Object, port: Object) -> int | None:
    """Where on this host the pod serves a Service's port."""
    target: Any = port.get("targetPort", port.get("port"))
    if isinstance(target, str):
        declared = (entry for container in pod["spec"]["containers"] for entry in container.get("ports", []))
        target = next((entry["containerPort"] for entry in declared if entry.get("name") == target), None)
    found = pod["status"].get("solo", {}).get("ports", {}).get(str(target))
    return int(found) if found is not None else None


def _key(obj: Object) -> Key:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]
