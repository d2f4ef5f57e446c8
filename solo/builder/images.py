"""The image table: what an image name means on this host. The only place that knows; pods and reports read it.

| image | here |
| --- | --- |
| one that solo built | its tree |
| the Kaniko executor | `python -m solo.builder` |
| the platform's own | the platform's Python environment |
| `python:3.*` | this host's Python, without packages |
| any other | the command, if this host has it |
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import solo
from solo.builder import base
from solo.builder.errors import ImageError
from solo.builder.store import ImageStore
from solo.pods.paths import is_system, plain

KANIKO = re.compile(r"(?:.*/)?kaniko[^/]*(?:/executor)?")
EXECUTOR = "/kaniko/executor"
# what reaches package indexes from this host; only the builder's pip sees it, which is uv
PIP_SETTINGS = {"PIP_CERT": "SSL_CERT_FILE", "PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL": "UV_INDEX"}
NETWORK = re.compile(r"(UV_\w+|(HTTPS?|ALL|NO)_PROXY|SSL_CERT_(FILE|DIR))", re.IGNORECASE)


class Platform(NamedTuple):
    """One image of the platform: its entrypoint and environment; `python` and scripts are those that solo runs with."""

    entrypoint: tuple[str, ...] = ()
    env: Mapping[str, str] = {}


@dataclass(frozen=True)
class Image:
    kind: Literal["built", "builder", "platform", "python", "host"]
    env: Mapping[str, str]
    root: Path | None = None  # of an image with a tree
    paths: tuple[str, ...] = ()  # container paths that the tree has
    workdir: str = "/"
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # a program of the image → its argv here


class ImageTable:
    """`platform_images`: repository (`trainyard/pipelines`, whatever stands before it) → what it is."""

    def __init__(self, home: Path, platform_images: Mapping[str, Platform]) -> None:
        self.store = ImageStore(plain(home) / "images")
        self.store.sweep()
        self.platform_images = platform_images

    def resolve(self, reference: str) -> Image:
        """Raises ImageError for a `solo.invalid/…` image that was not built here, and for no name at all."""
        if not reference:
            raise ImageError("no image is named", where="container", todo="give the container an image")
        repository = _repository(reference)
        digest = self.store.find(reference)
        if digest is not None:
            return self._built(digest)
        if repository.startswith("solo.invalid/"):
            raise ImageError(
                "no such image on this host; only solo builds images by this name, and nothing can pull them",
                where=f"image {reference}",
                todo="build it again: push the commit, or `yard rerun`",
            )
        if KANIKO.fullmatch(repository):
            return self._builder()
        for name, found in self.platform_images.items():
            if repository == name or repository.endswith(f"/{name}"):
                path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
                return Image("platform", {"PATH": path, **found.env}, entrypoint=found.entrypoint)
        if base.matches(reference):
            root = self._python()
            path = f"{root}/usr/local/bin:{os.environ.get('PATH', os.defpath)}"
            return Image("python", {"PATH": path}, root=root, paths=("/usr/local",), cmd=("python3",))
        return Image("host", {"PATH": os.environ.get("PATH", os.defpath)})

    def check_command(self, reference: str, image: Image, argv: list[str]) -> None:
        """Raises ImageError if nothing says what to run, or the image is the host itself and has no such command."""
        if not argv:
            raise ImageError(
                "no command", where=f"image {reference}", todo="write `command:`; solo cannot ask a registry for it"
            )
        if image.kind == "host" and shutil.which(argv[0], path=image.env["PATH"]) is None:
            raise ImageError(
                f'Error (exit code 64): failed to find name in PATH: exec: "{argv[0]}": '
                f"executable file not found in $PATH; image {reference} has no meaning on this host but its command",
                todo=f"install {argv[0]} on this host, or use an image that solo has: {self._names()}",
            )

    def rows(self) -> list[tuple[str, str]]:
        """The table, printable: an image, and what it is here."""
        return [
            (EXECUTOR.removeprefix("/") + " (Kaniko)", "solo's builder"),
            *((f"…/{name}", f"this Python environment ({sys.prefix})") for name in self.platform_images),
            *((f"{tag}", f"built here: sha256:{digest[:12]}") for tag, digest in self.store.references()),
            ("python:3.*", f"this host's Python {base.FINGERPRINT.split()[1]}, without packages"),
            ("any other", "its command, if this host has it; else refused"),
        ]

    def _names(self) -> str:
        return ", ".join([*(f"…/{name}" for name in self.platform_images), "python:3.*", "those it built"])

    def _built(self, digest: str) -> Image:
        root = self.store.root / digest / "rootfs"
        made = self.store.image(digest)
        config = made.config
        tops = [f"/{entry.name}" for entry in root.iterdir() if entry.name not in ("tmp", "usr")]
        return Image(
            "built",
            made.env,
            root=root,
            paths=("/usr/local", *(top for top in tops if not is_system(top))),
            workdir=config["WorkingDir"],
            entrypoint=tuple(config.get("Entrypoint", ())),
            cmd=tuple(config.get("Cmd", ())),
            user=config.get("User", ""),
        )

    def _builder(self) -> Image:
        home = pwd.getpwuid(os.getuid()).pw_dir
        program = Path(sys.executable).with_name("uv")
        network = {uv: os.environ[pip] for pip, uv in PIP_SETTINGS.items() if pip in os.environ}
        network |= {name: value for name, value in os.environ.items() if NETWORK.fullmatch(name)}
        # a pod's HOME is its own, and the cache and the settings of uv lie in the user's
        network.setdefault("UV_CACHE_DIR", str(Path(os.environ.get("XDG_CACHE_HOME", f"{home}/.cache")) / "uv"))
        settings = Path(os.environ.get("XDG_CONFIG_HOME", f"{home}/.config")) / "uv/uv.toml"
        if settings.exists():
            network.setdefault("UV_CONFIG_FILE", str(settings))
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": str(Path(solo.__file__).parents[1]),
            "SOLO_IMAGES": str(self.store.root),
            "SOLO_UV": str(program) if program.exists() else "uv",
            "SOLO_UV_ENV": json.dumps(network),
        }
        argv = (sys.executable, "-m", "solo.builder")
        return Image("builder", env, entrypoint=argv, commands={EXECUTOR: argv, "executor": argv})

    def _python(self) -> Path:
        """The base alone, made once."""
        root = self.store.root / "base" / base.FINGERPRINT.replace(" ", "-")
        if not root.is_dir():
            with self.store.scratch() as scratch:
                base.create(scratch / "root")
                root.parent.mkdir(exist_ok=True)
                try:
                    (scratch / "root").rename(root)
                except OSError:
                    if not root.is_dir():
                        raise
        return root


def _repository(reference: str) -> str:
    """Without tag and digest: `ghcr.io/x/kaniko:v1@sha256:…` → `ghcr.io/x/kaniko`."""
    name = reference.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"
