"""Parses a Dockerfile into instructions, for the part of the language that solo has; the rest is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from solo.builder.errors import ImageError

KNOWN = ("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "LABEL", "RUN", "USER", "WORKDIR")
REFUSED = {
    "ADD": "use COPY (solo cannot download or unpack)",
    "HEALTHCHECK": "use probes in the manifest",
    "MAINTAINER": "use LABEL",
    "ONBUILD": "write the instruction where it is needed",
    "SHELL": "solo cannot change the shell; RUN has /bin/sh, or a command in JSON form",
    "STOPSIGNAL": "solo cannot change the signal; pods are stopped by SIGTERM",
    "VOLUME": "declare volumes in the manifest",
}
FLAGS: dict[str, tuple[str, ...]] = {"COPY": ("chown",)}
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?:(:[-+])([^}]*))?\})", re.ASCII)


@dataclass(frozen=True)
class Instruction:
    """One instruction: `text` as written after its name and flags, `json` if it is a JSON list (the exec form)."""

    line: int
    name: str
    text: str
    flags: Mapping[str, str] = field(default_factory=dict)
    json: tuple[str, ...] | None = None


def parse(source: str, name: str = "Dockerfile") -> list[Instruction]:
    """Raises ImageError that names the line and what to do."""
    instructions = [_instruction(number, text, name) for number, text in _logical_lines(source, name)]
    stages = [i for i in instructions if i.name == "FROM"]
    if not stages:
        raise ImageError("no FROM", where=name, todo="begin with: FROM python:3.11-slim")
    if len(stages) > 1:
        raise ImageError(
            "a second FROM; solo cannot build in stages", where=f"{name}:{stages[1].line}", todo="use one FROM"
        )
    before = next((i for i in instructions if i.name not in ("ARG", "FROM")), None)
    if before is not None and before.line < stages[0].line:
        raise ImageError(f"{before.name} before FROM", where=f"{name}:{before.line}", todo="only ARG may stand there")
    return instructions


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$X`, `${X}`, `${X:-y}`, `${X:+y}` replaced as Docker does; an unknown name is empty."""

    def value(match: re.Match[str]) -> str:
        found, kind, other = values.get(match[1] or match[2], ""), match[3], match[4] or ""
        if kind == ":-":
            return found or expand(other, values)
        if kind == ":+":
            return expand(other, values) if found else ""
        return found

    return VARIABLE.sub(value, text)


def words(text: str, values: Mapping[str, str], where: str) -> list[str]:
    """Split at blanks as a shell does, quotes taken off, variables replaced (not in '…' nor after a backslash)."""
    found: list[str] = []
    word: str | None = None
    quote = ""
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char == "\\" and quote != "'" and position < len(text):
            following = text[position]
            keep = quote == '"' and following not in '"$\\'  # as a shell does
            word = (word or "") + ("\\" if keep else "") + following
            position += 1
        elif char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote, word = char, word or ""
        elif char == "$" and quote != "'" and (match := VARIABLE.match(text, position - 1)):
            word = (word or "") + expand(match[0], values)
            position = match.end()
        elif not quote and char.isspace():
            if word is not None:
                found.append(word)
            word = None
        else:
            word = (word or "") + char
    if quote:
        raise ImageError(f"a {quote} that is not closed", where=where)
    return found if word is None else [*found, word]


def pairs(instruction: Instruction, values: Mapping[str, str], where: str) -> dict[str, str]:
    """The assignments of ENV and LABEL: `a=1 b="two words"`, or the old form `a one value`."""
    found = words(instruction.text, values, where)
    if found and "=" not in found[0]:
        if len(found) < 2:
            raise ImageError(f"{instruction.name} {found[0]} has no value", where=where, todo=f"write {found[0]}=value")
        return {found[0]: " ".join(found[1:])}
    result = {}
    for word in found:
        key, separator, value = word.partition("=")
        if not key or not separator:
            raise ImageError(f"{word!r} is not KEY=VALUE", where=where, todo="quote values that contain blanks")
        result[key] = value
    return result


def _logical_lines(source: str, name: str) -> list[tuple[int, str]]:
    """Lines joined at backslashes, without comments and empty lines (also between the parts of a joined line)."""
    lines: list[tuple[int, str]] = []
    start, text = 0, ""
    for number, raw in enumerate(source.splitlines(), 1):
        if re.match(r"#\s*escape\s*=", raw, re.IGNORECASE) and not lines:
            raise ImageError(
                "solo cannot change the escape character", where=f"{name}:{number}", todo="remove the line"
            )
        if not raw.strip() or raw.lstrip().startswith("#"):
            continue
        start = start or number
        part = raw.rstrip()
        if part.endswith("\\"):
            text += part[:-1]
            continue
        lines.append((start, (text + part).strip()))
        start, text = 0, ""
    if text.strip():
        lines.append((start, text.strip()))
    return lines


def _instruction(line: int, text: str, name: str) -> Instruction:
    where = f"{name}:{line}"
    word, _, rest = text.partition(" ") if " " in text else text.partition("\t")
    word, rest = word.upper(), rest.strip()
    if word in REFUSED:
        raise ImageError(f"{word} is not supported; solo cannot do it", where=where, todo=REFUSED[word])
    if word not in KNOWN:
        raise ImageError(f"{word!r} is no Dockerfile instruction", where=where, todo=f"solo has: {', '.join(KNOWN)}")
    flags = {}
    while match := re.match(r"--(\w[\w-]*)(?:=(\S*))?\s+", rest):
        if match[1] not in FLAGS.get(word, ()):
            raise ImageError(f"solo cannot do {word} --{match[1]}", where=where, todo="remove the flag")
        flags[match[1]], rest = match[2] or "", rest[match.end() :]
    if not rest:
        raise ImageError(f"{word} without an argument", where=where)
    if word in ("RUN", "COPY") and re.search(r"<<-?\s*[\"']?[A-Za-z_]", rest):
        raise ImageError("solo cannot read here-documents (<<)", where=where, todo="join the commands with && and \\")
    return Instruction(
        line, word, rest, flags, _json_form(rest) if word in ("CMD", "COPY", "ENTRYPOINT", "RUN") else None
    )


def _json_form(text: str) -> tuple[str, ...] | None:
    """As Docker: a list of strings is the exec form; what looks like one and is none is a shell command."""
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return tuple(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else None
