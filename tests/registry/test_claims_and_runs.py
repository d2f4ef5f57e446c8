from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest

from pipelines.errors import Exit, YardError
from pipelines.registry import open_registry

WHEN = datetime(2026, 11, 24, 2, 3, 4, tzinfo=UTC)


def test_the_first_owner_has_it_and_keeps_it(registry, storage_server, bucket):
    key = "ci/digits/0123abc-1"
    assert registry.claimed(key) is None
    assert registry.claim(key, "uid-1")
    assert not registry.claim(key, "uid-2")
    assert registry.claim(key, "uid-1")
    assert registry.claimed(key) == "uid-1"
    assert storage_server.storage.get(bucket, f"claims/{key}.json")


@pytest.mark.parametrize("kind", ["lost", "after", "before"])
def test_a_claim_whose_answer_was_lost_is_still_mine(registry, faults, kind):
    fault = faults.order(kind, "POST", "/upload/")
    assert registry.claim("ci/x/1-1", "me")
    assert fault.hits == 1


def test_twenty_at_once_are_one(registry):
    with ThreadPoolExecutor(20) as pool:
        won = list(pool.map(lambda n: registry.claim("ci/x/1-1", f"uid-{n}"), range(20)))
    assert won.count(True) == 1
    assert registry.claimed("ci/x/1-1") == f"uid-{won.index(True)}"


def test_a_claim_is_one_request(registry, faults):
    registry.claim("ci/x/1-1", "me")
    assert [method for method, _ in faults.requests] == ["POST"]


@pytest.mark.parametrize("key", ["", "/", "a/", "a/../b", "../x"])
def test_keys_that_are_none(registry, key):
    with pytest.raises(YardError, match="not a key"):
        registry.claim(key, "me")


def test_a_claim_needs_no_pydantic(storage_server, bucket):
    code = (
        "import sys; from pipelines.registry import open_registry; assert open_registry().claim('k', 'me');"
        "print('pydantic' in sys.modules)"
    )
    env = {"STORAGE_URL": storage_server.url, "REGISTRY_BUCKET": bucket, "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_missing_bucket_is_not_an_unclaimed_key(storage_server):
    registry = open_registry({"STORAGE_URL": storage_server.url, "REGISTRY_BUCKET": "no-such-bucket"}, deadline=1)
    for ask in (
        lambda: registry.claimed("k"),
        lambda: registry.claim("k", "me"),
        lambda: registry.get_alias("s", "serving"),
    ):
        with pytest.raises(YardError, match="gs://no-such-bucket: there is no such bucket") as caught:
            ask()
        assert caught.value.code == Exit.NOT_FOUND


def test_a_run_is_there_when_its_manifest_is(registry, faults):
    name = registry.write_run("ct-x-1", {"metrics.json": b"{}", "plots/a b.png": b"png"}, {"outcome": "accepted"}, WHEN)
    assert name == "20261124T020304Z-ct-x-1"
    assert registry.runs() == [name]
    assert registry.get_run(name)["outcome"] == "accepted"
    assert set(registry.get_run(name)["files"]) == {"metrics.json", "plots/a b.png"}
    assert registry.run_file(name, "plots/a b.png") == b"png"
    uploads = [path for method, path in faults.requests if method == "POST"]
    assert len(uploads) == 4


def test_a_run_without_manifest_is_not_listed_and_is_finished_by_a_retry(registry, faults):
    fault = faults.order("full", "POST", "/upload/", skip=2)  # after the claim and the first file
    with pytest.raises(YardError, match="507"):
        registry.write_run("r", {"a": b"1", "b": b"2"}, {}, WHEN)
    assert fault.hits == 1
    assert registry.runs() == []
    name = registry.write_run("r", {"a": b"1", "b": b"2"}, {}, WHEN + timedelta(minutes=1))
    assert name == "20261124T020304Z-r"
    assert registry.runs() == [name]


def test_a_run_is_written_once(registry):
    name = registry.write_run("r", {"a": b"1"}, {"n": 1}, WHEN)
    assert registry.write_run("r", {"a": b"2"}, {"n": 2}, WHEN + timedelta(hours=1)) == name
    assert registry.run_file(name, "a") == b"1"
    assert registry.runs() == [name]


def test_runs_are_listed_by_time_in_utc(registry):
    registry.write_run("b", {}, {}, WHEN)
    registry.write_run("a", {}, {}, WHEN + timedelta(days=1))
    registry.write_run("z", {}, {}, WHEN.astimezone(timezone(timedelta(hours=9))) - timedelta(hours=1))
    assert registry.runs() == ["20261124T010304Z-z", "20261124T020304Z-b", "20261125T020304Z-a"]


def test_evidence_that_was_changed_is_not_shown(registry, storage_server, bucket):
    name = registry.write_run("r", {"a": b"1"}, {}, WHEN)
    storage_server.storage.put(bucket, f"runs/{name}/a", b"2")
    with pytest.raises(YardError, match="corrupt"):
        registry.run_file(name, "a")
    with pytest.raises(YardError, match="no file 'b'"):
        registry.run_file(name, "b")
    with pytest.raises(YardError, match="no run 20260101T000000Z-x"):
        registry.get_run("20260101T000000Z-x")


@pytest.mark.parametrize("file", ["", "../x", "/abs", "a//b", "a\nb"])
def test_names_of_evidence_that_are_none(registry, file):
    with pytest.raises(YardError, match="not a file name"):
        registry.write_run("r", {file: b""}, {}, WHEN)
