"""The image table, and images as pods see them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pods.world import World, running

from solo.builder.errors import ImageError
from solo.builder.images import ImageTable, Platform

from .test_build import PYTHON, SERVICE, Builder, service


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def table(tmp_path: Path) -> ImageTable:
    return ImageTable(tmp_path, {"trainyard/pipelines": Platform(("yard",), {"X": "1"})})


def test_what_names_mean(table: ImageTable) -> None:
    for kaniko in (
        "ghcr.io/osscontainertools/kaniko:v1.28.5",
        "gcr.io/kaniko-project/executor:v1",
        "ghcr.io/chainguard-dev/kaniko@sha256:" + "0" * 64,
    ):
        assert table.resolve(kaniko).kind == "builder"
    for platform in ("harbor.example.com:443/trainyard/pipelines@sha256:" + "0" * 64, "trainyard/pipelines:v1"):
        image = table.resolve(platform)
        assert (image.kind, image.entrypoint, image.env["X"]) == ("platform", ("yard",), "1")
        assert image.env["PATH"].startswith(str(Path(sys.executable).parent))
    assert table.resolve("python:3.12-slim").kind == "python"
    assert table.resolve("library/python:3").kind == "python"
    assert table.resolve("busybox").kind == "host"
    assert table.resolve("nottrainyard/pipelines-x").kind == "host"


def test_errors_name_the_image(table: ImageTable) -> None:
    with pytest.raises(ImageError, match=r"image solo\.invalid/acme/digits:1: no such image on this host"):
        table.resolve("solo.invalid/acme/digits:1")
    with pytest.raises(ImageError, match="no image is named"):
        table.resolve("")


def test_the_table_can_be_printed(table: ImageTable) -> None:
    rows = dict(table.rows())
    assert rows["…/trainyard/pipelines"].startswith("this Python environment")
    assert "any other" in rows


@pytest.mark.anyio
async def test_pods_build_an_image_and_run_in_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    builder = Builder.__new__(Builder)
    builder.context = world.tmp / "source"
    service(builder, "import pathlib, tiny\npathlib.Path('mine.txt').touch(exist_ok=False)\nprint(tiny.NAME)\n")
    builder.write(Dockerfile=SERVICE)
    solo = {
        "inputs": {
            "artifacts": [{"name": "source", "path": "/workspace/source", "source": _tree(world, builder.context)}]
        },
        "outputs": {"parameters": [{"name": "image", "path": "/tmp/outputs/image"}]},
    }
    arguments = [
        "--context=dir:///workspace/source",
        "--dockerfile=/workspace/source/Dockerfile",
        "--destination=$(REGISTRY)/acme/digits:abc",
        "--cache=true",
        f"--build-arg=BASE_IMAGE={PYTHON}",
        "--image-name-with-digest-file=/tmp/outputs/image",
    ]
    async with running(world):
        build = world.pod(
            "/kaniko/executor",
            image="ghcr.io/osscontainertools/kaniko:v1.28.5",
            args=arguments,
            env=[{"name": "REGISTRY", "value": "solo.invalid/trainyard"}],
            solo=solo,
        )
        status = await world.ended(build)
        assert status["phase"] == "Succeeded", (status, world.log(build))
        image = status["solo"]["outputs"]["parameters"]["image"]
        assert image.startswith("solo.invalid/trainyard/acme/digits@sha256:")
        # two at once, each with its own copy of /app, by the image's own command
        for pod in [world.pod(image=image, command=[]) for _ in range(2)]:
            assert (await world.ended(pod))["phase"] == "Succeeded", world.log(pod)
            assert world.log(pod) == "tiny\n"
        pod = world.pod("tiny", image=image)
        assert (await world.ended(pod))["phase"] == "Succeeded", world.log(pod)
        assert world.log(pod) == "from script\n"
        pod = world.shell("echo $GREETING; ls /app/data; pip install x", image=image)
        await world.ended(pod)
        assert world.log(pod).splitlines()[:2] == ["hello there", "x.txt"]
        assert "only while an image is built" in world.log(pod)


def _tree(world: World, source: Path) -> dict[str, str]:
    from solo.pods.artifacts import pack

    target = world.objects.root / "scratch/source.tgz"
    target.parent.mkdir(parents=True)
    pack(source, target, "source")
    return {"bucket": "scratch", "key": "source.tgz"}
