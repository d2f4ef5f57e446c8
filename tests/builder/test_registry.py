"""Images that solo built, as a registry gives them: real OCI images, whatever they were made of."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from storage_server import serve

from pipelines import oci
from pipelines.sbom import Contents
from solo.builder import layers
from solo.builder.layers import Entry
from solo.builder.registry import Registry

from .test_build import PYTHON, SERVICE, Builder, service

LOGIN = "ann:s3cret"


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


@pytest.fixture
def url(builder: Builder) -> Iterator[str]:
    with serve(Starlette(routes=Registry(builder.store, "solo.invalid", LOGIN).routes())) as url:
        yield url


def ask(url: str, method: str = "GET", data: bytes | None = None, login: str = LOGIN) -> tuple[int, Any, bytes]:
    headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()} if login else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=10) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def code(answer: tuple[int, Any, bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[2])["errors"][0]["code"]


def test_a_built_image_can_be_pulled_and_is_what_runs(builder: Builder, url: str) -> None:
    service(builder)
    digest = builder.build(SERVICE)
    repository = oci.Repository(url, "acme/digits", LOGIN)
    manifest = repository.manifest(digest)
    assert repository.manifest("1") == manifest
    config = json.loads(repository.small_blob(manifest.document["config"]))
    assert config["config"]["Cmd"] == ["python", "main.py"]
    assert "GREETING=hello there" in config["config"]["Env"]
    assert config["config"]["ExposedPorts"] == {"8080/tcp": {}}
    found: dict[str, bytes | None] = {}
    contents = Contents()
    for layer, diff_id in zip(manifest.document["layers"], config["rootfs"]["diff_ids"], strict=True):
        assert layer["digest"] == diff_id
        data = repository.small_blob(layer)  # its digest and size are checked there
        contents.add(io.BytesIO(data), layer["mediaType"])
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                found[member.name] = file.read() if file else None
    root = builder.root(digest)
    assert found["app/main.py"] == (root / "app/main.py").read_bytes()
    for name, content in found.items():
        assert content is None or (root / name).read_bytes() == content, name
    assert [(p.name, p.version) for p in contents.packages(print)] == [("tiny", "1.0")]


def test_what_a_layer_takes_away_is_a_whiteout_in_its_archive(builder: Builder, url: str) -> None:
    digest = builder.build(
        f"FROM {PYTHON}\nRUN mkdir -p /d/e && touch /d/e/f /d/g /keep\n"
        "RUN rm -r /d/e && rm /d/g && mkdir /d/g && touch /d/g/h && rm /keep && ln -s d /keep\n"
    )
    repository = oci.Repository(url, "acme/digits", LOGIN)
    data = repository.small_blob(repository.manifest(digest).document["layers"][1])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert {(member.name, member.type) for member in archive} == {
            ("d/.wh.e", tarfile.REGTYPE),
            ("d/g", tarfile.DIRTYPE),
            ("d/g/h", tarfile.REGTYPE),
            ("keep", tarfile.SYMTYPE),
        }


@pytest.mark.parametrize("name", ["plain", "a" * 99, "a" * 100, "a" * 150, "d/" * 60 + "x", "é", "\udcff"])
@pytest.mark.parametrize("kind", ["f", "d", "l"])
def test_headers_are_those_of_tarfile(tmp_path: Path, name: str, kind: str) -> None:
    entry = Entry(name, kind, 0o755, "target" if kind == "l" else "", 3 if kind == "f" else 0)
    if kind == "f":
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"abc")
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime, info.size = layers.TYPES[kind], 0o755, layers.FILE_TIME, entry.size
    info.linkname = entry.content
    head = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    data = b"".join(layers.stream(tmp_path, [entry]))
    assert data.startswith(head)
    assert (hashlib.sha256(data).hexdigest(), len(data)) == layers.describe(tmp_path, [entry])
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
        assert [member.name for member in archive] == [name]


@pytest.mark.parametrize("login", ["", "ann:wrong", "bob:s3cret"])
def test_nobody_enters_without_the_login(builder: Builder, url: str, login: str) -> None:
    builder.build(f"FROM {PYTHON}\nRUN touch /x\n")
    for method, path in (("GET", ""), ("GET", "acme/digits/manifests/1"), ("POST", "acme/digits/blobs/uploads/")):
        answer = ask(f"{url}/v2/{path}", method, login=login)
        assert code(answer) == (401, "UNAUTHORIZED")
        assert answer[1]["WWW-Authenticate"].startswith("Basic ")


def test_a_blob_may_come_in_pieces_and_must_be_what_its_digest_says(builder: Builder, url: str) -> None:
    digest = "sha256:" + hashlib.sha256(b"one two").hexdigest()
    start = f"{url}/v2/acme/x/blobs/uploads/"
    place = url + ask(start, "POST")[1]["Location"]
    for piece in (b"one ", b"two"):
        assert ask(place, "PATCH", piece)[0] == 202
    assert ask(f"{place}?digest={digest}", "PUT")[0] == 201
    assert code(ask(f"{place}?digest={digest}", "PUT")) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert ask(f"{url}/v2/acme/x/blobs/{digest}")[2] == b"one two"
    place = url + ask(start, "POST")[1]["Location"]
    assert code(ask(f"{place}?digest={digest}", "PUT", b"other")) == (400, "DIGEST_INVALID")
    other = "sha256:" + hashlib.sha256(b"other").hexdigest()
    assert code(ask(f"{url}/v2/acme/x/blobs/{other}")) == (404, "BLOB_UNKNOWN")
    assert ask(f"{start}?digest={other}", "POST", b"other")[0] == 201
    assert list((builder.store.root / "uploads").iterdir()) == []


def test_a_manifest_must_be_one_and_what_it_names_must_be_there(url: str) -> None:
    missing = {"digest": "sha256:" + "0" * 64, "size": 1, "mediaType": "x"}
    image = {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": missing, "layers": []}
    place = f"{url}/v2/acme/x/manifests/1"
    assert code(ask(place, "PUT", json.dumps(image).encode())) == (400, "MANIFEST_BLOB_UNKNOWN")
    for body in (b"", b"[]", b'{"schemaVersion": 1}', b'{"schemaVersion": 2, "config": {}, "layers": []}'):
        assert code(ask(place, "PUT", body))[0] == 400
    assert code(ask(place, "PUT", b" " * (5 << 20))) == (413, "SIZE_INVALID")
    index = json.dumps({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": []}).encode()
    assert code(ask(f"{url}/v2/acme/x/manifests/sha256:{'0' * 64}", "PUT", index)) == (400, "DIGEST_INVALID")
    assert ask(place, "PUT", index)[0] == 201
    assert ask(place)[2] == index
    assert code(ask(f"{url}/v2/acme/y/manifests/1")) == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "acme/x/manifests/1"),
        ("GET", "acme/x/tags/list"),
        ("GET", "_catalog"),
        ("GET", "acme/../x/manifests/1"),
        ("PUT", "acme/x/blobs/uploads/../../tags/x?digest=sha256:" + "0" * 64),
    ],
)
def test_what_the_registry_does_not_do_is_named(url: str, method: str, path: str) -> None:
    assert code(ask(f"{url}/v2/{path}", method)) == (405, "UNSUPPORTED")


def test_a_pushed_tag_is_no_image_to_run(builder: Builder, url: str) -> None:
    digest = builder.build(f"FROM {PYTHON}\nRUN touch /x\n")
    repository = oci.Repository(url, "acme/digits", LOGIN)
    attached = repository.attach(repository.manifest(digest), "application/x-thing", b"thing")
    repository.put_manifest(attached.document, "thing")
    assert builder.store.find("solo.invalid/acme/digits:thing") is None
    assert [name for name, _ in builder.store.references()] == ["solo.invalid/acme/digits:1"]
    assert repository.referrers(digest, "application/x-thing")[0]["digest"] == attached.digest
    assert repository.referrers(digest, "application/x-other") == []
