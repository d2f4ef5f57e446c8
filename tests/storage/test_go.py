"""What Go's client sends (cloud.google.com/go/storage 1.63.1, as Argo's executor has it), recorded, and what it needs
to find in the answers.
"""

from __future__ import annotations

import email.utils
import os

import httpx
import pytest

from solo.storage import CLOSED

QUARTER = 256 * 1024
LISTING = (
    "alt=json&delimiter={}&endOffset=&includeFoldersAsPrefixes=false&includeTrailingDelimiter=false&matchGlob="
    "&pageToken=&prefix={}&prettyPrint=false&projection=full&startOffset=&versions=false"
)


@pytest.fixture
def http(storage_server):
    with httpx.Client(base_url=storage_server.url) as client:
        yield client


def error(answer):
    assert answer.headers["content-type"] == "application/xml"
    return answer.status_code, answer.text.partition("<Code>")[2].partition("</Code>")[0]


# -- downloads: GET /<bucket>/<object>


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a b/c d", "a%20b%2Fc%20d"),
        ("ümläut/日本", "%C3%BCml%C3%A4ut%2F%E6%97%A5%E6%9C%AC"),
        ("a%2Fb", "a%252Fb"),
        ("q?a=1&b#c", "q%3Fa=1&b%23c"),
        ("a+b", "a+b"),
        ("storage/v1/b", "storage%2Fv1%2Fb"),
    ],
)
def test_names_of_every_kind_come_back(storage_server, bucket, http, name, path):
    storage_server.storage.put(bucket, name, b"data")
    assert http.get(f"/{bucket}/{path}").content == b"data"


def test_a_download_tells_what_was_stored(storage_server, bucket, http):
    made = storage_server.storage.put(
        bucket, "x", b"data", {"contentType": "text/plain", "metadata": {"Run-Id": "7", "empty": ""}}
    )
    answer = http.get(f"/{bucket}/x")
    told = {key: value for key, value in answer.headers.items() if key.startswith(("x-goog", "content"))}
    assert told == {
        "content-type": "text/plain",
        "content-length": "4",
        "x-goog-generation": str(made.generation),
        "x-goog-metageneration": "1",
        "x-goog-hash": f"crc32c={made.crc32c},md5={made.md5}",
        "x-goog-stored-content-encoding": "identity",
        "x-goog-stored-content-length": "4",
        "x-goog-storage-class": "STANDARD",
        "x-goog-meta-run-id": "7",
        "x-goog-meta-empty": "",
    }
    changed = email.utils.parsedate_to_datetime(answer.headers["last-modified"])
    assert changed.isoformat() == made.updated[:19] + "+00:00"
    # reading no bytes is HEAD
    head = http.head(f"/{bucket}/x")
    assert (head.headers, head.content) == (answer.headers, b"")


def test_metadata_that_is_no_header_is_refused_by_name(storage_server, bucket, http):
    for metadata in ({"two words": "x"}, {"x": "日本"}, {"x": "a\r\nset-cookie: b"}):
        storage_server.storage.put(bucket, "x", b"data", {"metadata": metadata})
        assert error(http.get(f"/{bucket}/x")) == (501, "NotImplemented")


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ("bytes=2-4", b"234"),
        ("bytes=5-104", b"56789"),
        ("bytes=-3", b"789"),
        ("bytes=9-9", b"9"),
        ("bytes=4-", b"456789"),
    ],
)
def test_ranges(storage_server, bucket, http, span, expected):
    storage_server.storage.put(bucket, "x", b"0123456789")
    answer = http.get(f"/{bucket}/x", headers={"range": span})
    first = b"0123456789".index(expected)
    assert (answer.status_code, answer.content) == (206, expected)
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/10"


def test_what_cannot_be_read_is_told_as_the_xml_api_does(storage_server, bucket, http):
    made = storage_server.storage.put(bucket, "x", b"data")
    get = {
        "missing": {},
        "x?generation=1": {},
        f"x?generation={made.generation}": {},
        "x": {"x-goog-if-generation-match": str(made.generation), "x-goog-if-metageneration-match": "1"},
    }
    answers = [http.get(f"/{bucket}/{path}", headers=headers) for path, headers in get.items()]
    assert [answer.status_code for answer in answers] == [404, 404, 200, 200]
    assert error(answers[0]) == error(answers[1]) == (404, "NoSuchKey")
    assert error(http.get("/no-such-bucket/x")) == (404, "NoSuchBucket")
    assert error(http.get(f"/{bucket}/x", headers={"range": "bytes=50-"})) == (416, "InvalidRange")
    for header in ("x-goog-if-generation-match", "x-goog-if-metageneration-match"):
        assert error(http.get(f"/{bucket}/x", headers={header: "7"})) == (412, "PreconditionFailed")
    assert error(http.get(f"/{bucket}/x", headers={"x-goog-if-generation-match": "x"})) == (400, "InvalidArgument")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_download_asks_for_a_token_as_everything_does(storage_server, bucket, http, method):
    storage_server.tokens[bucket] = {"write": {"w"}, "read": {"r"}}
    storage_server.storage.put(bucket, "x", b"data")
    told = [http.request(method, f"/{bucket}/x", headers=h).status_code for h in ({}, {"authorization": "Bearer r"})]
    assert told == [401, 200]
    storage_server.tokens[bucket] = CLOSED
    assert http.request(method, f"/{bucket}/x", headers={"authorization": "Bearer r"}).status_code == 403


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("PUT", "/{}/x", {}),
        ("DELETE", "/{}/x", {}),
        ("GET", "/{}", {}),
        ("GET", "/{}/a/b", {}),  # a "/" that was not encoded
        ("GET", "/{}/x?acl", {}),
        ("GET", "/{}/x?alt=media", {}),
        ("GET", "/{}/x", {"if-modified-since": "Sat, 28 Nov 2026 08:25:44 GMT"}),
        ("GET", "/{}/x", {"range": "bytes=0-1,3-4"}),
        # the JSON API has these as query parameters
        ("GET", "/storage/v1/b/{}/o/x", {"x-goog-if-generation-match": "7"}),
    ],
)
def test_the_rest_of_the_xml_api_is_refused_by_name(storage_server, bucket, http, caplog, method, path, headers):
    storage_server.storage.put(bucket, "x", b"data")
    answer = http.request(method, path.format(bucket), headers=headers)
    assert (answer.status_code, "is not supported by this emulator" in answer.text) == (501, True)
    # Go's client tries a 501 again for ever and shows nothing
    assert f"501 {method} {path.format(bucket).partition('?')[0]}: " in caplog.text


