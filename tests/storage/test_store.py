"""The store in-process: what a crash leaves, what the index says, pages against a model."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solo.storage import Conditions, Storage, StorageError


@pytest.fixture
def storage(tmp_path):
    storage = Storage(tmp_path / "home")
    storage.create_bucket("bucket")
    yield storage
    storage.close()


def files(storage):
    return sorted(path.name for path in storage._blobs.directory.glob("??/*"))


def test_a_file_in_and_out(storage, tmp_path):
    (tmp_path / "in").write_bytes(b"data")
    made = storage.put_file("bucket", "a/b", tmp_path / "in")
    assert storage.open_blob("bucket", "a/b").read_bytes() == b"data"
    (tmp_path / "in").write_bytes(b"DATA")
    assert storage.read("bucket", "a/b") == b"data"
    assert storage.get("bucket", "a/b") == made


def test_what_is_missing_is_missing_as_a_file_is(storage):
    with pytest.raises(FileNotFoundError, match="No such object: bucket/a"):
        storage.open_blob("bucket", "a")
    with pytest.raises(StorageError, match="The specified bucket does not exist") as caught:
        storage.open_blob("other", "a")
    assert not isinstance(caught.value, FileNotFoundError)


def test_equal_bytes_are_one_file_until_the_last_object_goes(storage):
    for name in ("a", "b"):
        storage.put("bucket", name, b"same")
    assert len(files(storage)) == 1
    storage.delete("bucket", "a")
    assert storage.read("bucket", "b") == b"same"
    storage.put("bucket", "b", b"other")
    assert files(storage) == [storage.get("bucket", "b").sha256]


def test_an_open_object_stays_readable(storage):
    storage.put("bucket", "a", b"old")
    with storage.open("bucket", "a")[1] as file:
        storage.put("bucket", "a", b"new")
        assert file.read() == b"old"


def test_what_is_there_is_there_after_a_restart(tmp_path):
    storage = Storage(tmp_path)
    storage.create_bucket("bucket")
    made = storage.put("bucket", "a", b"x", {"metadata": {"k": "v"}})
    storage.close()
    storage = Storage(tmp_path)
    assert storage.get("bucket", "a") == made
    assert storage.put("bucket", "a", b"y").generation > made.generation
    storage.close()


def test_generations_rise_though_the_clock_goes_back(storage, monkeypatch):
    first = storage.put("bucket", "a", b"1").generation
    storage.delete("bucket", "a")
    monkeypatch.setattr("time.time_ns", lambda: 1000)
    assert storage.put("bucket", "a", b"2").generation == first + 1


def test_what_a_crash_left_is_collected_at_start(tmp_path):
    storage = Storage(tmp_path)
    storage.create_bucket("bucket")
    storage.put("bucket", "a", b"kept")
    storage.close()
    leftovers = [tmp_path / "tmp/half", tmp_path / "uploads/half", tmp_path / "blobs/00" / ("0" * 64)]
    for file in leftovers:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"half")
    storage = Storage(tmp_path)
    assert not any(file.exists() for file in leftovers)
    assert storage.read("bucket", "a") == b"kept"
    storage.close()


def test_killed_at_any_moment_every_object_is_whole(tmp_path):
    """A process that writes as fast as it can is killed; what it has acknowledged is there, and nothing is half."""
    code = f"""
from pathlib import Path
from solo.storage import Storage
storage = Storage(Path({str(tmp_path)!r}))
storage.ensure_bucket("bucket")
for number in range(10**6):
    storage.put("bucket", str(number % 7), str(number).encode() * 1000)
    print(number, flush=True)
"""
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(20):
            last = int(writer.stdout.readline())
        writer.kill()
        rest = writer.stdout.read().split()
        writer.wait()
        last = int(rest[-1]) if rest else last
        storage = Storage(tmp_path)
        for found in storage.list("bucket").objects:
            data = storage.read("bucket", found.name)
            number = int(data[: len(data) // 1000])
            assert data == str(number).encode() * 1000
            assert number % 7 == int(found.name)
            assert number >= last - 6
        assert len(files(storage)) == len(storage.list("bucket").objects)
        storage.close()


def test_two_processes_cannot_have_one_store(storage):
    home = storage.temporary.parent
    code = f"from pathlib import Path; from solo.storage import Storage; Storage(Path({str(home)!r}))"
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "is in use by another process" in second.stderr


def test_a_forked_child_does_not_keep_the_store_busy(tmp_path):
    storage = Storage(tmp_path)
    hold, told = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=lambda: hold.recv())
    child.start()
    storage.close()
    code = f"from pathlib import Path; from solo.storage import Storage; Storage(Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    told.send(None)
    child.join(10)


def _limit():
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path):
    code = f"""
