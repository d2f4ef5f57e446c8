"""The store itself: buckets and objects in a SQLite index (WAL), bytes in files by digest. For use from any thread.

A write is a temporary file, fsync, a rename to its digest, and last the row: a crash leaves at worst a file that no row
names, which the next start removes.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from solo.storage.blobs import PIECE, Blobs, Incoming
from solo.storage.errors import StorageError, full, invalid, no_bucket, no_object
from solo.storage.objects import FIELDS, Conditions, Content, Listing, Object

SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, created TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects (
  bucket TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL, metageneration INTEGER NOT NULL,
  size INTEGER NOT NULL, sha256 TEXT NOT NULL, crc32c TEXT NOT NULL, md5 TEXT NOT NULL,
  created TEXT NOT NULL, updated TEXT NOT NULL, fields TEXT NOT NULL,
  PRIMARY KEY (bucket, name)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS objects_by_content ON objects (sha256);
CREATE TABLE IF NOT EXISTS uploads (
  id TEXT PRIMARY KEY, bucket TEXT NOT NULL, name TEXT NOT NULL, fields TEXT NOT NULL, conditions TEXT NOT NULL,
  checks TEXT NOT NULL, total INTEGER, received INTEGER NOT NULL, opened REAL NOT NULL, result TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS generations (last INTEGER NOT NULL);
"""
ANY = Conditions()
UPLOAD_LIFE = 7 * 24 * 3600  # seconds; as long as GCS keeps a resumable session


