"""Images made by hand, and the registries that they are pushed to: solo's, and Debian's `docker-registry`."""

from __future__ import annotations

import base64
import gzip
import io
import json
import platform
import shutil
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from storage_server import serve

from pipelines import oci

REGISTRIES = ("solo", "docker-registry")
LAYER = "application/vnd.oci.image.layer.v1.tar"
ARCHITECTURE = oci.ARCHITECTURES.get(platform.machine(), platform.machine())


class Registry(NamedTuple):
    """A registry that runs: `env` is what a step gets of it."""

    kind: str
    url: str
    env: dict[str, str]

    def image(self, reference: str, name: str = "acme/digits") -> oci.Image:
        mark = "@" if reference.startswith("sha256:") else ":"
        return oci.parse(f"{self.env['REGISTRY']}/{name}{mark}{reference}")

    def repository(self, name: str = "acme/digits") -> oci.Repository:
        return oci.open_repository(self.image("x", name), self.env)


@contextmanager
def registry(kind: str, folder: Path) -> Iterator[Registry]:
    with _solo(folder) if kind == "solo" else _debian(folder) as found:
        yield found


@contextmanager
def _solo(folder: Path) -> Iterator[Registry]:
    from starlette.applications import Starlette

    from solo.builder.registry import Registry as SoloRegistry
    from solo.builder.store import ImageStore

    config = {"auths": {"solo.invalid": {"auth": base64.b64encode(b"ann:s3cret").decode()}}}
    (folder / "config.json").write_text(json.dumps(config))
    app = Starlette(routes=SoloRegistry(ImageStore(folder / "images"), "solo.invalid", "ann:s3cret").routes())
    with serve(app) as url:
        env = {"REGISTRY": "solo.invalid/trainyard", "REGISTRY_URL": url, "REGISTRY_AUTH": str(folder / "config.json")}
        yield Registry("solo", url, env)


@contextmanager
def _debian(folder: Path) -> Iterator[Registry]:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is missing: install Debian's package of that name")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address},
        "log": {"level": "error", "accesslog": {"disabled": True}},
    }
    (folder / "config.yml").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not _answers(f"http://{address}/v2/"):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield Registry(
            "docker-registry",
            f"http://{address}",
            {"REGISTRY": f"{address}/trainyard", "REGISTRY_URL": f"http://{address}"},
        )
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def tar(*members: tuple[str, str | bytes | None], links: tuple[tuple[str, str, bytes], ...] = ()) -> bytes:
    """A layer: (name, content) is a file, (name, None) a directory; `links`: (name, target, tarfile's type)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
                continue
            data = content.encode() if isinstance(content, str) else content
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target, kind in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return buffer.getvalue()


def wheel(name: str, version: str, more: str = "", where: str = "usr/lib/python3/site-packages") -> tuple[str, str]:
    """An installed distribution, as a member of a layer."""
    text = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{more}\nA description\n"
    return f"{where}/{name.replace('-', '_')}-{version}.dist-info/METADATA", text


def push(
    repository: oci.Repository, *layers: bytes, tag: str = "1", zipped: bool = True, media_type: str = LAYER
) -> oci.Manifest:
    """Push an image of these layers, as Kaniko does."""
    blobs = [gzip.compress(layer, mtime=0) if zipped else layer for layer in layers]
    kind = media_type + ("+gzip" if zipped else "")
    config = {"architecture": ARCHITECTURE, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}}
    return repository.put_manifest(
        {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST,
            "config": repository.put_blob(oci.canonical(config), oci.CONFIG),
            "layers": [repository.put_blob(blob, kind) for blob in blobs],
        },
        tag,
    )
