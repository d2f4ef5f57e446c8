"""Reads a container's log, while it is written, after it has ended, across a restart of solo."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

from solo.pods.directory import PodDirectory, State

POLL_SECONDS = 0.1
BLOCK = 1 << 16
DROPPED = "… solo keeps the last 5 to 10 MiB of a log: output is missing here"


async def log_lines(
    home: Path, pod_uid: str, container: str = "main", *, follow: bool = False, tail: int | None = None
) -> AsyncIterator[str]:
    """The log's lines, without their ends; with `tail`, begins with the last so many.

    With `follow`, waits for the pod to start, and then for more until it has ended or was deleted.
    """
    directory = PodDirectory(home, pod_uid)
    log = _Rotated(directory.path / f"{container}.log")
    try:
        if tail is not None:
            last: deque[str] = deque(maxlen=tail)
            while lines := log.read():
                last.extend(lines)
            for line in last:
                yield line
        while True:
            ended = not follow or _has_ended(directory, begun=log.begun)  # before the read: what it wrote is there then
            while lines := log.read():
                for line in lines:
                    yield line
                await asyncio.sleep(0)  # ten megabytes in one go must not hold up the loop
            if ended:
                break
            await asyncio.sleep(POLL_SECONDS)
        if log.rest:
            yield log.rest.decode(errors="replace")
    finally:
        log.close()


def _has_ended(directory: PodDirectory, *, begun: bool) -> bool:
    if not directory.path.exists():
        return begun  # deleted while we read
    if (directory.path / "exit.json").exists():
        return True
    # before it has started the lock may be the runtime's own, and to look at it from this process would release it
    return (directory.path / "started.json").exists() and directory.examine()[0] is not State.RUNNING


class _Rotated:
    """`main.log.1` and `main.log` as one stream, while a shim goes on writing and rotating."""

    def __init__(self, path: Path) -> None:
        self.path, self.older = path, path.with_name(path.name + ".1")
        self.fd: int | None = None
        self.rest = b""
        self.begun = False

    def read(self) -> list[str]:
        """The next complete lines; [] at the end for now."""
        while True:
            if self.fd is None and not self._open(self.older) and not self._open(self.path):
                return []
            assert self.fd is not None
            is_last = self._inode(self.path) == os.fstat(self.fd).st_ino  # before the read: then nothing is missed
            data = os.read(self.fd, BLOCK)
            if data:
                *lines, self.rest = (self.rest + data).split(b"\n")
                if lines:
                    return [line.decode(errors="replace") for line in lines]
            elif is_last or self._inode(self.path) is None:  # or between the two steps of a rotation
                return []
            elif missing := self._advance():
                return missing

    def _advance(self) -> list[str]:
        """From a full file to the next."""
        assert self.fd is not None
        was = os.fstat(self.fd).st_ino
        lost = self._inode(self.older) != was  # rotated twice since: the one between is gone, or soon will be
        self.close()
        if lost and self._open(self.older):
            self.rest = b""
            return [DROPPED]
        self._open(self.path)
        return []

    def _open(self, path: Path) -> bool:
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        self.begun = True
        return True

    def _inode(self, path: Path) -> int | None:
        try:
            return path.stat().st_ino
        except FileNotFoundError:
            return None

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