from pathlib import Path
from solo.storage import Storage, StorageError
storage = Storage(Path({str(tmp_path)!r}))
storage.create_bucket("bucket")
storage.put("bucket", "a", b"old")
try:
    storage.put("bucket", "a", b"x" * 400_000)
except StorageError as error:
    print(error.status, error)
files = [len(list(Path({str(tmp_path)!r}).glob(pattern))) for pattern in ("tmp/*", "blobs/??/*")]
print(storage.read("bucket", "a"), files)
"""
    done = subprocess.run([sys.executable, "-c", code], preexec_fn=_limit, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "507 The store is full, nothing was written: File too large",
        "b'old' [0, 1]",
    ]


def test_a_full_index_says_so_and_leaves_nothing(storage):
    storage.put("bucket", "a", b"old")
    storage._db.execute(f"PRAGMA max_page_count={storage._db.execute('PRAGMA page_count').fetchone()[0]}")

    def fill():
        for number in range(1000):
            storage.put("bucket", f"{number:0900}", b"%d" % number)

    with pytest.raises(StorageError, match="The store is full") as caught:
        fill()
    assert caught.value.status == 507
    assert len(files(storage)) == len(storage.list("bucket", limit=10**6).objects)
    assert storage.read("bucket", "a") == b"old"


def test_an_error_that_is_no_full_disk_is_not_called_one(storage):
    storage._db.execute("DROP TABLE generations")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        storage.put("bucket", "a", b"x")
    assert files(storage) == []


def test_of_writers_at_once_one_creates(storage):
    def create(number):
        with contextlib.suppress(StorageError):
            return storage.put("bucket", "a", b"%d" % number, conditions=Conditions(generation=0))

    with ThreadPoolExecutor(8) as pool:
        won = [made for made in pool.map(create, range(8)) if made]
    assert won == [storage.get("bucket", "a")]
    assert len(files(storage)) == 1


@pytest.mark.parametrize("name", ["", ".", "..", "a\nb", "a\rb", "x" * 1025, "\udc80"])
def test_names_that_gcs_does_not_take(storage, name):
    with pytest.raises(StorageError) as caught:
        storage.put("bucket", name, b"")
    assert caught.value.status == 400
    assert files(storage) == []


@pytest.mark.parametrize("name", ["ab", "Upper", "-a-b", "a b c", "a/b/c", "x" * 64])
def test_bucket_names_that_gcs_does_not_take(storage, name):
    with pytest.raises(StorageError, match="Invalid bucket name"):
        storage.create_bucket(name)


NAMES = st.lists(st.text(alphabet="a/é\U0001f600", min_size=1, max_size=6), unique=True, max_size=12)
SHORT = st.text(alphabet="a/é", max_size=2)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    storage = Storage(tmp_path_factory.mktemp("pages"))
    storage.create_bucket("bucket")
    yield storage
    storage.close()


@settings(max_examples=60)
@given(names=NAMES, prefix=SHORT, delimiter=st.sampled_from(["", "/", "a/"]), start=SHORT, limit=st.integers(1, 5))
def test_pages_together_are_the_listing(shared, names, prefix, delimiter, start, limit):
    for found in shared.list("bucket").objects:
        shared.delete("bucket", found.name)
    for name in names:
        shared.put("bucket", name, b"")
    objects, prefixes, after, pages = [], [], "", 0
    while pages == 0 or after:
        page = shared.list("bucket", prefix=prefix, delimiter=delimiter, start=start, after=after, limit=limit)
        assert len(page.objects) + len(page.prefixes) <= limit
        objects += [found.name for found in page.objects]
        prefixes += page.prefixes
        after, pages = page.after, pages + 1
    wanted = sorted((name for name in names if name.startswith(prefix) and name >= start), key=str.encode)
    cut = {
        prefix + rest.partition(delimiter)[0] + delimiter
        for rest in (name.removeprefix(prefix) for name in wanted)
        if delimiter and delimiter in rest
    }
    assert objects == [n for n in wanted if not delimiter or delimiter not in n.removeprefix(prefix)]
    assert prefixes == sorted(cut, key=str.encode)