# -- uploads: one multipart request, or a session that is continued by POST


def test_a_small_upload(storage_server, bucket, http):
    part = "Content-Type: {}\r\n\r\n{}\r\n"
    body = ["--b\r\n", part.format("application/json", f'{{"bucket":"{bucket}","name":"a/b"}}\n'), "--b\r\n"]
    body += [part.format("text/plain; charset=utf-8", "data"), "--b--\r\n"]
    answer = http.post(
        f"/upload/storage/v1/b/{bucket}/o?alt=json&name=a%2Fb&prettyPrint=false&projection=full&uploadType=multipart",
        content=(piece.encode() for piece in body),
        headers={"content-type": "multipart/related; boundary=b", "x-goog-gcs-idempotency-token": "5cdebc2e"},
    )
    assert answer.json()["contentType"] == "text/plain; charset=utf-8"
    assert storage_server.storage.read(bucket, "a/b") == b"data"


@pytest.mark.parametrize("last", [QUARTER, 7, 0])
def test_a_large_upload(storage_server, bucket, http, last):
    begun = http.post(
        f"/upload/storage/v1/b/{bucket}/o?alt=json&name=x&prettyPrint=false&projection=full&uploadType=resumable",
        json={"bucket": bucket, "name": "x"},
        headers={"x-upload-content-type": "application/octet-stream"},
    )
    data, at = os.urandom(2 * QUARTER + last), 0
    while at < 2 * QUARTER:
        span = {"content-range": f"bytes {at}-{at + QUARTER - 1}/*", "x-guploader-no-308": "yes"}
        answer = http.post(begun.headers["location"], content=data[at : at + QUARTER], headers=span)
        # a 308 would be an error to the client
        assert (answer.status_code, answer.headers["x-http-status-code-override"]) == (200, "308")
        at += QUARTER
    end = f"bytes {at}-{at + last - 1}/{len(data)}" if last else f"bytes */{len(data)}"
    answer = http.post(
        begun.headers["location"], content=data[at:], headers={"content-range": end, "x-guploader-no-308": "yes"}
    )
    assert (answer.status_code, "x-http-status-code-override" in answer.headers) == (200, False)
    assert answer.json()["size"] == str(len(data))
    assert storage_server.storage.read(bucket, "x") == data


# -- listings


def test_a_listing_says_every_default(storage_server, bucket, http):
    for name in ("a/b", "a/c/d", "e"):
        storage_server.storage.put(bucket, name, b"")
    answer = http.get(f"/storage/v1/b/{bucket}/o?{LISTING.format('%2F', 'a%2F')}").json()
    assert ([item["name"] for item in answer["items"]], answer["prefixes"]) == (["a/b"], ["a/c/"])
    fields = "&fields=nextPageToken%2Cprefixes%2Citems%28name%2Csize%29"
    answer = http.get(f"/storage/v1/b/{bucket}/o?{LISTING.format('', 'e')}{fields}").json()
    assert answer == {"items": [{"name": "e", "size": "0"}]}


@pytest.mark.parametrize(
    ("default", "other"),
    [
        ("endOffset=", "endOffset=x"),
        ("matchGlob=", "matchGlob=*"),
        ("versions=false", "versions=true"),
        ("includeTrailingDelimiter=false", "includeTrailingDelimiter=true"),
        ("includeFoldersAsPrefixes=false", "includeFoldersAsPrefixes=true"),
    ],
)
def test_other_than_the_default_is_refused_by_name(bucket, http, default, other):
    answer = http.get(f"/storage/v1/b/{bucket}/o?{LISTING.format('', '').replace(default, other)}")
    assert (answer.status_code, f"{other} is not supported" in answer.text.replace("'", "")) == (501, True)


# -- probes


def test_a_probe_needs_no_token(storage_server, bucket, http):
    storage_server.tokens[bucket] = CLOSED
    answer = http.get("/-/ready")
    assert (answer.status_code, answer.text) == (200, "ready")
