from __future__ import annotations

import hashlib
import json
import os

import pytest

from pipelines.errors import Exit, YardError
from pipelines.registry import blobs

FILES = {
    "model.onnx": b"\0" * 1000,
    "bundle.json": b"{}",
    "deep/er/labels.txt": b"a\nb\n",
    "empty": b"",
    "sp ace ü": b"x",
}


@pytest.fixture
def directory(tmp_path):
    root = tmp_path / "source"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def content(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def damage(storage_server, bucket, digest, data):
    """Put other bytes under a blob's name, as the store would hold them if somebody had written them so."""
    storage_server.storage.put(bucket, f"blobs/sha256/{digest.removeprefix('sha256:')}", data)


def test_a_blob_is_named_by_its_content(registry):
    digest = registry.put_blob(b"hello")
    assert digest == "sha256:" + hashlib.sha256(b"hello").hexdigest()
    assert registry.get_blob(digest) == b"hello"
    assert registry.put_blob(b"hello") == digest


def test_a_large_file_goes_in_pieces(registry, tmp_path):
    data = os.urandom(blobs.SMALL + 1)
    (tmp_path / "in").write_bytes(data)
    digest = registry.put_blob(tmp_path / "in")
    assert registry.put_blob(tmp_path / "in") == digest
    registry.fetch_blob(digest, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data


def test_a_file_that_changes_while_it_is_sent_is_not_stored(registry, tmp_path, monkeypatch):
    path = tmp_path / "in"
    path.write_bytes(b"a" * (blobs.SMALL + 1))
    honest = blobs._digests

    def late(content):
        digests = honest(content)
        path.write_bytes(b"b" * (blobs.SMALL + 1))
        return digests

    monkeypatch.setattr(blobs, "_digests", late)
    with pytest.raises(YardError, match="doesn't match"):
        registry.put_blob(path)
    assert registry.bucket.entries("blobs/") == []


@pytest.mark.parametrize("kind", ["lost", "after"])
@pytest.mark.parametrize("size", [5, blobs.SMALL + 1])
def test_a_write_that_was_accepted_but_not_answered_is_a_success(registry, faults, tmp_path, kind, size):
    (tmp_path / "in").write_bytes(b"z" * size)
    fault = faults.order(kind, "POST" if size == 5 else "PUT", "/upload/")
    digest = registry.put_blob(tmp_path / "in")
    assert fault.hits == 1
    assert registry.get_blob(digest) == b"z" * size


def test_other_content_under_the_name_is_a_conflict(registry, storage_server, bucket):
    digest = "sha256:" + hashlib.sha256(b"right").hexdigest()
    damage(storage_server, bucket, digest, b"wrong")
    with pytest.raises(YardError, match="corrupt") as caught:
        registry.put_blob(b"right")
    assert caught.value.code == Exit.CONFLICT
    assert digest.removeprefix("sha256:") in caught.value.where


def test_a_corrupt_blob_is_never_returned(registry, storage_server, bucket, tmp_path):
    digest = registry.put_blob(b"right")
    damage(storage_server, bucket, digest, b"wrong")
    for read in (lambda: registry.get_blob(digest), lambda: registry.fetch_blob(digest, tmp_path / "out")):
        with pytest.raises(YardError, match="corrupt: its content is sha256:") as caught:
            read()
        assert caught.value.code == Exit.CONFLICT
        assert digest.removeprefix("sha256:") in caught.value.where
    assert list(tmp_path.iterdir()) == []


def test_bytes_damaged_on_the_disk_or_on_the_way_are_never_returned(registry, storage_server, bucket, faults):
    digest = registry.put_blob(b"right")
    fault = faults.order("corrupt", "GET", "/download/")
    with pytest.raises(YardError, match="checksum") as caught:
        registry.get_blob(digest)
    assert fault.hits == 1
    assert caught.value.code == Exit.CONFLICT
    storage_server.storage.open_blob(bucket, f"blobs/sha256/{digest.removeprefix('sha256:')}").write_bytes(b"wrong")
    with pytest.raises(YardError, match="checksum"):
        registry.get_blob(digest)


def test_a_store_that_comes_back_in_time_is_waited_for(registry, faults):
    faults.order("before", "POST", "/upload/", times=2)
    digest = registry.put_blob(b"x")
    faults.order("before", "GET", "/download/", times=2)
    assert registry.get_blob(digest) == b"x"


def test_a_store_that_does_not_come_back(registry, faults):
    faults.order("before", "POST", "/upload/", times=99)
    with pytest.raises(YardError, match="HTTP 503") as caught:
        registry.put_blob(b"x")
    assert caught.value.code == Exit.UNAVAILABLE


def test_a_full_store_is_not_asked_again(registry, faults):
    fault = faults.order("full", "POST", "/upload/", times=99)
    with pytest.raises(YardError, match="HTTP 507") as caught:
        registry.put_blob(b"x")
    assert caught.value.code == Exit.UNAVAILABLE
    assert fault.hits == 1


def test_what_is_not_there(registry, tmp_path):
    digest = "sha256:" + "0" * 64
    with pytest.raises(YardError, match="no such object") as caught:
        registry.fetch_tree(digest, tmp_path / "out")
    assert caught.value.code == Exit.NOT_FOUND


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "A" * 64, "../../x", "sha256:" + "0" * 65])
def test_a_malformed_digest_asks_nothing_of_the_store(registry, faults, digest):
    with pytest.raises(YardError, match="not a digest"):
        registry.get_blob(digest)
    assert faults.requests == []


