"""The only state of solo: Kubernetes-shaped objects in one SQLite file (WAL).

It plays etcd's part. Every controller is a loop that reads objects, computes, and writes objects in one transaction,
so a
crash between two transactions is just one more call of the loop. Used from the event loop's thread only.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

Object = dict[str, Any]

SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
  kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (kind, namespace, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS labels (
  kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
  PRIMARY KEY (kind, namespace, name, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS labels_by_value ON labels (kind, key, value);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""


class AlreadyExistsError(Exception):
    """An object of this kind, namespace and name is there already."""


class NotFoundError(Exception):
    """No object of this kind, namespace and name."""


class ConflictError(Exception):
    """The object changed since it was read (`metadata.resourceVersion` differs)."""


class Change(NamedTuple):
    """What a watcher sees: `type` is ADDED, MODIFIED or DELETED."""

    type: str
    object: Object


def now() -> str:
    """The time as Kubernetes writes it, in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """Objects by (kind, namespace, name); cluster-wide kinds use namespace ""."""

    def __init__(self, path: Path | str = ":memory:") -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        # NORMAL survives the death of the process; only a power cut may lose the last transactions, and reconcile
        # finds those
        self.db.execute("PRAGMA synchronous=NORMAL")
        self.db.executescript(SCHEMA)
        self._watchers: list[tuple[str, asyncio.Queue[Change]]] = []
        self._pending: list[Change] = []
        self._depth = 0

    def close(self) -> None:
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; may be nested (the outermost one commits). Watchers hear of it after the commit."""
        if self._depth == 0:
            self.db.execute("BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            if self._depth == 0:
                self.db.execute("ROLLBACK")
                self._pending.clear()
            raise
        self._depth -= 1
        if self._depth == 0:
            self.db.execute("COMMIT")
            changes, self._pending = self._pending, []
            for change in changes:
                for kind, queue in self._watchers:
                    if kind == change.object["kind"]:
                        queue.put_nowait(change)

    def get(self, kind: str, namespace: str, name: str) -> Object:
        """Raises NotFoundError."""
        row = self.db.execute(
            "SELECT body FROM objects WHERE kind=? AND namespace=? AND name=?", (kind, namespace, name)
        ).fetchone()
        if row is None:
            raise NotFoundError(f'{kind} "{name}" not found in namespace "{namespace}"')
        obj: Object = json.loads(row[0])
        return obj

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        try:
            return self.get(kind, namespace, name)
        except NotFoundError:
            return None

    def list(self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[Object]:
        """Objects of a kind (in all namespaces if None) that carry all of `labels`, oldest name first."""
        query, args = "SELECT body FROM objects o WHERE kind=?", [kind]
        if namespace is not None:
            query += " AND namespace=?"
            args.append(namespace)
        for key, value in (labels or {}).items():
            query += (
                " AND EXISTS (SELECT 1 FROM labels l WHERE l.kind=o.kind AND l.namespace=o.namespace AND l.name=o.name"
                " AND l.key=? AND l.value=?)"
            )
            args += [key, value]
        return [json.loads(body) for (body,) in self.db.execute(query + " ORDER BY namespace, name", args)]

    def create(self, obj: Object) -> Object:
        """Store a new object; gives it uid, creationTimestamp and resourceVersion. Raises AlreadyExistsError."""
        meta = obj["metadata"]
        meta.setdefault("namespace", "")
        if "name" not in meta:
            meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
        kind, namespace, name = obj["kind"], meta["namespace"], meta["name"]
        with self.transaction():
            if self.find(kind, namespace, name) is not None:
                raise AlreadyExistsError(f'{kind} "{name}" already exists in namespace "{namespace}"')
            meta.setdefault("uid", str(uuid.uuid4()))
            meta.setdefault("creationTimestamp", now())
            self._put(obj, "ADDED")
        return obj

    def update(self, obj: Object, *, check: bool = False) -> Object:
        """Replace an object. With `check`, raises ConflictError if `resourceVersion` is not the stored one;
        NotFoundError.
        """
        meta = obj["metadata"]
        with self.transaction():
            old = self.get(obj["kind"], meta.get("namespace", ""), meta["name"])
            if check and meta.get("resourceVersion") != old["metadata"]["resourceVersion"]:
                raise ConflictError(f"{obj['kind']} {meta['name']!r} changed meanwhile")
            self._put(obj, "MODIFIED")
        return obj

    def apply(self, obj: Object) -> Object:
        """Create, or replace while keeping uid, creation time and status; no write and no event if nothing differs."""
        meta = obj["metadata"]
        meta.setdefault("namespace", "")
        with self.transaction():
            old = self.find(obj["kind"], meta["namespace"], meta["name"])
            if old is None:
                return self.create(obj)
            for key in ("uid", "creationTimestamp", "resourceVersion"):
                meta[key] = old["metadata"][key]
            if "status" in old:
                obj.setdefault("status", old["status"])
            return old if obj == old else self.update(obj)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Raises NotFoundError."""
        with self.transaction():
            obj = self.get(kind, namespace, name)
            for table in ("objects", "labels"):
                self.db.execute(
                    f"DELETE FROM {table} WHERE kind=? AND namespace=? AND name=?",  # noqa: S608 - a constant
                    (kind, namespace, name),
                )
            self._pending.append(Change("DELETED", obj))

    def next(self, counter: str) -> int:
        """The next number of a named counter, from 1."""
        row = self.db.execute(
            "INSERT INTO counters VALUES (?, 1) ON CONFLICT DO UPDATE SET value = value + 1 RETURNING value", (counter,)
        ).fetchone()
        return int(row[0])

    async def watch(self, kind: str) -> AsyncIterator[Change]:
        """Changes of a kind from now on, in commit order. List after the first `anext` is scheduled, or use
        `subscribe`.
        """
        queue = self.subscribe(kind)
        try:
            while True:
                yield await queue.get()
        finally:
            self.unsubscribe(queue)

    def subscribe(self, kind: str) -> asyncio.Queue[Change]:
        """A queue that receives each later change of a kind; subscribe first, then list, and nothing is missed."""
        queue: asyncio.Queue[Change] = asyncio.Queue()
        self._watchers.append((kind, queue))
        return queue

    def unsubscribe(self, queue: asyncio.Queue[Change]) -> None:
        self._watchers = [entry for entry in self._watchers if entry[1] is not queue]

    def _put(self, obj: Object, change: str) -> None:
        meta = obj["metadata"]
        key = (obj["kind"], meta.get("namespace", ""), meta["name"])
        meta["resourceVersion"] = str(self.next("resourceVersion"))
        body = json.dumps(obj, separators=(",", ":"))
        self.db.execute("INSERT OR REPLACE INTO objects VALUES (?,?,?,?,?)", (*key, int(meta["resourceVersion"]), body))
        self.db.execute("DELETE FROM labels WHERE kind=? AND namespace=? AND name=?", key)
        labels = (meta.get("labels") or {}).items()
        self.db.executemany("INSERT INTO labels VALUES (?,?,?,?,?)", [(*key, k, v) for k, v in labels])
        self._pending.append(Change(change, json.loads(body)))
