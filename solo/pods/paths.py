"""Absolute container paths, mapped into directories of this host.

A host process shares the host's file system, so `/tmp/outputs` of two pods would be one place. Every absolute path
that a manifest names is given a directory, and its occurrences in commands, arguments, environment values and scripts
are rewritten. Only whole paths are: `/tmp` is found in `--out=/tmp/x`, `dir:///tmp` and `'/tmp'`, never in `/tmpfile`
or `a/tmp`.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# what may not stand before a path: then it is the tail of a longer one (`a/tmp`, `$DIR/tmp`, `$(pwd)/tmp`, `*/tmp`);
# `://` is allowed: Kaniko writes `dir:///workspace`
BEFORE = r"(?:(?<![\w.\-/~+%\\*})\]$])|(?<=://))"
AFTER = r"(?![\w.\-+~%])"

SYSTEM = ("/bin", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr")
# directories that every host has for itself: a file of a container inside them is mapped alone, not the directory
SHARED = ("/", "/boot", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/usr/local", "/var", *SYSTEM)


class PathMap:
    """Container path → host path, the longest prefix first. Host paths below `kept` are left as they are: an address
    such as `file:///tmp/…/git` of a solo whose own home is in /tmp is not a container's path.
    """

    def __init__(self, table: Mapping[str, Path], kept: Sequence[Path] = ()) -> None:
        self.table = {clean(path): Path(host) for path, host in table.items()}
        self._order = sorted(self.table, key=len, reverse=True)
        self._rewritten = {**self.table, **{str(path): path for path in kept}}
        choices = "|".join(re.escape(path) for path in sorted(self._rewritten, key=len, reverse=True))
        self._pattern = re.compile(f"{BEFORE}({choices}){AFTER}") if choices else None

    def rewrite(self, text: str) -> str:
        """`text` with every mapped path in the host's words."""
        return self._pattern.sub(lambda match: str(self._rewritten[match[1]]), text) if self._pattern else text

    def host(self, path: str) -> Path | None:
        """Where a container path lies on the host; None if it is not mapped."""
        path = clean(path)
        for prefix in self._order:
            if path == prefix or path.startswith(prefix + "/"):
                return self.table[prefix] / path[len(prefix) + 1 :]
        return None


def clean(path: str) -> str:
    """A normal absolute path. Raises ValueError for a relative one."""
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is not an absolute path")
    return posixpath.normpath(path).replace("//", "/")


def inside(path: str, prefix: str) -> bool:
    """Is container path `path` at or below `prefix`?"""
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")


def is_system(path: str) -> bool:
    """Does the host own this directory (so that mapping it would hide the host's programs)?"""
    path = clean(path)
    return path == "/" or (any(inside(path, top) for top in SYSTEM) and not inside(path, "/usr/local"))


def plain(home: Path) -> Path:
    """A name for `home` that needs no quoting in a shell script: itself, or a link to it (`/tmp/solo-…`)."""
    home = home.resolve()
    if re.fullmatch(r"[\w./+@-]+", str(home), re.ASCII):
        return home
    link = Path(tempfile.gettempdir()) / f"solo-{os.getuid()}-{hashlib.sha256(str(home).encode()).hexdigest()[:12]}"
    if not link.is_symlink():
        link.symlink_to(home)
    elif link.readlink() != home or link.lstat().st_uid != os.getuid():
        raise FileExistsError(f"{link} is in the way: solo needs it as a link to {home}; remove it")
    return link