def test_a_directory_comes_back(registry, directory, tmp_path):
    digest = registry.put_tree(directory)
    registry.fetch_tree(digest, tmp_path / "out")
    assert content(tmp_path / "out") == FILES
    assert registry.tree_file(digest, "deep/er/labels.txt") == b"a\nb\n"
    assert [file.path for file in registry.tree(digest)] == sorted(FILES)
    with pytest.raises(YardError, match="no file 'nope'"):
        registry.tree_file(digest, "nope")


def test_a_directory_is_named_by_names_and_contents_only(registry, directory, tmp_path):
    digest = registry.put_tree(directory)
    (directory / "empty").chmod(0o755)
    os.utime(directory / "bundle.json", (0, 0))
    (directory / "nothing" / "below").mkdir(parents=True)
    assert registry.put_tree(directory) == digest
    (directory / "empty").rename(directory / "void")
    assert registry.put_tree(directory) != digest


def test_a_fetch_that_was_cut_can_be_repeated(registry, directory, tmp_path):
    digest = registry.put_tree(directory)
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.onnx").write_bytes(b"half")
    registry.fetch_tree(digest, out)
    assert content(out) == FILES


def test_links_inside_are_followed_and_links_out_refused(registry, directory, tmp_path):
    (directory / "link").symlink_to("bundle.json")
    assert registry.tree_file(registry.put_tree(directory), "link") == b"{}"
    (tmp_path / "secret").write_bytes(b"secret")
    (directory / "link").unlink()
    (directory / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(YardError, match="a link out of the directory"):
        registry.put_tree(directory)


def test_what_is_no_file_is_refused(registry, directory):
    os.mkfifo(directory / "pipe")
    with pytest.raises(YardError, match="neither a file nor a directory"):
        registry.put_tree(directory)
    (directory / "pipe").unlink()
    (directory / "folder").symlink_to("deep")
    with pytest.raises(YardError, match="neither a file nor a directory"):
        registry.put_tree(directory)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", ".", "./x", "a//b", "a/", "nul\0"])
def test_a_list_with_a_path_that_escapes_is_refused(registry, tmp_path, path):
    entry = {"path": path, "size": 0, "sha256": registry.put_blob(b"").removeprefix("sha256:")}
    digest = registry.put_blob(json.dumps({"files": [entry]}).encode())
    with pytest.raises(YardError, match="is not a directory of the registry"):
        registry.fetch_tree(digest, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"files": [1]}', b'{"files": [{"path": 1, "size": 0, "sha256": 2}]}']
)
def test_a_blob_that_is_no_directory(registry, tmp_path, data):
    with pytest.raises(YardError, match="is not a directory of the registry"):
        registry.fetch_tree(registry.put_blob(data), tmp_path / "out")


def test_a_link_in_the_way_leads_nowhere(registry, directory, tmp_path):
    digest = registry.put_tree(directory)
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "deep").symlink_to(elsewhere)
    with pytest.raises(YardError, match="a link leads out"):
        registry.fetch_tree(digest, out)
    assert [path for path in elsewhere.rglob("*") if path.is_file()] == []


def test_one_bad_file_fails_the_directory(registry, directory, storage_server, bucket, tmp_path):
    digest = registry.put_tree(directory)
    damage(storage_server, bucket, registry.put_blob(b"a\nb\n"), b"evil")
    with pytest.raises(YardError, match="corrupt"):
        registry.fetch_tree(digest, tmp_path / "out")
    assert not (tmp_path / "out/deep/er/labels.txt").exists()
