"""Images and their layers on disk, by content, under `home/images/`.

    layers/<sha256>/tree, entries.json    one layer, stored once          cache/<key>   a RUN's cache key → its layer
    <sha256>/manifest.json, rootfs        one image, ready to run         tags/<name>   reference → digest
    tmp/<random>                          of builds; locked while alive, swept at the next start

Everything appears by one rename, so that two builds of the same thing do not disturb each other and a killed one leaves
only its directory in `tmp`. A file's time is no content: all files of layers carry the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from solo.builder import base
from solo.pods import processes
from solo.pods.directory import remove_tree

FILE_TIME = 315_619_200  # 1980-01-02: zip archives know no earlier time
REWRITE_BYTES = 1 << 20
IGNORED = ("usr/local/.lock",)  # uv's lock on the environment

Manifest = dict[str, Any]


class Entry(NamedTuple):
    """One name in a layer. `kind`: f file, d directory, l link, w taken away; `content`: sha256 or a link's target."""

    path: str
    kind: str
    mode: int
    content: str


class ImageStore:
    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("layers", "cache", "tags", "tmp"):
            (root / name).mkdir(parents=True, exist_ok=True)

    # references and images

    def tag(self, reference: str, digest: str) -> None:
        """Let a reference (`registry/name:tag`) mean an image."""
        self._write(self.root / "tags" / urllib.parse.quote(reference, safe=""), digest)

    def find(self, reference: str) -> str | None:
        """The digest (hex) that `name@sha256:…` or `name:tag` stands for, if it was built here."""
        name, _, digest = reference.partition("@")
        if digest:
            found = digest.removeprefix("sha256:")
        else:
            tagged = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
            try:
                found = (self.root / "tags" / urllib.parse.quote(tagged, safe="")).read_text()
            except FileNotFoundError:
                return None
        is_image = len(found) == 64 and (self.root / found / "manifest.json").exists()
        return found if is_image else None

    def manifest(self, digest: str) -> Manifest:
        document: Manifest = json.loads((self.root / digest / "manifest.json").read_text())
        return document

    def references(self) -> list[tuple[str, str]]:
        """All tags, with the digest of each."""
        return sorted((urllib.parse.unquote(p.name), p.read_text()) for p in (self.root / "tags").iterdir())

    def put_image(self, manifest: Manifest) -> str:
        """Make an image ready to run; its digest in hex. Quick if it is there already."""
        body = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(body).hexdigest()
        if not (self.root / digest / "manifest.json").exists():
            with self.scratch() as scratch:
                target = scratch / "image"
                self.materialise(manifest["layers"], target / "rootfs", shared=True)
                (target / "manifest.json").write_bytes(body)
                _publish(target, self.root / digest)
        return digest

    def materialise(self, layers: Iterable[str], target: Path, *, shared: bool) -> None:
        """The tree of an image. `shared`: hard links to the layers, and its packages linked whole; else a private
        copy.
        """
        base.create(target)
        stack = [self.entries(layer) for layer in layers]
        trees = [self.root / "layers" / layer / "tree" for layer in layers]
        whole = _single_owner(stack) if shared else set()
        place: Callable[[Path, Path], Any] = os.link if shared else shutil.copy2
        for index, entries in enumerate(stack):
            for entry in entries:
                source, destination = trees[index] / entry.path, target / entry.path
                package = _package(entry.path)
                if package in whole:
                    if entry.path == package:
                        _clear(destination)
                        destination.symlink_to(source)
                elif entry.kind == "d" and destination.is_dir() and not destination.is_symlink():
                    destination.chmod(entry.mode)
                else:
                    _clear(destination)
                    if entry.kind == "d":
                        destination.mkdir(mode=entry.mode)
                    elif entry.kind == "l":
                        destination.symlink_to(entry.content)
                    elif entry.kind == "f":
                        place(source, destination)

    # layers

    def entries(self, layer: str) -> list[Entry]:
        rows = json.loads((self.root / "layers" / layer / "entries.json").read_text())
        return [Entry(*row) for row in rows]

    def put_layer(self, tree: Path, paths: Iterable[str], removed: Iterable[str] = ()) -> str:
        """Store names of `tree` as a layer, moving the files out of it; the layer's digest.

        A text file that contains the tree's own place is stored with the place taken off, so that a digest does not
        depend on where it was built.
        """
        paths = sorted(paths)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(lambda path: _entry(tree, path), paths))
        entries = sorted([*found, *(Entry(path, "w", 0, "") for path in removed)])
        body = json.dumps(entries, separators=(",", ":")).encode()
        digest = hashlib.sha256(body).hexdigest()
        if not (self.root / "layers" / digest / "entries.json").exists():
            with self.scratch() as scratch:
                layer = scratch / "layer"
                (layer / "tree").mkdir(parents=True)
                for entry in entries:
                    destination = layer / "tree" / entry.path
                    if entry.kind == "d":
                        destination.mkdir(parents=True, exist_ok=True)
                        destination.chmod(entry.mode)
                    elif entry.kind in "fl":
                        destination.parent.mkdir(parents=True, exist_ok=True)
                        (tree / entry.path).rename(destination)
                    if entry.kind == "f":
                        destination.chmod(entry.mode)
                        os.utime(destination, (FILE_TIME, FILE_TIME))
                (layer / "entries.json").write_bytes(body)
                _publish(layer, self.root / "layers" / digest)
        return digest

    def cached(self, key: str, ttl: float | None) -> str | None:
        """The layer that was made for a cache key, if it is no older than `ttl` seconds."""
        path = self.root / "cache" / key
        try:
            if ttl is not None and time.time() - path.stat().st_mtime > ttl:
                return None
            layer = path.read_text()
        except FileNotFoundError:
            return None
        return layer if (self.root / "layers" / layer / "entries.json").exists() else None

    def remember(self, key: str, layer: str) -> None:
        self._write(self.root / "cache" / key, layer)

    # scratch space

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory for work in progress, on the same file system; removed at the end, or swept if we are killed."""
        path = Path(tempfile.mkdtemp(dir=self.root / "tmp"))
        fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        processes.lock(fd)
        try:
            yield path
        finally:
            os.close(fd)
            remove_tree(path)

    def sweep(self) -> None:
        """Remove what killed builds left."""
        for path in (self.root / "tmp").iterdir():
            with contextlib.suppress(FileNotFoundError):  # another builder sweeps, too
                if time.time() - path.stat().st_mtime < 1:  # perhaps made just now, and not locked yet
                    continue
                if not path.is_dir():
                    path.unlink()
                elif processes.lock_holder(path / "lock") is None:
                    remove_tree(path)

    def _write(self, path: Path, text: str) -> None:
        fd, name = tempfile.mkstemp(dir=self.root / "tmp")
        with os.fdopen(fd, "w") as file:
            file.write(text)
        Path(name).rename(path)


def scan(root: Path) -> dict[str, tuple[int, ...]]:
    """Everything below `root`, each with what changes when it is written to. Compiled Python is left out: it has
    times in it.
    """
    found: dict[str, tuple[int, ...]] = {}
    todo = [""]
    while todo:
        directory = todo.pop()
        with os.scandir(root / directory) as entries:
            for entry in entries:
                path = f"{directory}/{entry.name}" if directory else entry.name
                if entry.name == "__pycache__" or entry.name.endswith(".pyc") or path in IGNORED:
                    continue
                info = entry.stat(follow_symlinks=False)
                is_directory = stat.S_ISDIR(info.st_mode)
                # a directory's times change with what is in it, which is listed anyway
                found[path] = (info.st_mode, 0, 0, 0) if is_directory else _trace(info)
                if is_directory:
                    todo.append(path)
    return found


def _trace(info: os.stat_result) -> tuple[int, ...]:
    return (info.st_mode, info.st_ino, info.st_ctime_ns, info.st_size)


def _entry(tree: Path, path: str) -> Entry:
    full = tree / path
    info = full.lstat()
    if stat.S_ISLNK(info.st_mode):
        target = str(full.readlink())
        if target.startswith(f"{tree}/"):  # an absolute link that a RUN made inside the tree
            target = os.path.relpath(target, full.parent)
            full.unlink()
            full.symlink_to(target)
        return Entry(path, "l", 0, target)
    # only what Git keeps of a mode: a checkout under another umask is the same content
    mode = 0o755 if stat.S_ISDIR(info.st_mode) or info.st_mode & 0o111 else 0o644
    if stat.S_ISDIR(info.st_mode):
        return Entry(path, "d", mode, "")
    if not stat.S_ISREG(info.st_mode):
        raise ValueError(f"/{path} is neither a file, a directory nor a link; an image cannot hold it")
    if info.st_size <= REWRITE_BYTES:
        data = full.read_bytes()
        place = f"{tree}/".encode()
        if place in data and b"\0" not in data:
            data = data.replace(place, b"/")
            full.write_bytes(data)
        return Entry(path, "f", mode, hashlib.sha256(data).hexdigest())
    with full.open("rb") as file:
        return Entry(path, "f", mode, hashlib.file_digest(file, "sha256").hexdigest())


def _single_owner(stack: list[list[Entry]]) -> set[str]:
    """Directories in site-packages that come from one layer alone: these are linked whole.

    It saves thousands of hard links; more, the compiled files that Python leaves beside the sources are then shared by
    all images with that layer. Only there: elsewhere code may look for `..` of a resolved path.
    """
    owners: dict[str, set[int]] = {}
    directories = set()
    for index, entries in enumerate(stack):
        for entry in entries:
            package = _package(entry.path)
            if package is not None:
                owners.setdefault(package, set()).add(index)
                if package == entry.path and entry.kind == "d":
                    directories.add(package)
    return {package for package, found in owners.items() if len(found) == 1 and package in directories}


def _package(path: str) -> str | None:
    """The entry of site-packages that `path` is, or is in."""
    prefix = base.SITE_PACKAGES + "/"
    return prefix + path[len(prefix) :].split("/")[0] if path.startswith(prefix) else None


def _clear(path: Path) -> None:
    """Make room for a new entry."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        remove_tree(path)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)


def _publish(source: Path, target: Path) -> None:
    """Rename a finished directory into place; somebody else's with the same name is the same content."""
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():
            raise
