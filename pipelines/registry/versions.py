"""Versions: `<axis>/<name>/versions/000007.json`, one immutable record each, numbered from 1 without a gap."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pipelines.errors import Exit, YardError
from pipelines.registry.bucket import ExistsError
from pipelines.registry.names import check, digest_hex
from pipelines.registry.trees import AT_ONCE, Trees

AXES = ("data", "feature", "model", "app")
TRIES = 50  # numbers lost to other writers before this gives up


class Version(NamedTuple):
    """One version of an axis; `info` is what its maker wrote down about it."""

    axis: str
    name: str
    number: int
    digest: str
    created: str
    info: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.axis}/{self.name}/v{self.number}"


class Versions(Trees):
    """The four independent version lines of each name."""

    def add_version(self, axis: str, name: str, digest: str, info: Mapping[str, Any]) -> Version:
        """The version with this digest: the one that exists, or the next free number.

        The next number is the only place where anybody can write, and the list shows every digest: so two writers of
        one digest meet there, the second finds the first's record, and a retry finds its own.
        """
        digest_hex(digest)
        prefix = _prefix(axis, name)
        for _ in range(TRIES):
            entries = self.bucket.entries(prefix)
            for entry in entries:
                if entry.metadata.get("digest") == digest:
                    return self.get_version(axis, name, _number(entry.name))
            number = max((_number(entry.name) for entry in entries), default=0) + 1
            created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            version = Version(axis, name, number, digest, created, dict(info))
            record = json.dumps(version._asdict(), sort_keys=True, separators=(",", ":"))
            try:
                self.bucket.create(f"{prefix}{number:06}.json", record.encode(), {"digest": digest})
            except ExistsError:
                continue
            return version
        raise YardError("every number was taken by another writer", where=f"{axis}/{name}", code=Exit.UNAVAILABLE)

    def names(self, axis: str) -> list[str]:
        """The names that have versions on an axis."""
        return self.bucket.folders(f"{_axis(axis)}/")

    def versions(self, axis: str, name: str) -> list[Version]:
        """All versions of a name, oldest first; [] for a name that has none."""
        numbers = [_number(entry.name) for entry in self.bucket.entries(_prefix(axis, name))]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda number: self.get_version(axis, name, number), numbers))

    def latest(self, axis: str, name: str) -> Version | None:
        entries = self.bucket.entries(_prefix(axis, name))
        return self.get_version(axis, name, _number(entries[-1].name)) if entries else None

    def get_version(self, axis: str, name: str, number: int) -> Version:
        """Raises YardError: NOT_FOUND, CONFLICT if the record is not one."""
        where = f"{_prefix(axis, name)}{number:06}.json"
        found = self.bucket.find(where)
        if found is None:
            raise YardError(f"no version {axis}/{name}/v{number}", where=str(self.bucket), code=Exit.NOT_FOUND)
        try:
            version = Version(**json.loads(found[0]))
        except (ValueError, TypeError):
            version = None
        if version is None or (version.axis, version.name, version.number) != (axis, name, number):
            raise YardError("not the record of this version", where=f"{self.bucket}/{where}", code=Exit.CONFLICT)
        return version


def _axis(axis: str) -> str:
    if axis not in AXES:
        raise YardError(f"no axis {axis!r}", todo=f"one of {', '.join(AXES)}")
    return axis


def _prefix(axis: str, name: str) -> str:
    return f"{_axis(axis)}/{check('name', name)}/versions/"


def _number(name: str) -> int:
    match = re.search(r"/versions/([0-9]{6})\.json$", name)
    if not match:
        raise YardError("an object that no version has written", where=name, todo="remove it", code=Exit.CONFLICT)
    return int(match[1])
