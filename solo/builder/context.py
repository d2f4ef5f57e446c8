"""COPY: which files of the build context go where; `.dockerignore` is honoured, nothing outside is read."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Container
from pathlib import Path

from solo.builder.errors import ImageError


class Context:
    def __init__(self, root: Path) -> None:
        """Raises ImageError if there is no such directory."""
        if not root.is_dir():
            raise ImageError(
                f"{root} is not a directory", where="--context", todo="name the directory with the sources"
            )
        self.root = root.resolve()
        ignore = self.root / ".dockerignore"
        self._ignored = _patterns(ignore.read_text()) if ignore.is_file() else []

    def stage(self, sources: list[str], destination: str, tree: Path, known: Container[str], where: str) -> list[str]:
        """Copy sources to the absolute container path `destination` below `tree`; the names that are new there.

        `destination` ends in `/` if it is written as a directory; `known` has the image's directories, without the
        slash.
        """
        found = [path for source in sources for path in self._matches(source, where)]
        into = destination.endswith("/") or destination.strip("/") in known
        if len(found) > 1 and not into:
            raise ImageError(
                f"COPY of {len(found)} files to {destination}",
                where=where,
                todo=f"write {destination}/ for a directory",
            )
        staged: set[str] = set()
        target = destination.strip("/")
        for path in found:
            if path.is_dir() and not path.is_symlink():
                self._copy_directory(path, target, tree, staged, where)
            else:
                self._copy(path, f"{target}/{path.name}".lstrip("/") if into else target, tree, staged, where)
        return sorted(staged)

    def _matches(self, source: str, where: str) -> list[Path]:
        parts = Path(source.lstrip("/")).parts
        if ".." in parts:
            raise ImageError(f"COPY {source} leaves the context", where=where, todo="name a path inside the context")
        pattern = "/".join(parts)
        if not pattern:
            return [self.root]
        found = sorted(self.root.glob(pattern)) if re.search(r"[*?\[]", pattern) else [self.root / pattern]
        found = [path for path in found if os.path.lexists(path) and not self._is_ignored(path)]
        for path in found:
            self._check_inside(path, where)
        if not found:
            raise ImageError(
                f"COPY {source}: no such file in the context",
                where=where,
                todo="check the name, and .dockerignore" if self._ignored else "check the name",
            )
        return found

    def _copy_directory(self, source: Path, target: str, tree: Path, staged: set[str], where: str) -> None:
        if target:
            (tree / target).mkdir(parents=True, exist_ok=True)
            staged.add(target)
        for entry in sorted(source.iterdir()):
            name = f"{target}/{entry.name}" if target else entry.name
            if entry.is_dir() and not entry.is_symlink():
                # an ignored directory may hold exceptions (`!keep.txt`)
                if not self._is_ignored(entry) or any(negated for _, negated in self._ignored):
                    inner: set[str] = set()
                    self._copy_directory(entry, name, tree, inner, where)
                    if len(inner) > 1 or not self._is_ignored(entry):
                        staged |= inner
            elif not self._is_ignored(entry):
                self._copy(entry, name, tree, staged, where)

    def _copy(self, source: Path, target: str, tree: Path, staged: set[str], where: str) -> None:
        self._check_inside(source, where)
        if not source.is_file() and not source.is_symlink():
            raise ImageError(f"COPY {source.relative_to(self.root)}: neither a file nor a link", where=where)
        destination = tree / target
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.unlink(missing_ok=True)
        shutil.copy(source, destination, follow_symlinks=False)
        staged.add(target)

    def _check_inside(self, path: Path, where: str) -> None:
        absolute = path.is_symlink() and path.readlink().is_absolute()
        if absolute or not path.resolve().is_relative_to(self.root):
            raise ImageError(
                f"COPY {path.relative_to(self.root)}: the link leads to {os.path.realpath(path)}, outside the context",
                where=where,
                todo="use a relative link that stays inside, or the file itself",
            )

    def _is_ignored(self, path: Path) -> bool:
        relative = path.relative_to(self.root).as_posix()
        ignored = False
        for pattern, negated in self._ignored:
            if pattern.fullmatch(relative):
                ignored = not negated
        return ignored


def _patterns(text: str) -> list[tuple[re.Pattern[str], bool]]:
    """Each line of a .dockerignore, and whether it is an exception; a directory's pattern covers what is in it."""
    patterns = []
    for line in text.splitlines():
        line = line.strip()
        if line and not line.startswith("#"):
            negated = line.startswith("!")
            name = line.removeprefix("!").strip().strip("/")
            name = name.removeprefix("./")
            patterns.append((re.compile(_regex(name) + "(/.*)?"), negated))
    return patterns


def _regex(pattern: str) -> str:
    out, position = "", 0
    while position < len(pattern):
        if pattern.startswith("**/", position):
            out, position = out + "(?:.*/)?", position + 3
        elif pattern.startswith("**", position):
            out, position = out + ".*", position + 2
        elif pattern[position] == "*":
            out, position = out + "[^/]*", position + 1
        elif pattern[position] == "?":
            out, position = out + "[^/]", position + 1
        elif pattern[position] == "[" and (end := pattern.find("]", position + 2)) > 0:
            body = pattern[position + 1 : end]
            negate = "^" if body[0] in "^!" else ""
            inner = body[1:] if negate else body
            out, position = out + f"[{negate}{inner.replace(chr(92), chr(92) * 2)}]", end + 1
        else:
            out, position = out + re.escape(pattern[position]), position + 1
    return out
