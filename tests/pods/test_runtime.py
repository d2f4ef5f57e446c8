"""Pods of the Store as host processes: what they see, what becomes of them, what is written down."""

from __future__ import annotations

import asyncio
import base64
import os
import stat
import time
from pathlib import Path

import psutil
import pytest

from solo.pods.directory import UID_VARIABLE

from .world import World, running, until

pytestmark = pytest.mark.anyio


def processes_of(uid: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(UID_VARIABLE) == uid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


async def test_a_pod_runs_and_its_exit_code_is_told_in_argos_words(world: World) -> None:
    async with running(world):
        good, bad, killed = world.shell("echo out; echo err >&2"), world.shell("exit 3"), world.shell("kill -9 $$$$")
        status = await world.ended(good)
        assert (status["phase"], status["message"]) == ("Succeeded", "")
        assert world.log(good) == "out\nerr\n"
        assert status["solo"]["outputs"]["exitCode"] == 0
        status = await world.ended(bad)
        assert (status["phase"], status["message"]) == ("Failed", "Error (exit code 3)")
        assert status["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
        assert (await world.ended(killed))["message"] == "Error (exit code 137)"


async def test_each_transition_is_written_once(world: World) -> None:
    seen = world.store.subscribe("Pod")
    async with running(world):
        pod = world.shell("sleep 0.3")
        await world.ended(pod)
        phases = [seen.get_nowait().object.get("status", {}).get("phase") for _ in range(seen.qsize())]
    assert phases == [None, "Running", "Succeeded"]


async def test_a_command_that_is_not_there_fails_as_in_argo(world: World) -> None:
    async with running(world):
        status = await world.ended(world.pod("no-such-command", image="trainyard/pipelines"))
        assert status["message"] == (
            'Error (exit code 64): failed to find name in PATH: exec: "no-such-command": '
            "executable file not found in $PATH"
        )
        assert status["solo"]["outputs"]["exitCode"] == 64


async def test_an_image_that_means_nothing_here_is_refused_by_image_and_command(world: World) -> None:
    async with running(world):
        status = await world.ended(world.pod("cowsay-9000", image="acme/cow:1"))
        assert status["phase"] == "Failed"
        assert status["reason"] == "StartError"
        for part in ("acme/cow:1", '"cowsay-9000"', "→ install cowsay-9000"):
            assert part in status["message"]
        assert "no command" in (await world.ended(world.pod(image="acme/cow:1")))["message"]
        missing = await world.ended(world.pod("sh", image="solo.invalid/acme/digits:1"))
        assert "no such image on this host" in missing["message"]


async def test_init_containers_run_first_in_order_and_share_volumes(world: World) -> None:
    mount = [{"name": "shared", "mountPath": "/shared"}]

    def step(name: str, script: str) -> dict[str, object]:
        return {"name": name, "image": "x", "command": ["sh", "-c", script], "volumeMounts": mount}

    spec = {"volumes": [{"name": "shared", "emptyDir": {}}]}
    init = [step("one", "echo one > /shared/a"), step("two", "cat /shared/a; echo two >> /shared/a")]
    async with running(world):
        containers = [step("main", "cat /shared/a")]
        pod = world.pod(spec={**spec, "initContainers": init, "containers": containers})
        assert (await world.ended(pod))["phase"] == "Succeeded"
        assert world.log(pod) == "one\ntwo\n"
        assert world.log(pod, "two") == "one\n"
        failing = [step("fetch", "exit 6"), step("never", "echo ran > /shared/a")]
        pod = world.pod(spec={**spec, "initContainers": failing, "containers": containers})
        status = await world.ended(pod)
        assert status["message"] == "fetch: Error (exit code 6)"
        assert status["solo"]["outputs"]["exitCode"] is None
        assert world.log(pod) == world.log(pod, "never") == ""


async def test_tmp_outputs_of_parallel_pods_do_not_collide(world: World) -> None:
    script = "mkdir -p /tmp/outputs; echo $HOSTNAME >> /tmp/outputs/x; sleep 0.2; cat /tmp/outputs/x"
    solo = {"outputs": {"parameters": [{"name": "x", "path": "/tmp/outputs/x"}]}}
    async with running(world):
        pods = [world.shell(script, solo=solo) for _ in range(5)]
        for pod in pods:
            status = await world.ended(pod)
            assert world.log(pod) == f"{pod['metadata']['name']}\n"
            assert status["solo"]["outputs"]["parameters"] == {"x": pod["metadata"]["name"]}
    assert not Path("/tmp/outputs").exists()


async def test_the_environment_is_minimal_and_private(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    async with running(world):
        pod = world.pod("env")
        await world.ended(pod)
        env = dict(line.split("=", 1) for line in world.log(pod).splitlines())
        assert set(env) == {"HOME", "HOSTNAME", "LANG", "PATH", UID_VARIABLE, "TMPDIR"}
        assert env["HOME"].startswith(str(world.directory(pod)))
        assert stat.S_IMODE(world.directory(pod).stat().st_mode) == 0o700


async def test_declared_environment_is_expanded_as_kubernetes_does(world: World) -> None:
    world.store.create(
        {"kind": "ConfigMap", "metadata": {"name": "endpoints", "namespace": "mlops"}, "data": {"A": "1"}}
    )
    secret = {"s": base64.b64encode(b"hidden").decode()}
    world.store.create({"kind": "Secret", "metadata": {"name": "token", "namespace": "mlops"}, "data": secret})
    env = [
        {"name": "B", "value": "$(A)2 $(NONE) $$(A)"},
        {"name": "C", "valueFrom": {"secretKeyRef": {"name": "token", "key": "s"}}},
        {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "x", "optional": True}}},
        {"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
    ]
    async with running(world):
        pod = world.pod(
            "sh",
            "-c",
            'echo "$B|$C|${D-unset}|$E|$F" "$@"',
            "$(A)",
            "$(A)",
            env=env,
            envFrom=[{"configMapRef": {"name": "endpoints"}}],
            labels={"app": "x"},
        )
        await world.ended(pod)
        assert world.log(pod) == "12 $(NONE) $(A)|hidden|unset|x|mlops 1\n"


async def test_a_pod_waits_for_its_configuration(world: World) -> None:
    env = [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "late", "key": "k"}}}]
    async with running(world):
        pod = world.shell("echo $X", env=env)
        await until(lambda: world.status(pod).get("containerStatuses"))
        waiting = world.status(pod)["containerStatuses"][0]["state"]["waiting"]
        assert waiting == {"reason": "CreateContainerConfigError", "message": 'secret "late" not found'}
        assert world.status(pod)["phase"] == "Pending"
        late = {"kind": "Secret", "metadata": {"name": "late", "namespace": "mlops"}, "stringData": {"other": "x"}}
        world.store.create(late)
        await until(lambda: "couldn't find key k in Secret mlops/late" in world.status(pod)["message"])
        world.store.update({**late, "stringData": {"k": "value"}})
        assert (await world.ended(pod))["phase"] == "Succeeded"
        assert world.log(pod) == "value\n"


