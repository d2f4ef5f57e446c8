"""Reading logs: while they grow, over rotations, after the end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from solo.pods import shim
from solo.pods.logs import DROPPED, log_lines
from solo.store import Object

from .world import World, running, until

pytestmark = pytest.mark.anyio


async def lines(world: World, pod: Object, **options: object) -> list[str]:
    return [line async for line in log_lines(world.home, pod["metadata"]["uid"], **options)]  # type: ignore[arg-type]


async def test_follow_ends_with_the_pod_and_misses_nothing(world: World) -> None:
    async with running(world):
        pod = world.shell("for i in 1 2 3; do echo $i; sleep 0.15; done; printf end")
        follower = asyncio.create_task(lines(world, pod, follow=True))  # before it has started
        await world.ended(pod)
        assert await follower == ["1", "2", "3", "end"]
        assert await lines(world, pod) == ["1", "2", "3", "end"]
        assert await lines(world, pod, tail=2) == ["3", "end"] or await lines(world, pod, tail=2) == ["2", "3", "end"]


async def test_lines_arrive_while_the_pod_runs(world: World) -> None:
    async with running(world):
        pod = world.shell("echo first; sleep 100")
        await world.phase(pod, "Running")
        async for line in log_lines(world.home, pod["metadata"]["uid"], follow=True):
            assert line == "first"
            break
        await until(lambda: world.status(pod)["phase"] == "Running")


async def test_a_log_that_was_rotated_is_read_as_one(world: World) -> None:
    async with running(world):
        pod = world.shell("seq 1 1000000")  # 6.9 MB: one rotation
        follower = asyncio.create_task(lines(world, pod, follow=True))
        await world.ended(pod)
        expected = [str(n) for n in range(1, 1000001)]
        assert await follower == expected
        assert await lines(world, pod) == expected


async def test_a_reader_that_was_overtaken_is_told(tmp_path: Path) -> None:
    (tmp_path / "pods/u").mkdir(parents=True)
    log = shim.Log(tmp_path / "pods/u/main.log", keep_result=False)
    log.write(b"first\n", stdout=True)
    reader = log_lines(tmp_path, "u", follow=True)
    assert await anext(reader) == "first"
    block = b"x" * 1023 + b"\n"
    for _ in range(3 * shim.LOG_BYTES // 1024):
        log.write(block, stdout=True)
    (tmp_path / "pods/u/exit.json").write_text("{}")
    rest = [line async for line in reader]
    assert DROPPED in rest
    assert shim.LOG_BYTES <= sum(len(line) + 1 for line in rest) <= 3 * shim.LOG_BYTES


async def test_following_a_pod_that_is_deleted_ends(world: World) -> None:
    async with running(world):
        pod = world.shell("echo x; sleep 100")
        await until(lambda: world.directory(pod).exists() and (world.directory(pod) / "main.log").exists())
        await until(lambda: world.log(pod))
        follower = asyncio.create_task(lines(world, pod, follow=True))
        await asyncio.sleep(0.15)
        world.delete(pod)
        assert await follower == ["x"]


async def test_following_a_pod_that_could_not_start_ends(world: World) -> None:
    async with running(world):
        pod = world.pod("no-such-command-anywhere")
        assert await lines(world, pod, follow=True) == []


async def test_a_pod_without_a_log_has_no_lines(world: World) -> None:
    assert [line async for line in log_lines(world.home, "nobody")] == []
