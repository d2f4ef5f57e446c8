"""`/kaniko/executor` on this host: the executor's arguments, its files; solo's image store for a registry.

The store's place and uv's settings come from the environment that the image table gives to builder pods.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from solo.builder.build import Build
from solo.builder.context import Context
from solo.builder.errors import ImageError
from solo.builder.store import ImageStore

HONOURED_TEXT = (
    "context",
    "dockerfile",
    "destination",
    "build-arg",
    "cache-ttl",
    "label",
    "digest-file",
    "image-name-with-digest-file",
    "image-name-tag-with-digest-file",
    "verbosity",
)
HONOURED_SWITCHES = ("cache", "no-push")
OWN = "solo's images need no network"
# flag → why it changes nothing here
NOTED_TEXT = {
    "cache-repo": "layers are kept in solo's own store",
    "insecure-registry": OWN,
    "registry-mirror": OWN,
    "log-format": "the log is text",
    "snapshot-mode": "layers are told by content",
}
NOTED_SWITCHES = {
    "reproducible": "solo's images always are",
    "insecure": OWN,
    "insecure-pull": OWN,
    "skip-tls-verify": OWN,
}
LEVELS = ("panic", "fatal", "error", "warn", "info", "debug", "trace")
DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


class UsageError(Exception):
    """The command line is wrong."""


def main(arguments: list[str]) -> int:
    started = time.monotonic()
    try:
        flags = parse(arguments)
        quiet = LEVELS.index(_one(flags, "verbosity", "info")) < LEVELS.index("info")

        def say(line: str) -> None:
            if not quiet:
                print(f"INFO[{time.monotonic() - started:04.0f}] {line}", flush=True)

        for name in flags:
            if reason := NOTED_TEXT.get(name) or NOTED_SWITCHES.get(name):
                say(f"NOTE: --{name}: {reason}")
        execute(flags, say)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ImageError as error:
        print(f"error building image: {error}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: list[str]) -> dict[str, list[str]]:
    """Flag → values, as the executor reads them: `--name=value` or `--name value`; switches only take `=`."""
    flags: dict[str, list[str]] = defaultdict(list)
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, separator, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            raise UsageError(f"unexpected argument {word!r}; solo's builder takes flags only")
        if name in HONOURED_SWITCHES or name in NOTED_SWITCHES:
            if value not in ("", "true", "false"):
                raise UsageError(f"--{name}={value}: true or false")
            flags[name].append(value or "true")
        elif name in HONOURED_TEXT or name in NOTED_TEXT:
            if not separator and not rest:
                raise UsageError(f"--{name} needs a value")
            flags[name].append(value if separator else rest.pop(0))
        else:
            raise UsageError(f"unknown flag: --{name}; solo's builder has {', '.join(_all_flags())}")
    if _one(flags, "verbosity", "info") not in LEVELS:
        raise UsageError(f"--verbosity={flags['verbosity'][-1]}: one of {', '.join(LEVELS)}")
    if not flags.get("destination") and not _switch(flags, "no-push"):
        raise UsageError("no --destination; name the image, or use --no-push")
    return flags


def execute(flags: dict[str, list[str]], say: Callable[[str], None]) -> None:
    """Build, tag, and write the files that the executor writes. Raises ImageError."""
    if "SOLO_IMAGES" not in os.environ:
        raise ImageError("SOLO_IMAGES is not set", todo="this program runs in pods that solo starts")
    store = ImageStore(Path(os.environ["SOLO_IMAGES"]))
    store.sweep()
    context = _one(flags, "context", "")
    if "://" in context and not context.startswith("dir://"):
        raise ImageError(f"--context={context}: solo reads directories", todo="use --context=dir:///path")
    directory = Path(context.removeprefix("dir://"))
    dockerfile = directory / _one(flags, "dockerfile", "Dockerfile")  # joined: an absolute one stays as it is
    if not dockerfile.is_file():
        raise ImageError(f"no such file: {dockerfile}", where="--dockerfile", todo="name it relative to the context")
    build = Build(
        store,
        Context(directory),
        arguments=_assignments(flags, "build-arg"),
        labels=_assignments(flags, "label"),
        cache=_switch(flags, "cache"),
        cache_ttl=_seconds(_one(flags, "cache-ttl", "")),
        pip={"uv": os.environ.get("SOLO_UV", "uv"), "env": json.loads(os.environ.get("SOLO_UV_ENV", "{}"))},
        say=say,
    )
    digest = f"sha256:{build.run(dockerfile.read_text(), dockerfile.name)}"
    destinations = [d if ":" in d.rpartition("/")[2] else f"{d}:latest" for d in flags.get("destination", [])]
    if not _switch(flags, "no-push"):
        for destination in destinations:
            store.tag(destination, digest.removeprefix("sha256:"))
            say(f"Pushed {_repository(destination)}@{digest}")
    files = {
        "digest-file": digest,
        "image-name-with-digest-file": "\n".join(f"{_repository(d)}@{digest}" for d in destinations),
        "image-name-tag-with-digest-file": "\n".join(f"{d}@{digest}" for d in destinations),
    }
    for name, text in files.items():
        for path in flags.get(name, []):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text)


def _all_flags() -> list[str]:
    return sorted(f"--{name}" for name in (*HONOURED_TEXT, *HONOURED_SWITCHES, *NOTED_TEXT, *NOTED_SWITCHES))


def _one(flags: dict[str, list[str]], name: str, default: str) -> str:
    return flags[name][-1] if flags.get(name) else default


def _switch(flags: dict[str, list[str]], name: str) -> bool:
    return _one(flags, name, "false") == "true"


def _assignments(flags: dict[str, list[str]], name: str) -> dict[str, str]:
    result = {}
    for text in flags.get(name, []):
        key, separator, value = text.partition("=")
        if not separator:  # as the executor: the value of the environment
            value = os.environ.get(key, "")
        result[key] = value
    return result


def _seconds(text: str) -> float | None:
    """Go's notation of a duration: `336h`, `1h30m`."""
    match = DURATION.fullmatch(text)
    if match is None:
        raise ImageError(f"--cache-ttl={text}: not a duration", todo="write it like 336h or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(hours * 3600 + minutes * 60 + seconds) if text else None


def _repository(reference: str) -> str:
    return reference[: reference.rindex(":")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
