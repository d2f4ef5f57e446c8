"""Images and their layers on disk, by content, under `home/images/`.

    layers/<sha256>/tree, layer.json   one layer, stored once            cache/<key>   a RUN's cache key → its layer
    <sha256>/rootfs                    one image, ready to run           tags/<name>   reference → digest
    blobs/<sha256>                     manifests, configurations, and what was pushed
    referrers/<sha256>/<sha256>        a manifest that is attached to another one
    tmp/<random>                       of builds; locked while alive, swept at the next start

An image is one of OCI: its digest is its manifest's, a layer's that of its tar archive (`layers.py`). Everything
appears by one rename, so that two builds of the same thing do not disturb each other and a killed one leaves only its
directory in `tmp`. A file's time is no content: all files of layers carry the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from solo.builder import base, layers
from solo.builder.layers import FILE_TIME, PIECE, Entry
from solo.pods import processes
from solo.pods.directory import remove_tree

REWRITE_BYTES = 1 << 20
IGNORED = ("usr/local/.lock",)  # uv's lock on the environment

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
BASE_NAME = "org.opencontainers.image.base.name"
PYTHON = "invalid.solo.python"  # the Python that stands for the base, which is no layer: it is this host's
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # as uname says → as Go and OCI say


class Image(NamedTuple):
    """What a build makes. `config` is OCI's: Env, WorkingDir, Cmd, Entrypoint, User, Labels, ExposedPorts."""

    base: str
    config: dict[str, Any]
    layers: list[str]

    @property
    def env(self) -> dict[str, str]:
        """OCI has a list of `NAME=value`."""
        return dict(entry.split("=", 1) for entry in self.config["Env"])


class Layer(NamedTuple):
    """`size` of its archive; `entries` in the archive's order."""

    size: int
    entries: list[Entry]


