"""The step `backup`: a file becomes one new object of the backup bucket."""

from __future__ import annotations

import re

import pytest

from pipelines.errors import Exit, YardError
from pipelines.steps.backup import backup


@pytest.fixture
def dump(tmp_path):
    (tmp_path / "archive").write_bytes(b"PGDMP" + bytes(100_000))
    return tmp_path / "archive"


@pytest.fixture
def copies(storage_server, bucket, monkeypatch):
    monkeypatch.setenv("STORAGE_URL", storage_server.url)
    monkeypatch.setenv("BACKUP_BUCKET", bucket)
    monkeypatch.setenv("REGISTRY_BUCKET", "not-this-one")
    return storage_server.client().bucket(bucket)


def test_a_file_is_copied_under_the_time_of_its_making(dump, copies, capsys):
    backup(file=dump, into="databases/archive")
    (blob,) = copies.list_blobs()
    assert re.fullmatch(r"databases/archive/\d{8}T\d{6}Z", blob.name)
    assert blob.download_as_bytes() == dump.read_bytes()
    assert f"{blob.name}: 100005 bytes" in capsys.readouterr().out


def test_an_older_copy_stays_as_it_is(dump, copies, monkeypatch):
    class Clock:
        @staticmethod
        def now(_):
            import datetime

            return datetime.datetime(2026, 11, 28, 3)

    monkeypatch.setattr("pipelines.steps.backup.datetime", Clock)
    backup(file=dump, into="databases/archive")
    before = dump.read_bytes()
    dump.write_bytes(b"another")
    with pytest.raises(YardError, match="name is taken") as refused:
        backup(file=dump, into="databases/archive")
    assert refused.value.code == Exit.CONFLICT
    (blob,) = copies.list_blobs()
    assert blob.download_as_bytes() == before


@pytest.mark.parametrize("content", [None, b""])
def test_nothing_is_not_a_copy(tmp_path, copies, content):
    if content is not None:
        (tmp_path / "archive").write_bytes(content)
    with pytest.raises(YardError, match="nothing to copy"):
        backup(file=tmp_path / "archive", into="databases/archive")
    assert list(copies.list_blobs()) == []


def test_without_a_bucket_the_option_is_named(dump, monkeypatch):
    monkeypatch.delenv("BACKUP_BUCKET", raising=False)
    with pytest.raises(YardError, match="BACKUP_BUCKET") as refused:
        backup(file=dump, into="databases/archive")
    assert "addons.backup.bucket" in refused.value.todo
