"""Resumable uploads: sessions that outlive the connection and the server.

The row says how many bytes are safe; the file may have more (a chunk that was cut), which the next chunk overwrites.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from solo.storage.blobs import PIECE, Hasher
from solo.storage.core import Storage
from solo.storage.errors import StorageError, full_disk, invalid
from solo.storage.objects import Conditions, Content, Object

CHUNK = 256 * 1024  # every chunk but the last is a multiple of this


class Upload(NamedTuple):
    """One session. `checks` are the digests that the client gave; `result` is the object once it is finished."""

    id: str
    bucket: str
    name: str
    fields: dict[str, Any]
    conditions: Conditions
    checks: dict[str, str]
    total: int | None
    received: int
    result: Object | None


def start(
    storage: Storage,
    bucket: str,
    name: str,
    fields: Mapping[str, Any],
    conditions: Conditions,
    checks: Mapping[str, str],
    total: int | None,
) -> str:
    """A new session's id. Raises StorageError: 404, and 412 at once if a condition does not hold already."""
    conditions.check(storage.find(bucket, name))
    upload = uuid.uuid4().hex
    with full_disk():
        (storage.partial / upload).touch()
    with storage.change() as db:
        texts = [json.dumps(value) for value in (fields, conditions, checks)]
        row = (upload, bucket, name, *texts, total, 0, time.time(), None)
        db.execute("INSERT INTO uploads VALUES (?,?,?,?,?,?,?,?,?,?)", row)
    return upload


def find(storage: Storage, upload: str) -> Upload:
    """Raises StorageError(404)."""
    with storage.change() as db:
        row = db.execute("SELECT * FROM uploads WHERE id=?", (upload,)).fetchone()
    if row is None:
        raise StorageError(404, "notFound", "No such upload session; it has expired or never was.")
    _, bucket, name, fields, conditions, checks, total, received, _, result = row
    return Upload(
        upload,
        bucket,
        name,
        json.loads(fields),
        Conditions(*json.loads(conditions)),
        json.loads(checks),
        total,
        received,
        Object(*json.loads(result)) if result else None,
    )


class Chunk:
    """The bytes of one PUT, written behind those that are safe. As a context manager; `commit` makes them safe, too."""

    def __init__(self, storage: Storage, upload: Upload, start: int) -> None:
        if start > upload.received:
            raise invalid(
                f"Invalid request. According to the Content-Range header, the upload offset is {start} byte(s), "
                f"which exceeds already uploaded size of {upload.received} byte(s)."
            )
        self._storage, self._upload = storage, upload
        self._known = upload.received - start  # bytes that are here already and are sent again
        self.end = start
        self._file = (storage.partial / upload.id).open("r+b", buffering=0)
        self._file.seek(upload.received)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self._file.truncate(self._upload.received)  # a disk that is full gets its room back
        self._file.close()

    def write(self, data: bytes) -> None:
        self.end += len(data)
        skipped = min(self._known, len(data))
        self._known -= skipped
        with full_disk():
            rest = memoryview(data)[skipped:]
            while rest:
                rest = rest[self._file.write(rest) :]

    def commit(self) -> Upload:
        received = max(self.end, self._upload.received)
        with full_disk():
            self._file.truncate(received)
            os.fsync(self._file.fileno())
        with self._storage.change() as db:
            db.execute("UPDATE uploads SET received=? WHERE id=?", (received, self._upload.id))
        return self._upload._replace(received=received)


def finish(storage: Storage, upload: Upload, checks: Mapping[str, str]) -> Object:
    """Make the received bytes an object. Raises StorageError: 400 if a digest does not match, 412."""
    file = storage.partial / upload.id
    content = _content(file)
    check(content, {**upload.checks, **checks})
    made = storage.commit(upload.bucket, upload.name, file, content, upload.fields, upload.conditions, upload.id)
    file.unlink()
    return made


def check(content: Content, checks: Mapping[str, str]) -> None:
    """Compare with the digests that the client gave ("crc32c", "md5"). Raises StorageError(400)."""
    for kind, value in checks.items():
        real = content.crc32c if kind == "crc32c" else content.md5
        if value != real:
            raise invalid(f'Provided {kind.upper()} "{value}" doesn\'t match calculated {kind.upper()} "{real}".')


_busy: set[str] = set()
_busy_lock = threading.Lock()


@contextmanager
def alone(upload: str) -> Iterator[None]:
    """One request at a time for a session: a client that lost its answer may come again while the first is at work."""
    with _busy_lock:
        if upload in _busy:
            raise StorageError(503, "backendError", "Another request is writing this upload; try again.")
        _busy.add(upload)
    try:
        yield
    finally:
        with _busy_lock:
            _busy.discard(upload)


def _content(file: Path) -> Content:
    hasher = Hasher()
    with file.open("rb") as stream:
        while piece := stream.read(PIECE):
            hasher.update(piece)
    return hasher.content()
