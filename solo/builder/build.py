"""Carries out a Dockerfile: each instruction changes the configuration or adds a layer; RUN's are kept by cache key.

A RUN is a process of this host. It works in a private copy of the tree so far, never in the stored layers, and absolute
paths in its command are led into that copy, except into the system's own directories.
"""

from __future__ import annotations

import hashlib
import json
import platform
import posixpath
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from solo.builder import base, dockerfile
from solo.builder.context import Context
from solo.builder.dockerfile import Instruction
from solo.builder.errors import ImageError
from solo.builder.store import Image, ImageStore, scan
from solo.pods.paths import BEFORE, is_system

ABSOLUTE = re.compile(BEFORE + r"(/[\w.@+~%-]+(?:/[\w.@+~%-]+)*)")
# run as root on the host they would change the host itself
SYSTEM_PACKAGES = re.compile(r"(?:^|[;&|(]|\bsudo|\bthen|\bdo)\s*(apt-get|apt|apk|yum|dnf|microdnf|dpkg|rpm)\s")


class Build:
    """One build. `say` gets a line of log; `pip` has uv's program and the environment it needs."""

    def __init__(
        self,
        store: ImageStore,
        context: Context,
        *,
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
        cache: bool,
        cache_ttl: float | None,
        pip: Mapping[str, object],
        say: Callable[[str], None],
    ) -> None:
        self.store, self.context, self.say = store, context, say
        self.given, self.labels, self.pip = arguments, labels, pip
        self.cache, self.cache_ttl = cache, cache_ttl
        self.arguments: dict[str, str] = {}  # declared by ARG
        self.env: dict[str, str] = {}
        self.config: dict[str, object] = {}
        self.workdir = "/"
        self.layers: list[str] = []
        self.directories: set[str] = {"", "tmp", "root", "usr/local", "usr/local/bin"}
        self.base = ""
        self.before_from: dict[str, str] = {}

    def run(self, source: str, name: str) -> str:
        """Build; the image's digest in hex. Raises ImageError."""
        instructions = dockerfile.parse(source, name)
        for instruction in instructions:
            getattr(self, f"_{instruction.name.lower()}")(instruction, f"{name}:{instruction.line}")
        unused = sorted(set(self.given) - set(self.arguments) - set(self.before_from))
        if unused:
            self.say(f"NOTE: no ARG declares --build-arg {', '.join(unused)}")
        return self.store.put_image(self._image())

    def _image(self) -> Image:
        config = {
            **self.config,
            "Env": [f"{name}={value}" for name, value in self.env.items()],
            "WorkingDir": self.workdir,
        }
        labels = {**dict(self.config.get("Labels", {})), **self.labels}  # type: ignore[call-overload]
        if labels:
            config["Labels"] = labels
        return Image(self.base, config, self.layers)

    def _values(self) -> dict[str, str]:
        return {**self.arguments, **self.env}

    def _words(self, instruction: Instruction, where: str) -> list[str]:
        return dockerfile.words(instruction.text, self._values(), where)

    # instructions, by name

    def _arg(self, instruction: Instruction, where: str) -> None:
        for word in self._words(instruction, where):
            name, separator, default = word.partition("=")
            if name in self.given:
                self.arguments[name] = self.given[name]
            elif separator:
                self.arguments[name] = default
            elif self.base:  # after FROM a bare ARG takes the value from before it
                self.arguments[name] = self.before_from.get(name, "")
            else:
                self.arguments[name] = ""

    def _from(self, instruction: Instruction, where: str) -> None:
        found = self._words(instruction, where)
        if len(found) != 1:
            raise ImageError("a named stage; solo builds one stage", where=where, todo="write FROM IMAGE")
        if not found[0]:
            raise ImageError(
                f"{instruction.text} is empty", where=where, todo="give it by --build-arg, or a default to ARG"
            )
        self.base = found[0]
        self.before_from, self.arguments = self.arguments, {}
        version, digest = base.matches(self.base), self.store.find(self.base)
        if digest is not None:
            parent = self.store.image(digest)
            self.base, self.layers = parent.base, list(parent.layers)
            config = dict(parent.config)
            del config["Env"]  # it and the working directory are added at the end
            self.env, self.workdir = parent.env, config.pop("WorkingDir")
            self.config = config
            for layer in self.layers:
                self._learn(layer)
        elif version is not None:
            self.env = dict(base.ENV)
            self.config = {"Cmd": ["python3"]}
            if version not in ("3", base.MINOR):
                self.say(f"NOTE: {self.base} asked, this host has Python {platform.python_version()}: that is used")
        else:
            raise ImageError(
                f"no base image {self.base} on this host",
                where=where,
                todo=f"solo has python:3.* (its own Python {base.MINOR}) and the images it built",
            )

    def _workdir(self, instruction: Instruction, where: str) -> None:
        self.workdir = posixpath.normpath(posixpath.join(self.workdir, " ".join(self._words(instruction, where))))
        path = self._own(self.workdir, where).strip("/")
        if path not in self.directories:
            with self.store.scratch() as scratch:
                (scratch / path).mkdir(parents=True)
                self._add(self.store.put_layer(scratch, [path]))

    def _copy(self, instruction: Instruction, where: str) -> None:
        found = (
            [dockerfile.expand(word, self._values()) for word in instruction.json]
            if instruction.json is not None
            else self._words(instruction, where)
        )
        if len(found) < 2:
            raise ImageError(
                "COPY needs a source and a destination", where=where, todo="write COPY SOURCE… DESTINATION"
            )
        self.say(f"COPY {instruction.text}")
        if "chown" in instruction.flags:
            self.say(f"NOTE: {where}: --chown={instruction.flags['chown']}: on this host files belong to you")
        *sources, last = found
        destination = self._own(posixpath.normpath(posixpath.join(self.workdir, last)), where)
        if last.endswith("/") or posixpath.basename(last) in (".", ".."):
            destination = destination.rstrip("/") + "/"
        with self.store.scratch() as scratch:
            staged = self.context.stage(sources, destination, scratch / "tree", self.directories, where)
            self._add(self.store.put_layer(scratch / "tree", staged))

    def _run(self, instruction: Instruction, where: str) -> None:
        command = list(instruction.json) if instruction.json is not None else ["/bin/sh", "-c", instruction.text]
        if match := SYSTEM_PACKAGES.search(instruction.text if instruction.json is None else " ".join(command) + " "):
            raise ImageError(
                f"RUN {match[1]}: solo cannot install system packages, it would change this host",
                where=where,
                todo="install them on the host and drop the line for solo, or build on a cluster",
            )
        key = hashlib.sha256(
            json.dumps(
                [base.FINGERPRINT, self.base, self.layers, self.env, self.arguments, self.workdir, command]
            ).encode()
        ).hexdigest()
        layer = self.store.cached(key, self.cache_ttl) if self.cache else None
        if layer is not None:
            self.say(f"Using caching version of cmd: RUN {instruction.text}")
        else:
            self.say(f"RUN {instruction.text}")
            layer = self._execute(command, instruction.text, where)
            self.store.remember(key, layer)
        self._add(layer)

    def _execute(self, command: list[str], text: str, where: str) -> str:
        with self.store.scratch() as scratch:
            root, temporary, pip = scratch / "root", scratch / "tmp", scratch / "pip.json"
            self.store.materialise(self.layers, root, shared=False)
            temporary.mkdir()
            pip.write_text(json.dumps(self.pip))
            # as Docker, a declared ARG is in RUN's environment, too; the rest is the least that programs need
            env = {
                "HOME": f"{root}/root",
                **{name: _lead(value, root) for name, value in self._values().items()},
                "TMPDIR": str(temporary),
                "SOLO_PIP": str(pip),
                "PYTHONDONTWRITEBYTECODE": "1",
            }
            before = scan(root)
            try:
                result = subprocess.run(
                    [_lead(word, root) for word in command],
                    cwd=root / self.workdir.lstrip("/"),
                    env=env,
                    stdin=subprocess.DEVNULL,
                    check=False,
                )
            except OSError as problem:
                raise ImageError(f"RUN {text}: {command[0]}: {problem.strerror}", where=where) from None
            if result.returncode != 0:
                code = result.returncode if result.returncode > 0 else 128 - result.returncode
                raise ImageError(f"RUN {text} exited {code}", where=where, todo="its output is above")
            after = scan(root)
            changed = [path for path, trace in after.items() if before.get(path) != trace]
            try:
                return self.store.put_layer(root, changed, [path for path in before if path not in after])
            except ValueError as problem:
                raise ImageError(str(problem), where=where) from None

    def _env(self, instruction: Instruction, where: str) -> None:
        self.env.update(dockerfile.pairs(instruction, self._values(), where))

    def _label(self, instruction: Instruction, where: str) -> None:
        found = dockerfile.pairs(instruction, self._values(), where)
        self.config["Labels"] = {**dict(self.config.get("Labels", {})), **found}  # type: ignore[call-overload]

    def _expose(self, instruction: Instruction, where: str) -> None:
        ports = [word if "/" in word else f"{word}/tcp" for word in self._words(instruction, where)]
        self.config["ExposedPorts"] = {**dict(self.config.get("ExposedPorts", {})), **{port: {} for port in ports}}  # type: ignore[call-overload]

    def _user(self, instruction: Instruction, where: str) -> None:
        self.config["User"] = " ".join(self._words(instruction, where))
        self.say(f"NOTE: {where}: USER {self.config['User']}: on this host processes are yours")

    def _cmd(self, instruction: Instruction, where: str) -> None:
        self.config["Cmd"] = _program(instruction)

    def _entrypoint(self, instruction: Instruction, where: str) -> None:
        self.config["Entrypoint"] = _program(instruction)
        self.config.pop("Cmd", None)  # the base's command is no argument of this program

    # layers

    def _add(self, layer: str) -> None:
        self.layers.append(layer)
        self._learn(layer)

    def _learn(self, layer: str) -> None:
        """Remember which directories the image has: COPY to one of them puts files into it."""
        for entry in self.store.entries(layer):
            if entry.kind == "d":
                self.directories.add(entry.path)
            self.directories.update(str(parent) for parent in Path(entry.path).parents if str(parent) != ".")

    def _own(self, path: str, where: str) -> str:
        if path != "/" and is_system(path):
            raise ImageError(
                f"{path} belongs to this host; solo cannot put files of an image there",
                where=where,
                todo="use a directory of your own, like /app",
            )
        return path


def _lead(text: str, root: Path) -> str:
    """Absolute paths in `text` led into the tree, but for those of the host's system."""
    return ABSOLUTE.sub(lambda match: match[1] if is_system(match[1]) else f"{root}{match[1]}", text)


def _program(instruction: Instruction) -> list[str]:
    return list(instruction.json) if instruction.json is not None else ["/bin/sh", "-c", instruction.text]
