"""kill -9 of runtime, fork server and shims at any moment: nothing starts twice, nothing is lost, nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from solo.pods.directory import PodDirectory, State, collect
from solo.pods.logs import log_lines
from solo.store import Object

from .test_runtime import processes_of
from .world import World, outside, running, until

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
HARDY = (
    "import os,signal,time\n"
    "if os.fork()==0:\n os.setsid()\n signal.signal(15,1)\n"
    " if os.fork()==0: time.sleep(100)\n"
    "time.sleep(100)"
)


@contextlib.contextmanager
def solo(world: World) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "tests.pods.child", str(world.tmp)], cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def finished(world: World, pods: list[Object]) -> bool:
    return all(world.status(pod).get("phase") in ("Succeeded", "Failed") for pod in pods)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_runtime_killed_at_random_moments_starts_every_pod_exactly_once(world: World, seed: int) -> None:
    rng = random.Random(seed)
    marks = world.tmp / "marks"
    marks.mkdir()
    outputs = {"outputs": {"parameters": [{"name": "n", "path": "/tmp/n"}]}}
    pods = [
        world.shell(f"echo x >> {outside(marks)}/{n}; sleep {rng.random() / 2}; echo {n} > /tmp/n", solo=outputs)
        for n in range(12)
    ]
    for _ in range(8):
        with solo(world):
            time.sleep(0.15 + rng.random() / 2)
        if finished(world, pods):
            break
    with solo(world):
        await until(lambda: finished(world, pods), lambda: str([world.status(pod) for pod in pods]))
    for n, pod in enumerate(pods):
        assert (marks / str(n)).read_text() == "x\n"
        assert world.status(pod)["phase"] == "Succeeded", world.status(pod)
        assert world.status(pod)["solo"]["outputs"]["parameters"] == {"n": str(n)}


async def test_a_pod_outlives_solo_and_is_adopted(world: World) -> None:
    gate = world.tmp / "gate"
    pod = world.shell(f"echo before; while [ ! -e {outside(gate)} ]; do sleep 0.02; done; echo after; exit 4")
    with solo(world):
        await world.phase(pod, "Running")
        await until(lambda: "before" in world.log(pod))
    state, shim = PodDirectory(world.home, pod["metadata"]["uid"]).examine()
    assert state is State.RUNNING
    async with running(world):
        follower = asyncio.create_task(_collect(world, pod))
        await asyncio.sleep(0.1)
        assert PodDirectory(world.home, pod["metadata"]["uid"]).examine() == (State.RUNNING, shim)
        gate.touch()
        assert (await world.ended(pod))["message"] == "Error (exit code 4)"
        assert await follower == ["before", "after"]


async def test_an_adopted_pod_can_be_stopped(world: World) -> None:
    pod = world.shell("sleep 100")
    with solo(world):
        await world.phase(pod, "Running")
    world.stop(pod)
    async with running(world):
        assert (await world.ended(pod))["message"] == "Error (exit code 143)"


async def test_a_pod_that_was_deleted_while_solo_was_dead_is_killed(world: World) -> None:
    pod = world.shell("sleep 100")
    with solo(world):
        await world.phase(pod, "Running")
    world.delete(pod)
    async with running(world):
        await until(lambda: not world.directory(pod).exists())
        assert processes_of(pod["metadata"]["uid"]) == []


async def test_a_pod_that_ended_while_solo_was_dead_is_told_with_its_outputs(world: World) -> None:
    pod = world.shell("sleep 0.3; echo v > /tmp/v", solo={"outputs": {"parameters": [{"name": "v", "path": "/tmp/v"}]}})
    with solo(world):
        await world.phase(pod, "Running")
    await until(lambda: (world.directory(pod) / "exit.json").exists())
    async with running(world):
        status = await world.ended(pod)
        assert status["phase"] == "Succeeded"
        assert status["solo"]["outputs"]["parameters"] == {"v": "v"}


@pytest.mark.parametrize("scrubbed", [False, True], ids=["with its environment", "with an empty environment"])
async def test_a_killed_shim_is_lost_and_leaves_nothing(world: World, scrubbed: bool) -> None:
    command = ["env", "-i", sys.executable, "-c", HARDY] if scrubbed else [sys.executable, "-c", HARDY]
    async with running(world):
        pod = world.pod("sh", "-c", 'echo $$$$; exec "$@"', "sh", *command)
        await world.phase(pod, "Running")
        await until(lambda: world.log(pod))
        main = psutil.Process(int(world.log(pod)))
        await until(lambda: len(main.children(recursive=True)) == 2)
        everything = [main, *main.children(recursive=True)]
        _, shim = PodDirectory(world.home, pod["metadata"]["uid"]).examine()
        assert shim is not None
        os.kill(shim, signal.SIGKILL)
        status = await world.ended(pod)
        assert (status["phase"], status["reason"], status["message"]) == ("Failed", "Lost", "pod deleted")
        await until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in everything))


async def test_a_shim_killed_while_solo_was_dead_is_lost_and_leaves_nothing(world: World) -> None:
    pod = world.pod(sys.executable, "-c", HARDY)
    with solo(world):
        await world.phase(pod, "Running")
        await until(lambda: len(processes_of(pod["metadata"]["uid"])) == 3)
    _, shim = PodDirectory(world.home, pod["metadata"]["uid"]).examine()
    assert shim is not None
    os.kill(shim, signal.SIGKILL)
    async with running(world):
        assert (await world.ended(pod))["reason"] == "Lost"
        assert processes_of(pod["metadata"]["uid"]) == []


@pytest.mark.slow
async def test_fork_server_killed_at_random_moments_starts_every_pod_exactly_once(world: World) -> None:
    rng = random.Random(7)
    marks = world.tmp / "marks"
    marks.mkdir()
    async with running(world):
        pods = []
        for n in range(30):
            pods.append(world.shell(f"echo x >> {outside(marks)}/{n}"))
            if n % 3 == 0:
                await asyncio.sleep(rng.random() / 100)
                with contextlib.suppress(ProcessLookupError, TypeError):
                    os.kill(world.runtime.launcher.pid, signal.SIGKILL)  # type: ignore[arg-type]
        for n, pod in enumerate(pods):
            assert (await world.ended(pod))["phase"] == "Succeeded"
            assert (marks / str(n)).read_text() == "x\n"


async def test_the_fork_server_ends_with_solo(world: World) -> None:
    with solo(world) as process:
        await until(lambda: psutil.Process(process.pid).children())
        server = psutil.Process(process.pid).children()[0]
    await until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


async def test_a_preparation_that_was_cut_off_is_done_again(world: World) -> None:
    pod = world.shell("cat /tmp/left 2>/dev/null; echo ran")
    left = world.directory(pod) / "fs/main/tmp/left"
    left.parent.mkdir(parents=True)
    left.write_text("left over\n")
    (world.directory(pod) / "plan.json").write_text("{")
    async with running(world):
        assert (await world.ended(pod))["phase"] == "Succeeded"
        assert world.log(pod) == "ran\n"


async def test_collect_kills_and_removes_what_nobody_wants(world: World) -> None:
    keep, drop = world.shell("sleep 100"), world.shell("sleep 100")
    with solo(world):
        await world.phase(keep, "Running")
        await world.phase(drop, "Running")
    collect(world.home, {keep["metadata"]["uid"]})
    assert processes_of(drop["metadata"]["uid"]) == []
    assert not world.directory(drop).exists()
    assert processes_of(keep["metadata"]["uid"])
    collect(world.home, set())
    assert processes_of(keep["metadata"]["uid"]) == []


async def _collect(world: World, pod: Object) -> list[str]:
    return [line async for line in log_lines(world.home, pod["metadata"]["uid"], follow=True)]
