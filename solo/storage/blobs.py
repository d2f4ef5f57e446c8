"""Bytes on disk, each file named by the digest of its content, and bytes on their way there."""

from __future__ import annotations

import base64
import hashlib
import os
import uuid
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self

import google_crc32c

from solo.storage.errors import full_disk
from solo.storage.objects import Content

PIECE = 1 << 20


class Hasher:
    """The three digests of a stream of bytes."""

    def __init__(self) -> None:
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._crc32c, self.size = 0, 0

    def update(self, data: bytes) -> None:
        self._sha256.update(data)
        self._md5.update(data)
        self._crc32c = google_crc32c.extend(self._crc32c, data)
        self.size += len(data)

    def content(self) -> Content:
        crc32c, md5 = self._crc32c.to_bytes(4, "big"), self._md5.digest()
        return Content(
            self.size, self._sha256.hexdigest(), base64.b64encode(crc32c).decode(), base64.b64encode(md5).decode()
        )


class Incoming:
    """A temporary file, hashed as it grows. As a context manager it removes itself; what is kept has another link."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / uuid.uuid4().hex
        with full_disk():
            self._file = self.path.open("xb", buffering=0)
        self._hasher = Hasher()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Raises StorageError(507) when the disk is full."""
        with full_disk():
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        self._hasher.update(data)

    def finish(self) -> Content:
        """Everything is on disk when this returns."""
        with full_disk():
            os.fsync(self._file.fileno())
        return self._hasher.content()


class Blobs:
    """The directory of files by digest. Not locked: `Storage` calls it inside its own lock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, sha256: str) -> Path:
        return self.directory / sha256[:2] / sha256

    def keep(self, file: Path, sha256: str) -> None:
        """Give `file` its place by digest, atomically. `file` stays, so a crash before the commit loses nothing."""
        target = self.path(sha256)
        link = file.with_name(f"{file.name}.link")
        with full_disk():
            target.parent.mkdir(exist_ok=True)
            link.unlink(missing_ok=True)
            os.link(file, link)
            link.replace(target)
            link.unlink(missing_ok=True)  # rename(2) leaves it when both names are one file already

    def remove(self, sha256: str) -> None:
        self.path(sha256).unlink(missing_ok=True)

    def collect(self, wanted: Collection[str]) -> None:
        """Remove the files that nothing names: writes that were cut before their commit."""
        for file in self.directory.glob("??/*"):
            if file.name not in wanted:
                file.unlink()
