"""Registries as they are: with a login, with old and new ways of attaching, and broken."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
import urllib.parse

import pytest
from image_world import ARCHITECTURE, push, tar, wheel

from pipelines import oci
from pipelines.errors import Exit, YardError
from pipelines.steps import _http
from pipelines.steps.sbom import sbom

TYPE = "application/vnd.cyclonedx+json"


def fails(code, words=None):
    return pytest.raises(YardError, match=words, check=lambda error: error.code == code)


# on real registries


def test_what_was_pushed_comes_back(repository):
    image = push(repository, tar(("a", "1")))
    assert repository.manifest("1") == repository.manifest(image.digest) == image
    (layer,) = image.document["layers"]
    assert oci.digest_of(repository.small_blob(layer)) == layer["digest"]


def test_what_is_not_there_is_not_found(repository):
    push(repository, tar(("a", "1")))
    with fails(Exit.NOT_FOUND, "2: not there"):
        repository.manifest("2")
    with fails(Exit.NOT_FOUND):
        repository.manifest("sha256:" + "0" * 64)
    with fails(Exit.NOT_FOUND):
        repository.small_blob({"digest": "sha256:" + "0" * 64, "size": 1})
    assert repository.find("2") is None


def test_files_are_attached_to_an_image_and_found_by_their_type(repository):
    image, other = push(repository, tar(("a", "1"))), push(repository, tar(("b", "1")), tag="2")
    first, second = (repository.attach(image, TYPE, text) for text in (b"{1}", b"{2}"))
    repository.attach(image, "application/x-other", b"{1}")
    assert repository.attach(image, TYPE, b"{1}") == first
    listed = repository.referrers(image.digest, TYPE)
    assert [entry["digest"] for entry in listed] == sorted([first.digest, second.digest])
    assert repository.referrers(other.digest, TYPE) == []
    assert repository.manifest(first.digest).document["subject"]["digest"] == image.digest


def test_the_step_attaches_one_bill_of_materials_however_often_it_runs(hub, repository, name):
    image = push(repository, tar(wheel("numpy", "2.4.0")), tar(wheel("onnx", "1.2")))
    named = f"{hub.env['REGISTRY']}/{name}@{image.digest}"
    first = sbom(image=named)
    assert first == sbom(image=named)
    assert first["components"] == "2"
    (found,) = repository.referrers(image.digest, TYPE)
    assert found["digest"] == first["sbom"]
    document = json.loads(repository.small_blob(repository.manifest(found["digest"]).document["layers"][0]))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert [c["purl"] for c in document["components"]] == ["pkg:pypi/numpy@2.4.0", "pkg:pypi/onnx@1.2"]
    assert document["metadata"]["component"]["version"] == image.digest


def test_of_an_image_for_several_platforms_this_one_counts(hub, repository, name):
    ours, theirs = push(repository, tar(wheel("ours", "1"))), push(repository, tar(wheel("theirs", "1")), tag="2")
    entries = [
        {**image.descriptor, "platform": {"os": "linux", "architecture": architecture}}
        for image, architecture in ((theirs, "riscv64"), (ours, ARCHITECTURE))
    ]
    index = repository.put_manifest({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": entries}, "both")
    assert sbom(image=f"{hub.env['REGISTRY']}/{name}@{index.digest}")["components"] == "1"
    assert len(repository.referrers(index.digest, TYPE)) == 1
    alone = repository.put_manifest({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": entries[:1]}, "alone")
    with fails(Exit.NOT_FOUND, f"nothing for linux/{ARCHITECTURE}"):
        sbom(image=f"{hub.env['REGISTRY']}/{name}@{alone.digest}")


@pytest.mark.parametrize("image", ["digits", "acme/digits:1", "h.example/x@sha256:12", "https://h/x:1", "h.example/x"])
def test_the_step_takes_images_by_digest_only(image):
    with fails(Exit.INVALID):
        sbom(image=image)


# on a registry that does as a test says


@pytest.fixture
def fake(monkeypatch):
    """`answers`: path → (status, headers, body) or what is called with the request; `asked` is what came."""
    monkeypatch.setattr(_http, "PAUSE", 0.001)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            Handler.asked.append((self.path, self.headers.get("Authorization")))
            answer = Handler.answers.get(urllib.parse.urlsplit(self.path).path, (404, {}, b""))
            status, headers, body = answer(self) if callable(answer) else answer
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    Handler.answers, Handler.asked = {}, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True).start()
        Handler.url = f"http://127.0.0.1:{server.server_port}"
        yield Handler
        server.shutdown()


MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": oci.MANIFEST, "layers": []}).encode()
DIGEST = oci.digest_of(MANIFEST)


def test_a_token_is_fetched_with_the_login_and_sent_to_the_registry_alone(fake):
    def guarded(request):
        if request.headers.get("Authorization") == "Bearer t0ken":
            return 200, {"Content-Type": oci.MANIFEST}, MANIFEST
        challenge = f'Bearer realm="{fake.url}/token?a=b",service="hub",scope="repository:acme/x:pull"'
        return 401, {"WWW-Authenticate": challenge}, b""

    fake.answers = {"/v2/acme/x/manifests/1": guarded, "/token": (200, {}, b'{"token": "t0ken"}')}
    repository = oci.Repository(fake.url, "acme/x", "ann:pass:word")
    assert repository.manifest("1").digest == DIGEST
    basic = "Basic " + base64.b64encode(b"ann:pass:word").decode()
    ((path, sent),) = [entry for entry in fake.asked if entry[0].startswith("/token")]
    assert sent == basic
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
    assert query == {"a": ["b"], "service": ["hub"], "scope": ["repository:acme/x:pull,push"]}
    repository.manifest("1")
    assert [sent for path, sent in fake.asked if path.startswith("/v2")] == [None, "Bearer t0ken", "Bearer t0ken"]


def test_without_a_login_a_token_to_pull_is_asked_for(fake):
    fake.answers = {
        "/v2/acme/x/manifests/1": lambda request: (
            (200, {}, MANIFEST)
            if request.headers.get("Authorization")
            else (401, {"WWW-Authenticate": f'Bearer realm="{fake.url}/token"'}, b"")
        ),
        "/token": (200, {}, b'{"access_token": "t"}'),
    }
    assert oci.Repository(fake.url, "acme/x").manifest("1").digest == DIGEST
    assert ("/token?service=&scope=repository%3Aacme%2Fx%3Apull", None) in fake.asked


@pytest.mark.parametrize("challenge", ['Basic realm="x"', "basic"])
def test_a_basic_challenge_gets_the_login(fake, challenge):
    wanted = "Basic " + base64.b64encode(b"ann:pw").decode()
    fake.answers["/v2/acme/x/manifests/1"] = lambda request: (
        (200, {}, MANIFEST)
        if request.headers.get("Authorization") == wanted
        else (401, {"WWW-Authenticate": challenge}, b"")
    )
    assert oci.Repository(fake.url, "acme/x", "ann:pw").manifest("1").digest == DIGEST
    with fails(Exit.INVALID, "Secret registry-push"):
        oci.Repository(fake.url, "acme/x").manifest("1")
    with fails(Exit.INVALID, "registry-push") as error:
        oci.Repository(fake.url, "acme/x", "ann:wrong-pw").manifest("1")
    assert "wrong-pw" not in str(error.value)


def test_a_login_is_not_sent_in_the_clear_because_a_registry_says_so():
    repository = oci.Repository("https://127.0.0.1:1", "acme/x", "ann:pw")
    with fails(Exit.INVALID, "wants the login sent to"):
        repository._token({"realm": "http://elsewhere.example/token"}, "Basic x")


@pytest.mark.parametrize("key", ["hub.example", "https://hub.example", "https://hub.example/v2/"])
def test_a_docker_config_names_the_registry_in_several_ways(tmp_path, key):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {"other": {"auth": "eA=="}, key: {"username": "ann", "password": "pw"}}}))
    assert oci.login(path, "hub.example", "http://10.0.0.1:5000") == "ann:pw"
    assert oci.login(path, "none.example") == ""
    assert oci.login(tmp_path / "missing", "hub.example") == ""


@pytest.mark.parametrize("text", ["s3cret", '{"auths": {"hub": {"auth": "s3cret!"}}}', '{"auths": ["s3cret"]}', "[]"])
def test_a_broken_docker_config_is_named_and_not_quoted(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with fails(Exit.INVALID, "config.json") as error:
        oci.login(tmp_path / "config.json", "hub")
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ((200, {}, b"{}"), Exit.INVALID, "is sha256:"),
        ((200, {}, MANIFEST[:-1]), Exit.INVALID, "is sha256:"),
        ((200, {}, b"<html>"), Exit.INVALID, "is sha256:"),
        ((404, {}, b""), Exit.NOT_FOUND, "not there"),
        ((403, {}, b"denied"), Exit.INVALID, "denied"),
        ((401, {}, b"who?"), Exit.INVALID, "who?"),
        ((400, {}, b"odd"), Exit.INVALID, "odd"),
        ((503, {}, b"later"), Exit.UNAVAILABLE, "later"),
        ((429, {}, b"slow"), Exit.UNAVAILABLE, "slow"),
        ((200, {"Content-Length": "9999"}, MANIFEST), Exit.UNAVAILABLE, None),
    ],
)
def test_a_manifest_that_is_not_the_one_that_was_asked_for(fake, answer, code, words):
    fake.answers[f"/v2/acme/x/manifests/{DIGEST}"] = answer
    with fails(code, words):
        oci.Repository(fake.url, "acme/x").manifest(DIGEST)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"schemaVersion": 1}', b'"x"'])
def test_a_tag_that_leads_to_no_manifest(fake, body):
    fake.answers["/v2/acme/x/manifests/1"] = (200, {}, body)
    with fails(Exit.INVALID, "no manifest"):
        oci.Repository(fake.url, "acme/x").manifest("1")


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"other", {}, Exit.INVALID),
        (b"12345 and more", {}, Exit.INVALID),
        (b"123", {}, Exit.UNAVAILABLE),
        (b"123", {"Content-Length": "5"}, Exit.UNAVAILABLE),
    ],
)
def test_a_blob_that_is_not_what_its_digest_says_is_not_used(fake, body, headers, code):
    digest = "sha256:" + hashlib.sha256(b"12345").hexdigest()
    fake.answers[f"/v2/acme/x/blobs/{digest}"] = (200, headers, body)
    with fails(code):
        oci.Repository(fake.url, "acme/x").small_blob({"digest": digest, "size": 5})


def test_a_layer_that_breaks_off_is_tried_again_and_not_called_broken(fake, monkeypatch):
    layer = tar(wheel("a", "1"), ("big", b"x" * 100_000))
    digest = oci.digest_of(layer)
    image = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": len(layer)}],
    }
    named = oci.digest_of(oci.canonical(image))
    fake.answers[f"/v2/acme/x/manifests/{named}"] = (200, {}, oci.canonical(image))
    fake.answers[f"/v2/acme/x/blobs/{digest}"] = (200, {"Content-Length": str(len(layer))}, layer[:50_000])
    monkeypatch.setenv("REGISTRY", "hub.example/acme")
    monkeypatch.setenv("REGISTRY_URL", fake.url)
    with fails(Exit.UNAVAILABLE, "broke off"):
        sbom(image=f"hub.example/acme/x@{named}")
    fake.answers[f"/v2/acme/x/blobs/{digest}"] = (200, {}, layer.replace(b"Name: a", b"Name: b"))
    with fails(Exit.INVALID, "is sha256:"):
        sbom(image=f"hub.example/acme/x@{named}")


def test_the_login_does_not_follow_a_blob_to_another_host(fake):
    """Harbor on an object store answers with a redirect to it."""
    elsewhere = fake.url.replace("127.0.0.1", "localhost")
    digest = oci.digest_of(b"12345")
    wanted = "Basic " + base64.b64encode(b"ann:pw").decode()
    fake.answers = {
        f"/v2/acme/x/blobs/{digest}": lambda request: (
            (307, {"Location": f"{elsewhere}/store"}, b"")
            if request.headers.get("Authorization") == wanted
            else (401, {"WWW-Authenticate": "Basic"}, b"")
        ),
        "/store": (200, {}, b"12345"),
    }
    assert oci.Repository(fake.url, "acme/x", "ann:pw").small_blob({"digest": digest, "size": 5}) == b"12345"
    assert ("/store", None) in fake.asked
