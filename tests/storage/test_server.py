"""The HTTP side beyond what the client would ever ask: tokens, refusals, malformed and broken requests."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from google.api_core import exceptions
from storage_server import storage_server as serve_home

from solo.storage import CLOSED, app
from solo.storage.__main__ import main
from solo.storage.parse import select

QUARTER = 256 * 1024


@pytest.fixture
def http(storage_server):
    with httpx.Client(base_url=storage_server.url) as client:
        yield client


def bearer(token):
    return {"authorization": f"Bearer {token}"}


# -- tokens


def test_tokens(storage_server, bucket, http):
    storage_server.tokens[bucket] = {"write": {"w"}, "read": {"r"}}
    storage_server.tokens["other"] = {"write": {"stranger"}, "read": set()}
    url = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name=x"
    read = f"/storage/v1/b/{bucket}/o/x"
    answers = {
        who: (http.post(url, content=b"data", headers=headers), http.get(read, headers=headers))
        for who, headers in {
            "w": bearer("w"),
            "r": bearer("r"),
            "stranger": bearer("stranger"),
            "wrong": bearer("wrong"),
            "basic": {"authorization": "Basic dw=="},
            "nobody": {},
        }.items()
    }
    assert {who: (put.status_code, get.status_code) for who, (put, get) in answers.items()} == {
        "w": (200, 200),
        "r": (403, 200),
        "stranger": (403, 403),
        "wrong": (401, 401),
        "basic": (401, 401),
        "nobody": (401, 401),
    }
    assert answers["wrong"][0].json()["error"]["message"] == "Invalid Credentials"
    assert (
        answers["nobody"][1]
        .json()["error"]["message"]
        .startswith("Anonymous caller does not have storage.objects.get access")
    )
    assert answers["r"][0].json()["error"]["errors"][0]["reason"] == "forbidden"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/storage/v1/b/{}"),
        ("GET", "/storage/v1/b/{}/o"),
        ("GET", "/storage/v1/b/{}/o/x"),
        ("PATCH", "/storage/v1/b/{}/o/x"),
        ("DELETE", "/storage/v1/b/{}/o/x"),
        ("GET", "/download/storage/v1/b/{}/o/x?alt=media"),
        ("POST", "/upload/storage/v1/b/{}/o?uploadType=media&name=x"),
        ("POST", "/upload/storage/v1/b/{}/o?uploadType=multipart"),
        ("POST", "/upload/storage/v1/b/{}/o?uploadType=resumable&name=x"),
        ("PUT", "/upload/storage/v1/b/{}/o?upload_id=x"),
        ("POST", "/storage/v1/b/{}/o/x/copyTo/b/open/o/x"),
        ("POST", "/storage/v1/b/open/o/x/copyTo/b/{}/o/x"),
        ("POST", "/storage/v1/b/open/o/x/rewriteTo/b/{}/o/x"),
    ],
)
def test_every_way_to_a_closed_bucket_is_closed(storage_server, bucket, http, method, path):
    storage_server.tokens[bucket] = CLOSED
    storage_server.storage.put(bucket, "x", b"")
    answer = http.request(method, path.format(bucket), headers=bearer("x"))
    assert (answer.status_code, f"Bucket {bucket} is closed over HTTP." in answer.text) == (403, True)


def test_buckets_one_may_not_read_are_not_listed(storage_server, bucket, http):
    storage_server.tokens[bucket] = {"write": {"w"}, "read": set()}
    names = [[item["name"] for item in http.get("/storage/v1/b", headers=h).json()["items"]] for h in ({}, bearer("w"))]
    assert [bucket in found for found in names] == [False, True]


def test_a_refused_upload_is_told_why_and_not_cut(storage_server, bucket):
    storage_server.tokens[bucket] = {"write": {"w"}, "read": {"r"}}
    blob = storage_server.client("r").bucket(bucket).blob("x", chunk_size=QUARTER * 20)
    with pytest.raises(exceptions.Forbidden, match=r"storage\.objects\.create"):
        blob.upload_from_string(os.urandom(5 << 20))


def test_buckets_over_http(storage_server, http):
    client = storage_server.client()
    created = client.create_bucket("made-over-http")
    assert client.get_bucket("made-over-http").time_created == created.time_created
    assert "made-over-http" in [found.name for found in client.list_buckets()]
    with pytest.raises(exceptions.Conflict):
        client.create_bucket("made-over-http")
    storage_server.tokens["guarded"] = {"write": {"w"}, "read": set()}
    storage_server.tokens["other"] = {"write": {"o"}, "read": set()}
    with pytest.raises(exceptions.Forbidden):
        storage_server.client("o").create_bucket("guarded")


# -- refusals


@pytest.mark.parametrize(
    ("method", "path", "named"),
    [
        ("GET", "/storage/v1/b/{}/o?matchGlob=*", "matchGlob"),
        ("GET", "/storage/v1/b/{}/o?versions=true", "versions"),
        ("GET", "/storage/v1/b/{}/o/x?userProject=p", "userProject"),
        ("GET", "/storage/v1/b/{}/o/x?projection=other", "projection='other'"),
        ("GET", "/storage/v1/b/{}/iam", "GET /storage/v1/b/"),
        ("DELETE", "/storage/v1/b/{}", "DELETE /storage/v1/b/"),
        ("PUT", "/storage/v1/b/{}/o/x", "PUT /storage/v1/b/"),
        ("POST", "/storage/v1/b/{}/o/x/compose", "/compose"),
        ("POST", "/upload/storage/v1/b/{}/o?uploadType=other&name=x", "uploadType 'other'"),
        ("POST", "/upload/storage/v1/b/{}/o?uploadType=media&name=x&kmsKeyName=k", "kmsKeyName"),
        ("GET", "/download/storage/v1/b/{}/o/x?alt=json", "alt=media"),
        ("POST", "/batch/storage/v1", "/batch/storage/v1"),
        ("HEAD", "/storage/v1/b/{}/o/x", ""),
        ("GET", "/", "GET /"),
    ],
)
def test_what_is_not_there_is_refused_by_name(storage_server, bucket, http, method, path, named):
    storage_server.storage.put(bucket, "x", b"")
    answer = http.request(method, path.format(bucket))
    assert answer.status_code == 501
    assert named in answer.text


@pytest.mark.parametrize("header", ["If-Match", "If-None-Match", "Content-MD5", "X-Goog-Encryption-Algorithm"])
def test_headers_that_nobody_reads_are_refused(bucket, http, header):
    answer = http.post(f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name=x", headers={header: "x"}, content=b"")
    assert (answer.status_code, header.lower() in answer.text) == (501, True)


@pytest.mark.parametrize("field", ["acl", "storageClass", "contentEncoding", "temporaryHold", "nonsense"])
def test_fields_that_nobody_keeps_are_refused(storage_server, bucket, http, field):
    storage_server.storage.put(bucket, "x", b"")
    patched = http.patch(f"/storage/v1/b/{bucket}/o/x", json={field: "gzip"})
    started = http.post(f"/upload/storage/v1/b/{bucket}/o?uploadType=resumable&name=y", json={field: "gzip"})
    copied = http.post(f"/storage/v1/b/{bucket}/o/x/copyTo/b/{bucket}/o/y", json={field: "gzip"})
    for answer in (patched, started, copied):
        assert (answer.status_code, field in answer.text) == (501, True)


# -- malformed


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain", b""),
        ("multipart/related; boundary=b", b""),
        ("multipart/related; boundary=b", b"--b\r\n\r\n{}\r\n--b\r\n\r\ndata"),
        ("multipart/related; boundary=b", b"--b\r\n\r\n{\r\n--b\r\n\r\ndata\r\n--b--"),
        ("multipart/related; boundary=b", b"--b\r\n\r\n[]\r\n--b\r\n\r\ndata\r\n--b--"),
        ("multipart/related; boundary=b", b'--b\r\n\r\n{"name": "x"}\r\n--c\r\n\r\ndata\r\n--b--'),
        ("multipart/related; boundary=b", b'--b\r\n\r\n{"name": "x", "bucket": "y"}\r\n--b\r\n\r\ndata\r\n--b--'),
        ("multipart/related; boundary=b", b'--b\r\n\r\n{"name": "x", "metadata": 1}\r\n--b\r\n\r\ndata\r\n--b--'),
        ("multipart/related; boundary=b", b"--b\r\n\r\n{}\r\n--b\r\n\r\nno name\r\n--b--"),
        ("multipart/related; boundary=b", b" " * (2 << 20)),
    ],
)
def test_malformed_uploads_are_refused_and_leave_nothing(storage_server, bucket, http, content_type, body):
    url = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
    answer = http.post(url, content=body, headers={"content-type": content_type})
    assert answer.status_code == 400
    assert answer.json()["error"]["errors"][0]["reason"] == "invalid"
    assert storage_server.storage.list(bucket).objects == []
    assert list(storage_server.storage.temporary.iterdir()) == []


def test_a_multipart_body_may_end_with_a_line_break_and_come_in_any_pieces(storage_server, bucket, http):
    first = b'--b\r\nContent-Type: application/json\r\n\r\n{"name": "x"}\r\n'
    body = first + b"--b\r\nContent-Type: text/css\r\n\r\nda\r\nta\r\n--b--\r\n"
    url = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
    answer = http.post(
        url, content=(bytes([byte]) for byte in body), headers={"content-type": 'multipart/related; boundary="b"'}
    )
    assert (answer.json()["size"], answer.json()["contentType"]) == ("6", "text/css")
    assert storage_server.storage.read(bucket, "x") == b"da\r\nta"


@pytest.mark.parametrize(
    "query", ["ifGenerationMatch=x", "ifGenerationMatch=-1", "ifGenerationMatch=1&ifGenerationMatch=2"]
)
def test_malformed_conditions_are_refused(storage_server, bucket, http, query):
    assert http.post(f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name=x&{query}").status_code == 400
    assert storage_server.storage.list(bucket).objects == []


def test_a_malformed_page_token(bucket, http):
    for token in ("a", "____", "ü"):
        assert http.get(f"/storage/v1/b/{bucket}/o", params={"pageToken": token}).status_code == 400


def test_a_connection_that_breaks_in_the_middle_leaves_nothing(storage_server, bucket):
    host, port = storage_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        head = f"POST /upload/storage/v1/b/{bucket}/o?uploadType=media&name=x HTTP/1.1\r\nHost: x\r\n"
        sock.sendall(f"{head}Content-Length: 100\r\n\r\nhalf".encode())
    deadline = time.monotonic() + 10
    while storage_server.faults.requests == [] or list(storage_server.storage.temporary.iterdir()):
        assert time.monotonic() < deadline
    assert storage_server.storage.list(bucket).objects == []


def test_an_internal_error_is_told_without_its_insides(storage_server, bucket, http):
    storage_server.storage.put(bucket, "x", b"data")
    storage_server.storage.open_blob(bucket, "x").unlink()
    answer = http.get(f"/storage/v1/b/{bucket}/o/x?alt=media")
    assert (answer.status_code, answer.text) == (500, f"The bytes of {bucket}/x are missing from the disk.")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("a", {"a": 1}),
        ("a,b/c", {"a": 1, "b": {"c": 2}}),
        ("b(c,d),x", {"b": {"c": 2, "d": 3}}),
        ("items(n,m/x)", {"items": [{"n": 1, "m": {"x": 1}}, {"n": 2}]}),
        ("items/n", {"items": [{"n": 1}, {"n": 2}]}),
        ("*", ...),
    ],
)
def test_partial_responses(fields, expected):
    document = {"a": 1, "b": {"c": 2, "d": 3}, "items": [{"n": 1, "m": {"x": 1, "y": 2}}, {"n": 2}]}
    assert select(document, fields) == (document if expected is ... else expected)


@pytest.mark.parametrize("fields", ["(", "a(", "a)", "a(b", ",", "a,,b"])
def test_malformed_selections(bucket, http, fields):
    assert http.get(f"/storage/v1/b/{bucket}/o", params={"fields": fields}).status_code == 400


# -- resumable uploads


def begin(http, bucket, name="x", **query):
    answer = http.post(
        f"/upload/storage/v1/b/{bucket}/o", params={"uploadType": "resumable", "name": name, **query}, json={}
    )
    assert answer.status_code == 200
    return answer.headers["location"]


def put(http, location, data, span, **headers):
    return http.put(location, content=data, headers={"content-range": f"bytes {span}", **headers})


def test_a_session_outlives_the_server(tmp_path):
    data = os.urandom(QUARTER * 2 + 5)
    with serve_home(tmp_path) as server, httpx.Client(base_url=server.url) as http:
        server.storage.create_bucket("bucket")
        path = begin(http, "bucket").removeprefix(server.url)
        assert (
            put(http, path, data[:QUARTER], f"0-{QUARTER - 1}/{len(data)}").headers["range"] == f"bytes=0-{QUARTER - 1}"
        )
    with serve_home(tmp_path) as server, httpx.Client(base_url=server.url) as http:
        status = put(http, path, b"", "*/*")
        assert (status.status_code, status.headers["range"]) == (308, f"bytes=0-{QUARTER - 1}")
        done = put(http, path, data[QUARTER:], f"{QUARTER}-{len(data) - 1}/{len(data)}")
        assert done.status_code == 200
        assert server.storage.read("bucket", "x") == data
    with serve_home(tmp_path) as server, httpx.Client(base_url=server.url) as http:
        assert put(http, path, b"", "*/*").json()["generation"] == done.json()["generation"]


def test_the_end_of_an_upload_can_be_said_twice(storage_server, bucket, http):
    location = begin(http, bucket, ifGenerationMatch=0)
    first = put(http, location, b"data", "0-3/4")
    again = put(http, location, b"data", "0-3/4")
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert not (storage_server.storage.partial / location.rpartition("upload_id=")[2]).exists()


def test_bytes_that_are_there_are_not_written_twice(storage_server, bucket, http):
    data = os.urandom(QUARTER * 2)
    location = begin(http, bucket)
    put(http, location, data[:QUARTER], f"0-{QUARTER - 1}/*")
    assert put(http, location, b"?" * QUARTER + data[QUARTER:], f"0-{2 * QUARTER - 1}/{2 * QUARTER}").status_code == 200
    assert storage_server.storage.read(bucket, "x") == data


@pytest.mark.parametrize(
    ("size", "span", "words"),
    [
        (QUARTER, f"1-{QUARTER}/*", "exceeds already uploaded size of 0"),
        (100, "0-99/*", "required to be equal or greater than 262144"),
        (100, "0-99/200", "required to be equal or greater than 262144"),
        (100, "0-199/200", "the body ends at 99"),
        (0, "5-4/9", "empty or beyond the total"),
        (10, "0-9/5", "empty or beyond the total"),
        (0, "nonsense", "Failed to parse Content-Range"),
        (0, "*", "Failed to parse Content-Range"),
    ],
)
def test_chunks_that_do_not_fit(storage_server, bucket, http, size, span, words):
    location = begin(http, bucket)
    answer = put(http, location, b"x" * size, span)
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (400, True)
    assert put(http, location, b"good", "0-3/4").status_code == 200
    assert storage_server.storage.read(bucket, "x") == b"good"


def test_a_total_that_changes(bucket, http):
    answer = http.post(
        f"/upload/storage/v1/b/{bucket}/o?uploadType=resumable&name=x", headers={"x-upload-content-length": "4"}
    )
    assert put(http, answer.headers["location"], b"12345", "0-4/5").status_code == 400
    assert put(http, answer.headers["location"], b"1234", "0-3/4").status_code == 200


def test_a_digest_at_the_end(storage_server, bucket, http):
    location = begin(http, bucket)
    answer = put(http, location, b"data", "0-3/4", **{"x-goog-hash": "crc32c=AAAAAA=="})
    assert (answer.status_code, "doesn't match calculated CRC32C" in answer.text) == (400, True)
    assert storage_server.storage.list(bucket).objects == []


def test_conditions_hold_at_the_end_as_well(storage_server, bucket, http):
    location = begin(http, bucket, ifGenerationMatch=0)
    storage_server.storage.put(bucket, "x", b"faster")
    assert put(http, location, b"late", "0-3/4").status_code == 412
    assert storage_server.storage.read(bucket, "x") == b"faster"


def test_sessions_that_are_none(bucket, http):
    assert http.put(f"/upload/storage/v1/b/{bucket}/o?upload_id=nope").status_code == 404


@pytest.mark.parametrize("kind", ["lost", "after", "before"])
@pytest.mark.parametrize("skip", [0, 1, 2])
def test_the_client_finds_its_way_through_a_broken_upload(storage_server, bucket, kind, skip):
    data = os.urandom(QUARTER * 2 + 100)
    fault = storage_server.faults.order(kind, "PUT", "/upload/", skip=skip)
    blob = storage_server.client().bucket(bucket).blob("x", chunk_size=QUARTER)
    blob.upload_from_file(io.BytesIO(data), if_generation_match=0)
    assert fault.hits == 1
    assert storage_server.storage.read(bucket, "x") == data


# -- the program


def run(*arguments):
    return [sys.executable, "-m", "solo.storage", *map(str, arguments)]


def test_the_program_serves_and_stops(tmp_path):
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({"guarded": {"write": ["w"], "read": []}}))
    words = run(
        "--home", tmp_path / "home", "--port", 0, "--bucket", "guarded", "--bucket", "other", "--tokens", tokens
    )
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as program:
        url = program.stdout.readline().split()[-1]
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}/storage/v1/b/guarded/o").status_code == 401
        assert httpx.get(f"{url}/storage/v1/b/guarded/o", headers=bearer("w")).status_code == 200
        assert httpx.get(f"{url}/storage/v1/b/other/o").status_code == 200
        program.terminate()
        assert program.wait(10) in (0, -15)


def test_on_a_network_only_a_bucket_that_is_said_to_be_open_is_open(tmp_path):
    tokens = tmp_path / "tokens.json"
    tokens.write_text('{"guarded": {"write": ["w"], "read": []}, "scratch": "open"}')
    buckets = [word for name in ("guarded", "scratch", "other") for word in ("--bucket", name)]
    # 127.0.0.2 is not among the addresses that the program takes for its own machine's
    words = run("--home", tmp_path / "home", "--port", 0, "--host", "127.0.0.2", *buckets, "--tokens", tokens)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as program:
        url = program.stdout.readline().split()[-1]
        upload = f"{url}/upload/storage/v1/b/{{}}/o?uploadType=media&name=x"
        told = {name: httpx.post(upload.format(name), content=b"data").status_code for name in buckets[1::2]}
        assert told == {"guarded": 401, "scratch": 200, "other": 403}
        assert httpx.get(f"{url}/scratch/x").content == b"data"
        program.terminate()
        assert program.wait(10) in (0, -15)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"b": []}', '{"b": "closed"}', '{"b": {"write": ["w"]}}', '{"b": {"write": [""], "read": []}}']
)
def test_the_program_refuses_a_file_of_tokens_that_is_none(tmp_path, text):
    (tmp_path / "tokens").write_text(text)
    words = run("--home", tmp_path / "home", "--port", 0, "--tokens", tmp_path / "tokens")
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert str(tmp_path / "tokens") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_home_that_is_not_writable_is_told_with_the_user_it_is_for(tmp_path, monkeypatch, capsys):
    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)  # root, as whom tests may run, is refused nothing
    assert main(["--home", str(tmp_path / "home"), "--port", "0"]) == 1
    assert f"→ user {os.getuid()} must be able to write below {tmp_path / 'home'}" in capsys.readouterr().err


def test_the_program_opens_nothing_to_the_network_without_tokens(tmp_path):
    done = subprocess.run(run("--home", tmp_path, "--port", 0, "--host", "0.0.0.0"), capture_output=True, text=True)
    assert (done.returncode, "give --tokens FILE" in done.stderr) == (2, True)


def test_buckets_without_tokens_can_be_closed(storage_server, bucket):
    transport = httpx.ASGITransport(app(storage_server.storage, {}, closed_by_default=True))

    async def ask():
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get(f"/storage/v1/b/{bucket}/o")

    assert asyncio.run(ask()).status_code == 403
