"""Everything that the platform asks of Google Cloud Storage, asked through the real client.

The probes run against the emulator. With TRAINYARD_PROBE_BUCKET=<bucket> and ambient credentials they run against a
real bucket as well (below a prefix of their own, removed afterwards): the emulator is right where both agree.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import uuid

import pytest
from google.api_core import exceptions
from google.cloud import storage as gcs
from google.cloud.storage.retry import DEFAULT_RETRY

REAL = os.environ.get("TRAINYARD_PROBE_BUCKET", "")
QUARTER = 256 * 1024


class Place:
    """A corner of a bucket: `blob("x")` lies below a prefix that is this test's own."""

    def __init__(self, client, bucket, prefix):
        self.client, self.prefix = client, prefix
        self.bucket = client.bucket(bucket)

    def blob(self, name, **more):
        return self.bucket.blob(f"{self.prefix}{name}", **more)

    def put(self, name, data=b"data", **more):
        blob = self.blob(name)
        blob.upload_from_string(data, **more)
        return blob

    def names(self, **more):
        prefix = self.prefix + more.pop("prefix", "")
        return [
            blob.name.removeprefix(self.prefix) for blob in self.client.list_blobs(self.bucket, prefix=prefix, **more)
        ]


@pytest.fixture(params=["emulator", *(["google"] if REAL else [])])
def place(request):
    if request.param == "google":
        client = gcs.Client()
        place = Place(client, REAL, f"probe-{uuid.uuid4().hex}/")
        yield place
        for blob in client.list_blobs(REAL, prefix=place.prefix):
            blob.delete()
    else:
        server, bucket = request.getfixturevalue("storage_server"), request.getfixturevalue("bucket")
        yield Place(server.client(), bucket, "deep/prefix/")


@pytest.mark.parametrize(
    "name", ["plain", "a/b/c.json", "with space", "ümläut/日本", "percent%2Fslash", "q?a=1&b#c", "a+b", "%"]
)
def test_names_of_every_kind_come_back(place, name):
    place.put(name, b"content")
    assert place.blob(name).download_as_bytes() == b"content"
    assert place.names() == [name]
    place.blob(name).delete()
    assert place.names() == []


@pytest.mark.parametrize("size", [0, 1, 1000, QUARTER, 3 * 1024 * 1024 + 1])
def test_bytes_come_back(place, size):
    data = os.urandom(size)
    place.put("x", data)
    assert place.blob("x").download_as_bytes() == data


@pytest.mark.parametrize("tail", [b"\r\n", b"\r\n--", b"--", b"\r\n--===", b"\n"])
def test_bytes_that_look_like_a_boundary_come_back(place, tail):
    data = b"\r\n\r\n--==\r\n" + tail
    place.put("x", data)
    assert place.blob("x").download_as_bytes() == data


def test_an_upload_tells_what_was_stored(place):
    blob = place.put("x", b"hello", content_type="text/plain")
    assert (blob.size, blob.content_type, blob.metageneration) == (5, "text/plain", 1)
    assert blob.md5_hash == base64.b64encode(hashlib.md5(b"hello").digest()).decode()
    assert blob.crc32c == "mnG7TA=="
    assert blob.generation > 10**15
    assert blob.etag
    assert blob.time_created
    assert blob.time_created == blob.updated


def test_generations_rise(place):
    generations = [place.put("x", bytes([i])).generation for i in range(3)]
    place.blob("x").delete()
    generations.append(place.put("x").generation)
    assert generations == sorted(set(generations))


def test_a_download_tells_the_generation(place):
    generation = place.put("x").generation
    blob = place.blob("x")
    blob.download_as_bytes()
    assert int(blob.generation) == generation


def test_metadata_is_kept_and_changed(place):
    blob = place.blob("x")
    blob.metadata = {"digest": "sha256:1", "other": "2"}
    blob.cache_control = "no-store"
    blob.upload_from_string(b"data", content_type="application/json")
    blob = place.bucket.get_blob(blob.name)
    assert (blob.metadata, blob.cache_control) == ({"digest": "sha256:1", "other": "2"}, "no-store")
    blob.metadata = {"digest": "sha256:3"}
    blob.patch(if_metageneration_match=1)
    again = place.bucket.get_blob(blob.name)
    assert again.metadata["digest"] == "sha256:3"
    assert again.metageneration == 2
    assert again.generation == blob.generation
    with pytest.raises(exceptions.PreconditionFailed):
        blob.patch(if_metageneration_match=1)