class Storage:
    """Everything below one directory. One process at a time: a second one is refused with StorageError(409)."""

    def __init__(self, home: Path) -> None:
        self.temporary, self.partial = home / "tmp", home / "uploads"
        for directory in (self.temporary, self.partial, home / "blobs"):
            directory.mkdir(parents=True, exist_ok=True)
        self._blobs = Blobs(home / "blobs")
        self._owner = _own(home)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(home / "index.db", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "PRAGMA synchronous=NORMAL"
        )  # survives kill -9; a power cut may lose the last writes, never mix them up
        self._db.executescript(SCHEMA)
        self._collect()

    def close(self) -> None:
        with self._lock:
            self._db.close()
            self._owner.close()

    # -- buckets

    def create_bucket(self, bucket: str) -> None:
        """Raises StorageError: 409 if it is there already, 400 for a bad name."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", bucket):
            raise invalid(f"Invalid bucket name: '{bucket}'")
        with self.change() as db:
            if not db.execute("INSERT OR IGNORE INTO buckets VALUES (?, ?)", (bucket, _now())).rowcount:
                raise StorageError(
                    409,
                    "conflict",
                    "Your previous request to create the named bucket succeeded and you already own it.",
                )

    def ensure_bucket(self, bucket: str) -> None:
        """Create the bucket unless it is there."""
        if bucket not in self.buckets():
            self.create_bucket(bucket)

    def buckets(self) -> dict[str, str]:
        """Name → time of creation, by name."""
        with self._lock:
            return dict(self._db.execute("SELECT name, created FROM buckets ORDER BY name"))

    # -- writing

    def put(
        self, bucket: str, key: str, data: bytes, fields: Mapping[str, Any] | None = None, conditions: Conditions = ANY
    ) -> Object:
        """Store bytes. Raises StorageError: 404 no such bucket, 412 a condition does not hold, 507 the disk is full."""
        with Incoming(self.temporary) as incoming:
            incoming.write(data)
            return self.commit(bucket, key, incoming.path, incoming.finish(), fields or {}, conditions)

    def put_file(
        self, bucket: str, key: str, path: Path, fields: Mapping[str, Any] | None = None, conditions: Conditions = ANY
    ) -> Object:
        """Store a copy of a file; raises like `put`."""
        with Incoming(self.temporary) as incoming, path.open("rb") as source:
            while piece := source.read(PIECE):
                incoming.write(piece)
            return self.commit(bucket, key, incoming.path, incoming.finish(), fields or {}, conditions)

    def commit(
        self,
        bucket: str,
        key: str,
        file: Path,
        content: Content,
        fields: Mapping[str, Any],
        conditions: Conditions,
        upload: str | None = None,
    ) -> Object:
        """Make a complete, fsynced file an object; with `upload`, that session ends in the same transaction."""
        _check_name(key)
        with self.change(content.sha256) as db:
            current = self.find(bucket, key)
            conditions.check(current)
            self._blobs.keep(file, content.sha256)
            now = _now()
            made = Object(bucket, key, self._generation(), 1, *content, now, now, dict(fields))
            self._write(made)
            if upload is not None:
                db.execute("UPDATE uploads SET result=? WHERE id=?", (json.dumps(made), upload))
        self._sweep(current)
        return made

    def patch(
        self, bucket: str, key: str, fields: Mapping[str, Any], generation: int | None, conditions: Conditions
    ) -> Object:
        """Change an object's fields; None removes one, or a key of `metadata`. Adds 1 to metageneration."""
        with self.change():
            current = self.get(bucket, key, generation)
            conditions.check(current)
            merged = dict(current.fields)
            for name, value in fields.items():
                if name == "metadata" and value is not None:
                    value = {k: v for k, v in {**merged.get(name, {}), **value}.items() if v is not None}
                merged[name] = value
            merged = {name: value for name, value in merged.items() if value is not None}
            made = current._replace(metageneration=current.metageneration + 1, updated=_now(), fields=merged)
            self._write(made)
        return made

    def copy(self, source: Object, bucket: str, key: str, conditions: Conditions) -> Object:
        """The bytes of `source` and its fields under another name. Raises StorageError(404) if it changed meanwhile."""
        _check_name(key)
        with self.change():
            self.get(source.bucket, source.name, source.generation)
            current = self.find(bucket, key)
            conditions.check(current)
            now = _now()
            made = source._replace(
                bucket=bucket, name=key, generation=self._generation(), metageneration=1, created=now, updated=now
            )
            self._write(made)
        self._sweep(current)
        return made

    def delete(self, bucket: str, key: str, generation: int | None = None, conditions: Conditions = ANY) -> None:
        """Raises StorageError: 404, 412."""
        with self.change() as db:
            current = self.get(bucket, key, generation)
            conditions.check(current)
            db.execute("DELETE FROM objects WHERE bucket=? AND name=?", (bucket, key))
        self._sweep(current)

    # -- reading

    def get(self, bucket: str, key: str, generation: int | None = None) -> Object:
        """Raises StorageError(404) for a missing bucket, object or generation."""
        found = self.find(bucket, key)
        if found is None or generation not in (None, found.generation):
            raise no_object(bucket, key)
        return found

    def find(self, bucket: str, key: str) -> Object | None:
        """Raises StorageError(404) for a missing bucket."""
        with self._lock:
            self._require(bucket)
            row = self._db.execute("SELECT * FROM objects WHERE bucket=? AND name=?", (bucket, key)).fetchone()
        return _object(row) if row else None

    def open_blob(self, bucket: str, key: str) -> Path:
        """The file with an object's bytes, to read only; it is there until the object is replaced or deleted.

        Raises StorageError(404), which is a FileNotFoundError if it is the object that is missing.
        """
        return self._blobs.path(self.get(bucket, key).sha256)

    def open(self, bucket: str, key: str, generation: int | None = None) -> tuple[Object, IO[bytes]]:
        """An object and its bytes, which stay readable whatever happens to the object."""
        with self._lock:
            found = self.get(bucket, key, generation)
            try:
                return found, self._blobs.path(found.sha256).open("rb")
            except FileNotFoundError:
                raise StorageError(
                    500, "backendError", f"The bytes of {bucket}/{key} are missing from the disk."
                ) from None

    def read(self, bucket: str, key: str) -> bytes:
        """All bytes of an object. Raises StorageError(404)."""
        with self.open(bucket, key)[1] as file:
            return file.read()

    def list(
        self, bucket: str, *, prefix: str = "", delimiter: str = "", start: str = "", after: str = "", limit: int = 1000
    ) -> Listing:
        """Up to `limit` objects and prefixes by name: from `start` on, behind `after` (of the last page)."""
        objects: list[Object] = []
        prefixes: list[str] = []
        with self._lock:
            self._require(bucket)
            query = "SELECT * FROM objects WHERE bucket=? AND name>=? ORDER BY name"
            for row in self._db.execute(query, (bucket, max(prefix, start, after))):
                name = row[1]
                if not name.startswith(prefix):
                    break
                cut = name.find(delimiter, len(prefix)) if delimiter else -1
                entry = name if cut < 0 else name[: cut + len(delimiter)]
                if entry == after:
                    continue
                if len(objects) + len(prefixes) == limit:
                    return Listing(objects, prefixes, after)
                after = entry
                if cut < 0:
                    objects.append(_object(row))
                else:
                    prefixes.append(entry)
        return Listing(objects, prefixes, "")

    # -- inside

    @contextmanager
    def change(self, *new: str) -> Iterator[sqlite3.Connection]:
        """One transaction. When it fails, the files of the digests `new` go too, unless another object has them."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                for sha256 in new:
                    self._forget(sha256)
                if isinstance(error, sqlite3.OperationalError) and re.search(r"full|I/O", str(error)):
                    raise full(f"its index says: {error}") from None
                raise

    def _require(self, bucket: str) -> None:
        if self._db.execute("SELECT 1 FROM buckets WHERE name=?", (bucket,)).fetchone() is None:
            raise no_bucket()

    def _generation(self) -> int:
        """Microseconds, as GCS has them, but never the same or less again, whatever the clock does."""
        (last,) = self._db.execute("SELECT max(last) FROM generations").fetchone()
        generation = max(time.time_ns() // 1000, (last or 0) + 1)
        self._db.execute("DELETE FROM generations")
        self._db.execute("INSERT INTO generations VALUES (?)", (generation,))
        return generation

    def _write(self, made: Object) -> None:
        row = made._replace(fields=json.dumps(made.fields))  # type: ignore[arg-type]
        self._db.execute("INSERT OR REPLACE INTO objects VALUES (?,?,?,?,?,?,?,?,?,?,?)", row)

    def _sweep(self, replaced: Object | None) -> None:
        if replaced is not None:
            with self._lock:
                self._forget(replaced.sha256)

    def _forget(self, sha256: str) -> None:
        if self._db.execute("SELECT 1 FROM objects WHERE sha256=?", (sha256,)).fetchone() is None:
            self._blobs.remove(sha256)

    def _collect(self) -> None:
        for file in self.temporary.iterdir():
            file.unlink()
        self._db.execute("DELETE FROM uploads WHERE opened < ?", (time.time() - UPLOAD_LIFE,))
        open_uploads = {row[0] for row in self._db.execute("SELECT id FROM uploads WHERE result IS NULL")}
        for file in self.partial.iterdir():
            if file.name not in open_uploads:
                file.unlink()
        self._blobs.collect({row[0] for row in self._db.execute("SELECT sha256 FROM objects")})


def writable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those of FIELDS, type-checked. Raises StorageError(400)."""
    for name, value in fields.items():
        if name == "metadata":
            good = value is None or (
                isinstance(value, dict) and all(v is None or isinstance(v, str) for v in value.values())
            )
        else:
            good = name in FIELDS and (value is None or isinstance(value, str))
        if not good:
            raise invalid(f"Invalid value for field {name!r}")
    return dict(fields)


def _check_name(key: str) -> None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise invalid("Object names must be valid UTF-8") from None
    if not 1 <= size <= 1024 or key in (".", "..") or "\r" in key or "\n" in key:
        raise invalid(f"Invalid object name: {key[:80]!r}")


def _object(row: tuple[Any, ...]) -> Object:
    return Object._make((*row[:-1], json.loads(row[-1])))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _own(home: Path) -> IO[bytes]:
    """A lock for the life of this process. Not flock: a forked child would inherit that and keep the store busy."""
    file = (home / "lock").open("ab")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise StorageError(409, "conflict", f"{home} is in use by another process") from None
    os.ftruncate(file.fileno(), 0)
    os.write(file.fileno(), f"{os.getpid()}\n".encode())
    return file