async def test_configuration_is_mounted_as_files(world: World) -> None:
    config = {
        "kind": "ConfigMap",
        "metadata": {"name": "c", "namespace": "mlops"},
        "data": {"a.txt": "A", "b.txt": "B"},
    }
    world.store.create(config)
    world.store.create({"kind": "Secret", "metadata": {"name": "s", "namespace": "mlops"}, "stringData": {"key": "K"}})
    volumes = [
        {"name": "c", "configMap": {"name": "c", "items": [{"key": "a.txt", "path": "sub/a"}]}},
        {"name": "all", "configMap": {"name": "c"}},
        {"name": "s", "secret": {"secretName": "s"}},
        {"name": "none", "configMap": {"name": "none", "optional": True}},
    ]
    mounts = [
        {"name": "c", "mountPath": "/config"},
        {"name": "all", "mountPath": "/one/b.txt", "subPath": "b.txt"},
        {"name": "s", "mountPath": "/secret"},
        {"name": "none", "mountPath": "/none"},
    ]
    async with running(world):
        script = "cat /config/sub/a /one/b.txt /secret/key; ls /none; ls /config; stat -c %a /secret/key"
        container = {"name": "main", "image": "x", "command": ["sh", "-c", script], "volumeMounts": mounts}
        pod = world.pod(spec={"volumes": volumes, "containers": [container]})
        assert (await world.ended(pod))["phase"] == "Succeeded", world.log(pod)
        assert world.log(pod) == "ABKsub\n600\n"


async def test_a_mount_below_the_working_directory_is_found_by_a_relative_path(world: World) -> None:
    container = {
        "name": "main",
        "image": "x",
        "command": ["sh", "-c", "echo x > data/f; cat /job/data/f; pwd"],
        "workingDir": "/job",
        "volumeMounts": [{"name": "data", "mountPath": "/job/data"}],
    }
    async with running(world):
        pod = world.pod(spec={"volumes": [{"name": "data", "emptyDir": {}}], "containers": [container]})
        assert (await world.ended(pod))["phase"] == "Succeeded", world.log(pod)
        assert world.log(pod).splitlines()[0] == "x"


async def test_unsupported_volumes_are_refused_by_name(world: World) -> None:
    async with running(world):
        container = {"name": "main", "image": "x", "command": ["true"]}
        volumes = [{"name": "disk", "persistentVolumeClaim": {"claimName": "x"}}]
        status = await world.ended(world.pod(spec={"volumes": volumes, "containers": [container]}))
        assert status["message"].startswith("volume disk: solo has no persistentVolumeClaim")


async def test_a_deadline_ends_a_pod_that_hangs(world: World) -> None:
    async with running(world):
        container = {"name": "main", "image": "x", "command": ["sh", "-c", "trap '' TERM; sleep 100 & wait; sleep 100"]}
        spec = {"activeDeadlineSeconds": 1, "terminationGracePeriodSeconds": 0.2, "containers": [container]}
        pod = world.pod(spec=spec)
        status = await world.ended(pod)
        assert status["message"] == "Pod was active on the node longer than the specified deadline"
        assert status["reason"] == "DeadlineExceeded"
        assert status["solo"]["outputs"]["exitCode"] == 137
        assert processes_of(pod["metadata"]["uid"]) == []