def test_what_does_not_exist(place):
    assert place.bucket.get_blob(f"{place.prefix}no") is None
    assert not place.blob("no").exists()
    assert place.put("yes").exists()
    with pytest.raises(exceptions.NotFound, match="No such object: "):
        place.blob("no").download_as_bytes()
    with pytest.raises(exceptions.NotFound, match="No such object: "):
        place.blob("no").delete()
    with pytest.raises(exceptions.NotFound, match="No such object: "):
        place.blob("no").reload()


def test_a_bucket_that_does_not_exist(place):
    bucket = place.client.bucket(f"no-such-{uuid.uuid4().hex}")
    for call in (bucket.reload, bucket.blob("x").download_as_bytes, lambda: bucket.blob("x").upload_from_string(b"")):
        with pytest.raises(exceptions.NotFound, match="The specified bucket does not exist"):
            call()
    assert not bucket.exists()


def test_create_once(place):
    place.put("x", b"first", if_generation_match=0)
    with pytest.raises(exceptions.PreconditionFailed, match="pre-conditions you specified did not hold"):
        place.put("x", b"second", if_generation_match=0)
    assert place.blob("x").download_as_bytes() == b"first"
    place.blob("x").delete()
    place.put("x", b"third", if_generation_match=0)


def test_compare_and_swap(place):
    one = place.put("x", b"1").generation
    two = place.put("x", b"2", if_generation_match=one).generation
    with pytest.raises(exceptions.PreconditionFailed):
        place.put("x", b"3", if_generation_match=one)
    assert two > one
    assert place.blob("x").download_as_bytes() == b"2"


def test_a_generation_that_must_match_needs_an_object(place):
    with pytest.raises(exceptions.PreconditionFailed):
        place.put("x", if_generation_match=12345)


def test_generation_not_match(place):
    generation = place.put("x").generation
    with pytest.raises(exceptions.PreconditionFailed):
        place.put("x", if_generation_not_match=generation)
    with pytest.raises(exceptions.PreconditionFailed):
        place.put("new", if_generation_not_match=0)
    place.put("x", b"2", if_generation_not_match=0)


def test_preconditions_of_reads_and_deletes(place):
    blob = place.put("x")
    right, wrong = blob.generation, blob.generation - 1
    assert place.blob("x").download_as_bytes(if_generation_match=right) == b"data"
    with pytest.raises(exceptions.PreconditionFailed):
        place.blob("x").download_as_bytes(if_generation_match=wrong)
    with pytest.raises(exceptions.PreconditionFailed):
        place.blob("x").delete(if_generation_match=wrong)
    with pytest.raises(exceptions.NotModified):
        place.blob("x").reload(if_generation_not_match=right)
    place.blob("x").delete(if_generation_match=right)
    assert place.names() == []


def test_a_generation_that_is_gone(place):
    old = place.put("x", b"1").generation
    new = place.put("x", b"2").generation
    with pytest.raises(exceptions.NotFound):
        place.blob("x", generation=old).download_as_bytes()
    assert place.blob("x", generation=new).download_as_bytes() == b"2"


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 3, b"0123"), (5, None, b"56789"), (-3, None, b"789"), (8, 99, b"89"), (9, 9, b"9")],
)
def test_ranges(place, start, end, expected):
    place.put("x", b"0123456789")
    assert place.blob("x").download_as_bytes(start=start, end=end) == expected


def test_a_range_behind_the_end(place):
    place.put("x", b"0123456789")
    with pytest.raises(exceptions.RequestRangeNotSatisfiable):
        place.blob("x").download_as_bytes(start=10)


def test_listing(place):
    names = ["a", "a/1", "a/2", "a/b/3", "b/4", "c", "c-5"]
    for name in names:
        place.put(name)
    assert place.names() == names
    assert place.names(prefix="a/") == ["a/1", "a/2", "a/b/3"]
    assert place.names(start_offset=f"{place.prefix}a/b") == ["a/b/3", "b/4", "c", "c-5"]
    assert place.names(page_size=2) == names
    assert place.names(max_results=3) == names[:3]
    assert place.names(fields="items(name),nextPageToken", page_size=3) == names


