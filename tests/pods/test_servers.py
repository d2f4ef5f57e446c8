"""Pods of Deployments: restarts, ports, probes."""

from __future__ import annotations

import contextlib
from typing import Any

import httpx
import pytest

from solo.store import Object

from .world import World, outside, running, until

pytestmark = pytest.mark.anyio

# answers with a status that a file in its directory gives
SERVER = """
import http.server, os, pathlib, signal, sys
state = pathlib.Path(sys.argv[1])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kind = self.path.strip("/")
        file = state / kind
        self.send_response(int(file.read_text()) if file.is_file() else 200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
    def log_message(self, *args): pass
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
print("listening on", os.environ["PORT"], flush=True)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def server(world: World, **changes: Any) -> Object:
    return world.pod(
        "python3",
        "-c",
        SERVER,
        outside(world.tmp),
        owner="ReplicaSet",
        image="python:3.11",
        ports=[{"name": "http", "containerPort": 8080}],
        env=[{"name": "PORT", "value": "8080"}],
        **changes,
    )


def is_ready(world: World, pod: Object) -> bool:
    conditions = world.status(pod).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def restarts(world: World, pod: Object) -> int:
    return sum(c["restartCount"] for c in world.status(pod).get("containerStatuses") or [])


def answers_otherwise(port: int, before: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/").text != before
    return False


async def test_each_pod_gets_a_port_of_its_own_and_is_ready_when_it_answers(world: World) -> None:
    probe = {"readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1}}
    async with running(world):
        (world.tmp / "ready").write_text("503")
        pods = [server(world, **probe) for _ in range(2)]
        for pod in pods:
            await world.phase(pod, "Running")
            assert not is_ready(world, pod)
        (world.tmp / "ready").unlink()
        ports = set()
        for pod in pods:
            await until(lambda: is_ready(world, pod))  # noqa: B023
            port = world.status(pod)["solo"]["ports"]["8080"]
            assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
            ports.add(port)
        assert len(ports) == 2
        since = world.status(pods[0])["conditions"][0]["lastTransitionTime"]
        (world.tmp / "ready").write_text("500")
        # three failures in a row, a second apart
        await until(lambda: not is_ready(world, pods[0]))
        assert world.status(pods[0])["conditions"][0]["lastTransitionTime"] > since


async def test_a_server_that_crashes_is_restarted_with_backoff(world: World) -> None:
    async with running(world):
        pod = world.pod("sh", "-c", "echo up; sleep 0.1; exit 1", owner="ReplicaSet")
        await until(lambda: restarts(world, pod) == 1)
        await until(
            lambda: world.status(pod)["containerStatuses"][0]["state"] == {"waiting": {"reason": "CrashLoopBackOff"}}
        )
        assert world.status(pod)["phase"] == "Running"
        assert not is_ready(world, pod)
        assert world.log(pod) == "up\nup\n"


async def test_a_failing_init_container_of_a_server_is_tried_again(world: World) -> None:
    script = f"test -e {outside(world.tmp)}/there"
    init = [{"name": "fetch", "image": "x", "command": ["sh", "-c", script]}]
    main = {"name": "main", "image": "x", "command": ["sleep", "100"]}
    async with running(world):
        pod = world.pod(owner="ReplicaSet", spec={"initContainers": init, "containers": [main]})
        await until(lambda: world.status(pod).get("initContainerStatuses"))
        assert world.status(pod)["phase"] == "Pending"
        (world.tmp / "there").touch()
        await until(lambda: is_ready(world, pod))
        assert world.status(pod)["phase"] == "Running"


async def test_a_failing_liveness_probe_restarts_the_container(world: World) -> None:
    probe = {
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
        "livenessProbe": {"httpGet": {"path": "/live", "port": 8080}, "periodSeconds": 1, "failureThreshold": 2},
    }
    async with running(world):
        pod = server(world, **probe)
        await until(lambda: is_ready(world, pod))
        port = world.status(pod)["solo"]["ports"]["8080"]
        first = httpx.get(f"http://127.0.0.1:{port}/").text
        before = restarts(world, pod)
        (world.tmp / "live").write_text("500")
        # once or, before the file is gone again, more often
        await until(lambda: restarts(world, pod) > before)
        (world.tmp / "live").unlink()
        await until(lambda: is_ready(world, pod) and answers_otherwise(port, first))


async def test_probes_that_solo_has_not_are_refused(world: World) -> None:
    async with running(world):
        status = await world.ended(server(world, readinessProbe={"exec": {"command": ["true"]}}))
        assert status["message"] == "container main: readinessProbe: solo has httpGet probes only"
        status = await world.ended(server(world, readinessProbe={"httpGet": {"port": "web"}}))
        assert status["message"] == "container main: no port is named 'web'"
