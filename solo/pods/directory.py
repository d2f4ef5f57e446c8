"""The directory of one pod, `home/pods/<uid>/`, and what can be told from it after a crash.

lock          held by the shim for its life     plan.json   what to run (mode 0600: it has the environment)
started.json  the plan, once it is being run    state.json  the shim's last word
exit.json     the end, written in one step      <container>.log  fs/<container>/  volumes/<name>/  staging/
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Collection
from enum import Enum
from pathlib import Path
from typing import Any

import psutil

from solo.pods import processes

UID_VARIABLE = "SOLO_POD_UID"  # every process of a pod carries it, so that what a dead shim left can be found


class State(Enum):
    NEW = "not started"
    RUNNING = "its shim lives"
    FINISHED = "exit.json tells its end"
    LOST = "started, and its shim was killed"


class PodDirectory:
    def __init__(self, home: Path, uid: str) -> None:
        if not uid or "/" in uid or uid.startswith("."):
            raise ValueError(f"{uid!r} cannot be a pod's uid")
        self.uid, self.path = uid, home / "pods" / uid
        self.staging = self.path / "staging"

    def examine(self) -> tuple[State, int | None]:
        """What has become of the pod, and the shim's process if it lives."""
        for _ in range(2):
            holder = processes.lock_holder(self.path / "lock")
            if (self.path / "exit.json").exists():
                return State.FINISHED, None
            if holder is not None:
                return State.RUNNING, holder
            if not (self.path / "started.json").exists():
                return State.NEW, None
            # started, and ended between the two looks? Then exit.json is there now
        return State.LOST, None

    def claim(self) -> int | None:
        """Take the lock to make the directory ready; None if a shim was faster. Close what is returned when it is
        ready.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if processes.lock(fd) and not (self.path / "started.json").exists():
            return fd
        os.close(fd)
        return None

    def clear(self) -> None:
        """Remove what an interrupted preparation left. Only under the claim."""
        (self.path / "plan.json").unlink(missing_ok=True)
        for name in ("fs", "volumes", "staging"):
            remove_tree(self.path / name)

    def read(self, name: str) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return None
        return document

    def write(self, name: str, document: Any) -> None:
        temporary = self.path / f"{name}.new"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(document, file)
        temporary.rename(self.path / name)

    def kill(self) -> None:
        """Kill the shim, if it lives, and whatever it left."""
        state, pid = self.examine()
        if state is State.RUNNING and pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        if state in (State.RUNNING, State.LOST):  # else a shim has seen to it, or there was none
            kill_leftovers(self.uid)

    def remove(self) -> None:
        """Remove everything; the pod's processes must be dead."""
        remove_tree(self.path)


def kill_leftovers(uid: str) -> None:
    """Kill every process that carries the pod's uid in its environment, and its children."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(UID_VARIABLE) == uid and process.pid != os.getpid():
                    found += [process, *process.children(recursive=True)]
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if not found:
            return
        psutil.wait_procs(found, timeout=1)


def kill_all(home: Path) -> None:
    """Kill every pod that runs, as a machine that is switched off would: the next solo finds them lost."""
    for path in (home / "pods").iterdir() if (home / "pods").is_dir() else ():
        if path.is_dir() and PodDirectory(home, path.name).examine()[0] is State.RUNNING:
            PodDirectory(home, path.name).kill()


def collect(home: Path, keep_uids: Collection[str]) -> None:
    """Kill and remove every pod whose uid is not in `keep_uids`."""
    for path in (home / "pods").iterdir() if (home / "pods").is_dir() else ():
        if path.is_dir() and path.name not in keep_uids:
            directory = PodDirectory(home, path.name)
            directory.kill()
            directory.remove()


def remove_tree(path: Path) -> None:
    """rm -rf, also where directories were made read-only."""

    def allow(function: Callable[..., Any], name: str, problem: Any) -> None:
        if isinstance(problem[1], FileNotFoundError):
            return
        for entry in (Path(name).parent, Path(name)):
            if entry.is_dir() and not entry.is_symlink():
                entry.chmod(entry.stat().st_mode | stat.S_IRWXU)
        if function is os.unlink or function is os.rmdir:
            function(name)
        else:
            shutil.rmtree(name)

    if path.exists():
        shutil.rmtree(path, onerror=allow)