@pytest.mark.parametrize("page_size", [1, 2, 100])
def test_listing_by_directory(place, page_size):
    for name in ["top", "a/1", "a/2", "a/b/3", "b/4", "z"]:
        place.put(name)
    listing = place.client.list_blobs(place.bucket, prefix=place.prefix, delimiter="/", page_size=page_size)
    assert [blob.name.removeprefix(place.prefix) for blob in listing] == ["top", "z"]
    assert {name.removeprefix(place.prefix) for name in listing.prefixes} == {"a/", "b/"}


def test_a_listing_shows_metadata(place):
    blob = place.blob("x")
    blob.metadata = {"digest": "sha256:1"}
    blob.upload_from_string(b"data")
    listing = place.client.list_blobs(
        place.bucket, prefix=place.prefix, fields="items(name,metadata,generation,size),nextPageToken"
    )
    (found,) = listing
    assert (found.metadata, found.size, found.generation) == ({"digest": "sha256:1"}, 4, blob.generation)


def test_copy_and_rewrite(place):
    source = place.blob("x")
    source.metadata = {"k": "v"}
    source.upload_from_string(b"data", content_type="text/plain")
    copied = place.bucket.copy_blob(source, place.bucket, f"{place.prefix}copy", if_generation_match=0)
    assert copied.download_as_bytes() == b"data"
    assert place.bucket.get_blob(copied.name).metadata == {"k": "v"}
    token, done, total = place.blob("rewritten").rewrite(source)
    assert (token, done, total) == (None, 4, 4)
    assert place.bucket.get_blob(f"{place.prefix}rewritten").content_type == "text/plain"
    with pytest.raises(exceptions.PreconditionFailed):
        place.bucket.copy_blob(source, place.bucket, copied.name, if_generation_match=0)
    source.delete()
    assert place.blob("copy").download_as_bytes() == b"data"


@pytest.mark.parametrize("field", ["md5_hash", "crc32c"])
def test_a_wrong_checksum_is_refused(place, field):
    blob = place.blob("x")
    setattr(blob, field, "1B2M2Y8AsgTpgAmY7PhCfg==" if field == "md5_hash" else "AAAAAA==")
    with pytest.raises(exceptions.BadRequest, match="doesn't match"):
        blob.upload_from_string(b"data", checksum=None)
    assert not place.blob("x").exists()


@pytest.mark.parametrize("size", [0, 1, QUARTER, QUARTER * 3, QUARTER * 3 + 17])
def test_resumable_upload_in_chunks(place, size):
    data = os.urandom(size)
    blob = place.blob("x", chunk_size=QUARTER)
    blob.upload_from_file(io.BytesIO(data), content_type="application/zip")
    assert blob.size == size
    assert place.blob("x").download_as_bytes() == data
    assert place.bucket.get_blob(blob.name).content_type == "application/zip"


def test_resumable_upload_of_unknown_size(place):
    data = os.urandom(QUARTER * 2)  # ends at a chunk's edge: the last request carries no bytes
    with place.blob("x").open("wb", chunk_size=QUARTER, ignore_flush=True) as stream:
        stream.write(data)
    assert place.blob("x").download_as_bytes() == data


def test_resumable_create_once(place):
    place.put("x", b"first")
    blob = place.blob("x", chunk_size=QUARTER)
    with pytest.raises(exceptions.PreconditionFailed):
        blob.upload_from_file(io.BytesIO(b"second"), if_generation_match=0)
    assert place.blob("x").download_as_bytes() == b"first"


def test_a_large_file(place, tmp_path):
    data = os.urandom(9 * 1024 * 1024)  # beyond what the client sends in one request
    (tmp_path / "in").write_bytes(data)
    blob = place.blob("x")
    blob.md5_hash = base64.b64encode(hashlib.md5(data).digest()).decode()
    blob.upload_from_filename(str(tmp_path / "in"), if_generation_match=0, retry=DEFAULT_RETRY.with_timeout(30))
    place.blob("x").download_to_filename(str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == data


def test_a_large_file_with_a_wrong_digest_is_refused(place, tmp_path):
    (tmp_path / "in").write_bytes(os.urandom(9 * 1024 * 1024))
    blob = place.blob("x")
    blob.md5_hash = "1B2M2Y8AsgTpgAmY7PhCfg=="
    with pytest.raises(exceptions.BadRequest, match="doesn't match"):
        blob.upload_from_filename(str(tmp_path / "in"))
    assert not place.blob("x").exists()
