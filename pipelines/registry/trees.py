"""Directories: every file a blob, and one blob that lists them. The digest of the list is the digest of the directory.

Names and contents count; modes, times and empty directories do not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from pipelines.errors import Exit, YardError
from pipelines.registry.blobs import Blobs

T = TypeVar("T")
R = TypeVar("R")
AT_ONCE = 8  # files on their way; the client keeps ten connections


class TreeFile(NamedTuple):
    path: str
    size: int
    sha256: str


class Trees(Blobs):
    """Directories as blobs."""

    def put_tree(self, directory: Path) -> str:
        """Store a directory and return its digest. Raises YardError(INVALID) for a link out of it."""
        paths = _files(directory)

        def put(path: str) -> TreeFile:
            file = directory / path
            return TreeFile(path, file.stat().st_size, self.put_blob(file).removeprefix("sha256:"))

        files = sorted(_each(put, paths))
        document = {"files": [file._asdict() for file in files]}
        return self.put_blob(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())

    def tree(self, digest: str) -> list[TreeFile]:
        """The files of a stored directory, by path. Raises YardError: NOT_FOUND, CONFLICT if it is no such list."""
        return _parse(self.get_blob(digest), digest)

    def tree_file(self, digest: str, path: str) -> bytes:
        """One file of a stored directory. Raises YardError(NOT_FOUND)."""
        for file in self.tree(digest):
            if file.path == path:
                return self.get_blob(f"sha256:{file.sha256}")
        raise YardError(f"no file {path!r} in the directory {digest}", where=str(self.bucket), code=Exit.NOT_FOUND)

    def fetch_tree(self, digest: str, directory: Path) -> None:
        """Write a stored directory into `directory`, which may exist; files of these names there are replaced.

        Raises YardError: NOT_FOUND, CONFLICT for bytes that do not match, INVALID if something else is in the way.
        """
        files = self.tree(digest)
        root = directory.resolve()
        try:
            for folder in {root, *((root / file.path).parent for file in files)}:
                folder.mkdir(parents=True, exist_ok=True)
                if not folder.resolve().is_relative_to(root):
                    raise YardError("a link leads out of the directory", where=str(folder))
            _each(lambda file: self.fetch_blob(f"sha256:{file.sha256}", root / file.path), files)
        except OSError as error:
            raise YardError(f"cannot write: {error.strerror}", where=str(error.filename or directory)) from None


def _files(directory: Path) -> list[str]:
    """Relative paths with "/" between; links are followed as long as they stay inside."""
    root = directory.resolve()
    if not root.is_dir():
        raise YardError("not a directory", where=str(directory))
    found = []
    for folder, folders, names in os.walk(directory):
        for name in [*names, *(name for name in folders if (Path(folder) / name).is_symlink())]:
            path = Path(folder) / name
            if not path.resolve().is_relative_to(root):
                raise YardError("a link out of the directory", where=str(path), todo="store the file itself")
            if not path.is_file():
                raise YardError("neither a file nor a directory (or a link to one)", where=str(path))
            relative = path.relative_to(directory).as_posix()
            try:
                relative.encode()
            except UnicodeEncodeError:
                raise YardError(f"a file name that is not UTF-8: {relative!r}", where=str(directory)) from None
            found.append(relative)
    return found


def _parse(data: bytes, digest: str) -> list[TreeFile]:
    try:
        document: Any = json.loads(data)
        files = [TreeFile(file["path"], file["size"], file["sha256"]) for file in document["files"]]
        good = [file.path for file in files] == sorted({file.path for file in files}) and all(map(_stays, files))
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise YardError(f"{digest} is not a directory of the registry", code=Exit.CONFLICT)
    return files


def _stays(file: TreeFile) -> bool:
    """Whether a path leads down from where it starts, and nowhere else."""
    path = PurePosixPath(file.path)
    return not path.is_absolute() and ".." not in path.parts and str(path) == file.path != "." and "\0" not in file.path


def _each(work: Callable[[T], R], items: list[T]) -> list[R]:
    """Work on items at once; the first failure is raised and what has not begun is dropped."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