class ImageStore:
    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("layers", "cache", "tags", "tmp", "blobs", "referrers"):
            (root / name).mkdir(parents=True, exist_ok=True)

    # references and images

    def tag(self, reference: str, digest: str) -> None:
        """Let a reference (`registry/name:tag`) mean an image."""
        self._write(self.root / "tags" / urllib.parse.quote(reference, safe=""), digest.encode())

    def find(self, reference: str) -> str | None:
        """The digest (hex) that `name@sha256:…` or `name:tag` stands for, if it was built here."""
        name, _, digest = reference.partition("@")
        if digest:
            found = digest.removeprefix("sha256:")
        else:
            tagged = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
            found = self.tagged(tagged) or ""
        return found if len(found) == 64 and self._is_image(found) else None

    def _is_image(self, digest: str) -> bool:
        return (self.root / digest / "rootfs").is_dir() and (self.root / "blobs" / digest).exists()

    def image(self, digest: str) -> Image:
        manifest = json.loads((self.root / "blobs" / digest).read_text())
        _, config = manifest["config"]["digest"].split(":")
        layers = [layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]]
        document = json.loads((self.root / "blobs" / config).read_text())
        return Image(manifest["annotations"][BASE_NAME], document["config"], layers)

    def tagged(self, reference: str) -> str | None:
        """The digest of whatever has this tag, be it an image or what was attached to one."""
        try:
            return (self.root / "tags" / urllib.parse.quote(reference, safe="")).read_text()
        except FileNotFoundError:
            return None

    def references(self) -> list[tuple[str, str]]:
        """All tags of images, with the digest of each."""
        found = sorted((urllib.parse.unquote(p.name), p.read_text()) for p in (self.root / "tags").iterdir())
        return [(name, digest) for name, digest in found if self._is_image(digest)]

    def put_image(self, image: Image) -> str:
        """Make an image ready to run; its digest in hex. Quick if it is there already."""
        config = {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}" for layer in image.layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._document(CONFIG, config),
            "layers": [
                {"mediaType": LAYER, "digest": f"sha256:{layer}", "size": self.layer(layer).size}
                for layer in image.layers
            ],
            "annotations": {BASE_NAME: image.base, PYTHON: base.FINGERPRINT},
        }
        digest: str = self._document(MANIFEST, manifest)["digest"].removeprefix("sha256:")
        if not self._is_image(digest):
            with self.scratch() as scratch:
                target = scratch / "image"
                self.materialise(image.layers, target / "rootfs", shared=True)
                _publish(target, self.root / digest)
        return digest

    def _document(self, media_type: str, document: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        return {"mediaType": media_type, "digest": f"sha256:{self.put_blob(data)}", "size": len(data)}

    # blobs

    def put_blob(self, data: bytes) -> str:
        """Store bytes by content; their digest in hex."""
        digest = hashlib.sha256(data).hexdigest()
        if not (self.root / "blobs" / digest).exists():
            self._write(self.root / "blobs" / digest, data)
        return digest

    def take_blob(self, path: Path, wanted: str) -> str:
        """The digest of a file; if it is the wanted one, the file becomes the blob."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest == wanted:
            path.rename(self.root / "blobs" / digest)
        return digest

    def blob(self, digest: str) -> tuple[int, Iterator[bytes]] | None:
        """Size and bytes of a blob: a stored one, or a layer, whose archive is made on the way."""
        path = self.root / "blobs" / digest
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_size, _pieces(path)
        with contextlib.suppress(FileNotFoundError):
            layer = self.layer(digest)
            return layer.size, layers.stream(self.root / "layers" / digest / "tree", layer.entries)
        return None

    def refer(self, subject: str, digest: str) -> None:
        """Remember that manifest `digest` is attached to `subject`, which need not be there."""
        folder = self.root / "referrers" / subject
        folder.mkdir(exist_ok=True)
        (folder / digest).touch()

    def referrers(self, subject: str) -> list[str]:
        folder = self.root / "referrers" / subject
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def materialise(self, digests: Sequence[str], target: Path, *, shared: bool) -> None:
        """The tree of some layers. `shared`: hard links to the layers, and its packages linked whole; else a private
        copy.
        """
        base.create(target)
        stack = [self.entries(layer) for layer in digests]
        trees = [self.root / "layers" / layer / "tree" for layer in digests]
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
        return self.layer(layer).entries

    def layer(self, digest: str) -> Layer:
        """Raises FileNotFoundError."""
        document = json.loads((self.root / "layers" / digest / "layer.json").read_text())
        return Layer(document["size"], [Entry(*row) for row in document["entries"]])

    def put_layer(self, tree: Path, paths: Iterable[str], removed: Iterable[str] = ()) -> str:
        """Store names of `tree` as a layer, moving the files out of it; the layer's digest.

        A text file that contains the tree's own place is stored with the place taken off, so that a digest does not
        depend on where it was built.
        """
        paths = sorted(paths)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(lambda path: _entry(tree, path), paths))
        entries = sorted([*found, *(Entry(path, "w", 0, "") for path in removed)])
        digest, size = layers.describe(tree, entries)
        if not (self.root / "layers" / digest / "layer.json").exists():
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
                document = {"size": size, "entries": entries}
                (layer / "layer.json").write_text(json.dumps(document, separators=(",", ":")))
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
        return layer if (self.root / "layers" / layer / "layer.json").exists() else None

    def remember(self, key: str, layer: str) -> None:
        self._write(self.root / "cache" / key, layer.encode())

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

    def _write(self, path: Path, data: bytes) -> None:
        fd, name = tempfile.mkstemp(dir=self.root / "tmp")
        with os.fdopen(fd, "wb") as file:
            file.write(data)
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
        return Entry(path, "l", 0o777, target)
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
        return Entry(path, "f", mode, "", len(data))
    return Entry(path, "f", mode, "", info.st_size)


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


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _publish(source: Path, target: Path) -> None:
    """Rename a finished directory into place; somebody else's with the same name is the same content."""
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():
            raise
