"""The few system calls that keep a pod's processes together. Standard library only: for fork server and shims."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import struct
import sys
from pathlib import Path

LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# struct flock: type, whence, start, len, pid (Linux); start, len, pid, type, whence (macOS)
FLOCK = "hhqqi0q" if LINUX else "qqihh"

libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Descendants whose parent died become children of this process, not of init."""
    if LINUX:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """In a fresh child: be killed when `parent` dies, however it dies."""
    if LINUX:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(137)


def lock(fd: int) -> bool:
    """Take the exclusive lock of an open file for the life of this process; False if another process has it.

    A POSIX record lock: children do not inherit it, and others can ask who has it without taking it. It ends when the
    process closes *any* descriptor of the file.
    """
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def lock_holder(path: Path) -> int | None:
    """The process that holds the lock of `path`, if one does."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        ask = (fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0) if LINUX else (0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET)
        answer = struct.unpack(FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(FLOCK, *ask)))
    finally:
        os.close(fd)
    kind, pid = (answer[0], answer[4]) if LINUX else (answer[3], answer[2])
    return None if kind == fcntl.F_UNLCK else int(pid)


def children(parent: int) -> list[int]:
    """The living child processes of a process."""
    found = []
    for entry in Path("/proc").iterdir() if LINUX else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                stat = (entry / "stat").read_text()
                # the name stands in parentheses and may contain anything; after it: state, parent
                if int(stat[stat.rindex(")") + 2 :].split()[1]) == parent:
                    found.append(int(entry.name))
    return found


def kill_children(spare: frozenset[int] = frozenset()) -> None:
    """Kill and reap every descendant of this process (which adopts orphans) except the children in `spare`."""
    while True:
        if not spare:
            try:
                if os.waitpid(-1, os.WNOHANG)[0]:
                    continue
            except ChildProcessError:
                return  # none left: the usual case, without a look through /proc
        victims = [pid for pid in children(os.getpid()) if pid not in spare]
        if not victims:
            return
        for pid in victims:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in victims:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since boot."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
