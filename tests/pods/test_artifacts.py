"""What a step finds at its input paths, and what is taken from its output paths."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solo.pods.artifacts import pack, unpack

from .world import World, running

pytestmark = pytest.mark.anyio

names = st.text("abcäß. -", min_size=1, max_size=8).filter(lambda name: name.strip(".") != "")
trees = st.recursive(st.binary(max_size=64), lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8)


def write(path: Path, tree: Any) -> None:
    if isinstance(tree, bytes):
        path.write_bytes(tree)
    else:
        path.mkdir()
        for name, inner in tree.items():
            write(path / name, inner)


def read(path: Path) -> Any:
    return path.read_bytes() if path.is_file() else {entry.name: read(entry) for entry in path.iterdir()}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(tree=trees)
def test_what_is_packed_is_unpacked(tree: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("pack")
    write(root / "source", tree)
    pack(root / "source", root / "a.tgz", "source")
    pack(root / "source", root / "b.tgz", "source")
    unpack(root / "a.tgz", root / "deep-target", root / "staging")
    assert read(root / "deep-target") == tree
    assert (root / "a.tgz").read_bytes() == (root / "b.tgz").read_bytes()


def tgz(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b"x" if kind == tarfile.REGTYPE else b""


def put(world: World, key: str, data: bytes) -> dict[str, str]:
    path = world.objects.root / "scratch" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"bucket": "scratch", "key": key}


def output(name: str, path: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "path": path, "bucket": "scratch", "key": f"wf/{name}.tgz", **more}


def artifact(path: str, **more: Any) -> dict[str, Any]:
    return {"artifacts": [output("x", path, **more)]}


def parameter(path: str) -> dict[str, Any]:
    return {"parameters": [{"name": "x", "path": path}]}


async def test_artifacts_go_from_step_to_step(world: World) -> None:
    make = "mkdir -p /outer/inner; cd /outer; echo o > o.txt; echo i > inner/i.txt; echo f > /f.txt; ln -s o.txt l"
    outs = [
        output("dir", "/outer"),
        output("inner", "/outer/inner"),
        output("file", "/f.txt"),
        output("raw", "/f.txt", archive="none"),
    ]
    async with running(world):
        status = await world.ended(world.shell(make, solo={"outputs": {"artifacts": outs}}))
        assert status["phase"] == "Succeeded", status
        assert status["solo"]["outputs"]["artifacts"]["dir"] == {"bucket": "scratch", "key": "wf/dir.tgz"}
        assert (world.objects.root / "scratch/wf/raw.tgz").read_text() == "f\n"
        with tarfile.open(world.objects.root / "scratch/wf/dir.tgz") as tar:
            assert tar.getnames()[0] == "outer"
        inputs = [
            {"name": "dir", "path": "/in/tree", "source": {"bucket": "scratch", "key": "wf/dir.tgz"}},
            {"name": "file", "path": "/x.txt", "source": {"bucket": "scratch", "key": "wf/file.tgz"}, "mode": 0o755},
            {"name": "raw", "path": "/raw.txt", "source": {"raw": {"data": "given"}}},
            {"name": "no", "path": "/no.txt", "optional": True},
        ]
        take = "cat /in/tree/o.txt /in/tree/l /in/tree/inner/i.txt /x.txt /raw.txt; test -x /x.txt; test ! -e /no.txt"
        pod = world.shell(take, solo={"inputs": {"artifacts": inputs}})
        assert (await world.ended(pod))["phase"] == "Succeeded"
        assert world.log(pod) == "o\no\ni\nf\ngiven"


async def test_an_input_is_a_copy(world: World) -> None:
    source = put(world, "plain.txt", b"original")
    inputs = [{"name": "a", "path": "/data/a", "source": source}]
    async with running(world):
        pod = world.shell("echo changed > /data/a", solo={"inputs": {"artifacts": inputs}})
        assert (await world.ended(pod))["phase"] == "Succeeded"
    assert (world.objects.root / "scratch/plain.txt").read_bytes() == b"original"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (member("../evil"), "illegal file path"),
        (member("/evil"), "illegal file path"),
        (member("link", tarfile.SYMTYPE, "../../etc"), "outside"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), "absolute"),
        (member("hard", tarfile.LNKTYPE, "../../x"), "outside"),
        (member("dev", tarfile.CHRTYPE), "illegal file type"),
        (member("fifo", tarfile.FIFOTYPE), "illegal file type"),
    ],
    ids=lambda value: value[0].name if isinstance(value, tuple) else None,
)
async def test_an_archive_that_leaves_its_directory_is_refused(world: World, bad: Any, says: str) -> None:
    inputs = [{"name": "data", "path": "/in/data", "source": put(world, "bad.tgz", tgz(member("ok"), bad))}]
    async with running(world):
        pod = world.shell("echo ran", solo={"inputs": {"artifacts": inputs}})
        status = await world.ended(pod)
        assert status["message"].startswith("init: Error (exit code 64): artifact data failed to load: ")
        assert says in status["message"]
        assert not list(world.home.rglob("evil"))


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({}, "required artifact 'data' not supplied"),
        ({"source": {"bucket": "b", "key": "gone"}}, "artifact data failed to load: no object gone in bucket b"),
    ],
)
async def test_a_missing_input_is_named(world: World, entry: dict[str, Any], says: str) -> None:
    async with running(world):
        pod = world.shell("true", solo={"inputs": {"artifacts": [{"name": "data", "path": "/d", **entry}]}})
        assert (await world.ended(pod))["message"] == f"init: Error (exit code 64): {says}"


@pytest.mark.parametrize(
    ("script", "outputs", "says"),
    [
        ("true", artifact("/out/m"), "output artifact 'x': open /out/m: no such file or directory"),
        ("true", parameter("/p"), "output parameter 'x': open /p: no such file or directory"),
        ("ln -s /etc/passwd /leak", artifact("/leak"), "/leak is a link to /etc/passwd, outside the pod"),
        ("ln -s /etc/passwd /leak", parameter("/leak"), "/leak is a link to /etc/passwd, outside the pod"),
        ("mkdir /d; ln -s /etc /d/e", artifact("/d"), "d/e is a link to /etc, outside of the artifact"),
        ("mkdir /d; mkfifo /d/f", artifact("/d"), "d/f is neither a file"),
        ("mkdir /d", artifact("/d", archive="none"), "is a directory"),
        ("mkdir /d", parameter("/d"), "/d is not a file"),
        ("head -c 262145 /dev/zero > /p", parameter("/p"), "262145 bytes; more than 256 KiB"),
        ("printf '\\377' > /p", parameter("/p"), "/p is not UTF-8"),
    ],
)
async def test_an_unusable_output_fails_the_pod_and_is_named(
    world: World, script: str, outputs: Any, says: str
) -> None:
    async with running(world):
        pod = world.shell(script, solo={"outputs": outputs})
        status = await world.ended(pod)
        assert status["phase"] == "Failed"
        assert status["reason"] == "OutputError"
        assert status["message"].startswith("wait: Error (exit code 64): output ")
        assert says in status["message"]
        assert status["solo"]["outputs"]["exitCode"] == 0


async def test_parameters_lose_one_newline_and_have_defaults(world: World) -> None:
    parameters = [
        {"name": "a", "path": "/tmp/a"},
        {"name": "big", "path": "/tmp/big"},
        {"name": "none", "path": "/tmp/none", "default": "fallback"},
        {"name": "empty", "path": "/tmp/empty"},
    ]
    script = "printf 'x\\n\\n' > /tmp/a; head -c 262144 /dev/zero | tr '\\0' y > /tmp/big; : > /tmp/empty"
    async with running(world):
        status = await world.ended(world.shell(script, solo={"outputs": {"parameters": parameters}}))
        found = status["solo"]["outputs"]["parameters"]
        assert found == {"a": "x\n", "big": "y" * 262144, "none": "fallback", "empty": ""}


async def test_a_failed_step_is_blamed_before_its_missing_outputs_and_its_artifacts_are_kept(world: World) -> None:
    outs = {"artifacts": [output("report", "/tmp/report"), output("model", "/tmp/model")]}
    async with running(world):
        status = await world.ended(world.shell("echo r > /tmp/report; exit 9", solo={"outputs": outs}))
        assert status["message"] == "Error (exit code 9)"
        assert list(status["solo"]["outputs"]["artifacts"]) == ["report"]


async def test_the_first_bad_parameter_ends_the_parameters_as_argoexec_does_it(world: World) -> None:
    names = {"before": "/tmp/there", "bad": "/tmp/missing", "after": "/tmp/there"}
    outs = {"parameters": [{"name": name, "path": path} for name, path in names.items()]}
    async with running(world):
        status = await world.ended(world.shell("echo x > /tmp/there", solo={"outputs": outs}))
        assert status["solo"]["outputs"]["parameters"] == {"before": "x"}
        assert "output parameter 'bad'" in status["message"]


async def test_an_optional_output_may_be_missing(world: World) -> None:
    outs = {"artifacts": [output("extra", "/tmp/extra", optional=True)]}
    async with running(world):
        status = await world.ended(world.shell("true", solo={"outputs": outs}))
        assert (status["phase"], status["solo"]["outputs"]["artifacts"]) == ("Succeeded", {})


async def test_a_full_object_store_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(world.objects, "put_file", full)
    async with running(world):
        status = await world.ended(
            world.shell("echo x > /tmp/x", solo={"outputs": {"artifacts": [output("x", "/tmp/x")]}})
        )
        assert "output artifact 'x': /tmp/x: [Errno 28] No space left on device" in status["message"]