async def test_stop_gives_grace_and_then_kills_everything(world: World) -> None:
    # a grandchild in a session of its own that ignores SIGTERM and has no stdout
    hardy = (
        "import os,signal,time\nif os.fork()==0:\n os.setsid()\n signal.signal(15,1)\n os.fork()\n time.sleep(100)\n"
    )
    async with running(world):
        command = [
            "sh",
            "-c",
            f"trap 'echo bye; exit 5' TERM; python3 -c '{hardy}' >/dev/null 2>&1; echo up; sleep 100 & wait",
        ]
        container = {"name": "main", "image": "python:3.11", "command": command}
        pod = world.pod(spec={"containers": [container]})
        await until(lambda: world.directory(pod).is_dir() and (world.directory(pod) / "main.log").exists())
        await until(lambda: "up" in world.log(pod))
        assert len(processes_of(pod["metadata"]["uid"])) >= 3
        world.stop(pod)
        status = await world.ended(pod)
        assert (status["phase"], status["message"]) == ("Failed", "Error (exit code 5)")
        assert world.log(pod).endswith("bye\n")
        assert processes_of(pod["metadata"]["uid"]) == []


async def test_stop_before_the_start_ends_the_pod(world: World) -> None:
    async with running(world):
        pod = world.shell("true", envFrom=[{"secretRef": {"name": "never"}}])
        await until(lambda: world.status(pod).get("message"))
        world.stop(pod)
        assert (await world.ended(pod))["message"] == "Pod was stopped before it started"


async def test_deleting_a_pod_kills_it_and_removes_its_directory(world: World) -> None:
    async with running(world):
        container = {"name": "main", "image": "x", "command": ["sleep", "100"]}
        pod = world.pod(spec={"containers": [container], "terminationGracePeriodSeconds": 1})
        done = world.shell("true")
        await world.ended(done)
        await world.phase(pod, "Running")
        world.delete(pod)
        world.delete(done)
        await until(lambda: not world.directory(pod).exists() and not world.directory(done).exists())
        assert processes_of(pod["metadata"]["uid"]) == []


async def test_100_mb_of_output_fill_no_disk_and_slow_nobody(world: World) -> None:
    async with running(world):
        loud = world.shell("yes 0123456789abcdef | head -c 100000000; echo the end")
        slowest = 0.0
        while world.status(loud).get("phase") not in ("Succeeded", "Failed"):
            before = time.monotonic()
            await asyncio.sleep(0)
            slowest = max(slowest, time.monotonic() - before)
            await asyncio.sleep(0.005)
        assert world.status(loud)["phase"] == "Succeeded"
        assert slowest < 0.5
        sizes = [path.stat().st_size for path in world.directory(loud).glob("main.log*")]
        assert len(sizes) == 2
        assert max(sizes) <= 5 << 20
        assert world.log(loud).endswith("the end\n")


async def test_the_result_is_stdout_alone(world: World) -> None:
    async with running(world):
        pod = world.shell("echo err >&2; printf 'a\\nb\\n\\n'", solo={"outputs": {"result": True}})
        assert (await world.ended(pod))["solo"]["outputs"]["result"] == "a\nb\n"
        long = world.shell("yes | head -c 1000000", solo={"outputs": {"result": True}})
        assert len((await world.ended(long))["solo"]["outputs"]["result"]) == 256 << 10


async def test_a_background_child_does_not_keep_a_pod_running(world: World) -> None:
    async with running(world):
        pod = world.shell("sleep 100 & echo started")
        started = time.monotonic()
        assert (await world.ended(pod))["phase"] == "Succeeded"
        assert time.monotonic() - started < 10
        assert processes_of(pod["metadata"]["uid"]) == []


async def test_a_broken_pipe_kills_a_writer_as_usual(world: World) -> None:
    async with running(world):
        pod = world.shell("yes | head -1; echo ${PIPESTATUS-}; (yes; echo $? >&2) | head -1")
        await world.ended(pod)
        assert "Broken pipe" not in world.log(pod)


async def test_script_sources_are_led_into_the_pod(world: World) -> None:
    solo = {
        "inputs": {
            "artifacts": [
                {
                    "name": "argo-staging",
                    "path": "/argo/staging/script",
                    "source": {"raw": {"data": "mkdir -p /tmp/o && echo hi > /tmp/o/x && cat /tmp/o/x"}},
                    "mode": 0o755,
                }
            ]
        }
    }
    async with running(world):
        pod = world.pod("sh", "/argo/staging/script", solo=solo)
        await world.ended(pod)
        assert world.log(pod) == "hi\n"
        assert not os.path.exists("/tmp/o/x")  # noqa: PTH110


async def test_a_relative_path_is_refused(world: World) -> None:
    async with running(world):
        status = await world.ended(world.pod("true", workingDir="work"))
        assert status["message"] == "container main: 'work' is not an absolute path"
