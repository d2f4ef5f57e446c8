"""The parts of a request that the JSON API puts into headers, query and multipart bodies."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from solo.storage.core import writable
from solo.storage.errors import invalid, unsupported
from solo.storage.objects import FIELDS, Conditions

MAX_JSON = 1 << 20
DRAIN = 64 << 20  # bytes of a refused body that are read, so that the client sees the answer and not a broken pipe
CHECKS = {"crc32c": "crc32c", "md5Hash": "md5"}


class Body:
    """A request's body, once, in pieces."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._more = receive, True

    async def pieces(self) -> AsyncIterator[bytes]:
        while self._more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._more = False
                raise ClientDisconnect
            self._more = message.get("more_body", False)
            if piece := message.get("body", b""):
                yield piece

    async def json(self) -> dict[str, Any]:
        """{} for an empty body. Raises StorageError(400)."""
        data = b""
        async for piece in self.pieces():
            data += piece
            if len(data) > MAX_JSON:
                raise invalid(f"Metadata larger than {MAX_JSON} bytes")
        return json_object(data)

    async def drain(self) -> None:
        left = DRAIN
        async for piece in self.pieces():
            left -= len(piece)
            if left < 0:
                return


class Multipart:
    """A `multipart/related` upload, read as it comes: a JSON part, then the media, which `feed` gives out."""

    def __init__(self, content_type: str) -> None:
        match = re.fullmatch(r'multipart/related;\s*boundary="?([^"]+?)"?', content_type.strip(), re.IGNORECASE)
        if not match:
            raise invalid("Content-Type must be multipart/related with a boundary")
        self._boundary = b"--" + match[1].encode()
        self._end = b"\r\n" + self._boundary + b"--"
        self._held = b""
        self._in_media = False
        self.metadata: dict[str, Any] = {}
        self.content_type = ""

    def feed(self, data: bytes) -> bytes:
        """More of the body in, what is surely media out. Raises StorageError(400)."""
        self._held += data
        if not self._in_media and not self._head():
            return b""
        keep = len(self._end) + 2  # the closing line, perhaps with its CRLF
        media, self._held = self._held[:-keep], self._held[-keep:]
        return media

    def rest(self) -> bytes:
        """The last bytes of the media. Raises StorageError(400) for a body that was cut."""
        held = self._held.removesuffix(b"\r\n")
        if not self._in_media or not held.endswith(self._end):
            raise invalid("The multipart body does not end with its boundary")
        return held.removesuffix(self._end)

    def _head(self) -> bool:
        """Take the JSON part and the media part's headers from what is held; False while they are not complete."""
        parts = self._held.split(b"\r\n\r\n", 2)
        if len(parts) < 3:
            if len(self._held) > MAX_JSON:
                raise invalid(f"Metadata larger than {MAX_JSON} bytes")
            return False
        first, second, self._held = parts
        document, separator, headers = second.partition(b"\r\n" + self._boundary + b"\r\n")
        if not first.startswith(self._boundary + b"\r\n") or not separator:
            raise invalid("Malformed multipart body: expected a JSON part and a media part")
        self.metadata = json_object(document)
        match = re.search(rb"(?im)^content-type:\s*(.+?)\s*$", headers)
        self.content_type = match[1].decode("latin-1") if match else ""
        self._in_media = True
        return True


def json_object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        raise invalid("Parse Error: the metadata is not JSON") from None
    if not isinstance(found, dict):
        raise invalid("Parse Error: the metadata is not a JSON object")
    return found


def metadata(
    document: Mapping[str, Any], bucket: str, name: str, content_type: str
) -> tuple[str, dict[str, Any], dict[str, str]]:
    """An upload's metadata as (object name, fields, digests to check). Raises StorageError: 400, 501 for a field."""
    fields = dict(document)
    if fields.pop("bucket", bucket) != bucket:
        raise invalid("The bucket in the metadata is not that of the URL")
    name = name or str(fields.pop("name", ""))
    fields.pop("name", None)
    checks = {kind: str(fields.pop(field)) for field, kind in CHECKS.items() if fields.get(field)}
    for field in fields:
        if field not in FIELDS and fields[field] is not None:
            raise unsupported(f"Object field {field!r}")
    found = {
        field: value for field, value in writable({k: v for k, v in fields.items() if k in FIELDS}).items() if value
    }
    if content_type:
        found.setdefault("contentType", content_type)
    return name, found, checks


def hashes(header: str) -> dict[str, str]:
    """`X-Goog-Hash: crc32c=…,md5=…`"""
    return dict(part.strip().split("=", 1) for part in header.split(",") if "=" in part)


def conditions(query: Mapping[str, str]) -> Conditions:
    return Conditions(
        number(query, "ifGenerationMatch"),
        number(query, "ifGenerationNotMatch"),
        number(query, "ifMetagenerationMatch"),
    )


def number(query: Mapping[str, str], name: str) -> int | None:
    """A query parameter that is a whole number, None if absent. Raises StorageError(400)."""
    value = query.get(name)
    if value is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", value):
        raise invalid(f"Invalid value for {name}: {value[:40]!r}")
    return int(value)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """`Range: bytes=…` as (first, behind the last); None if nothing of it is there. Raises StorageError(501)."""
    match = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", header.strip())
    if not match or match.groups() == ("", ""):
        raise unsupported(f"Range {header[:40]!r}")
    first, last = match.groups()
    if not first:
        return (max(0, size - int(last)), size) if int(last) and size else None
    stop = min(int(last) + 1, size) if last else size
    return (int(first), stop) if int(first) < stop else None


def select(document: Any, fields: str) -> Any:
    """A partial response, as in `fields=items(name,generation),nextPageToken`. Raises StorageError(400)."""
    words = re.findall(r"[^,()/]+|[,()/]", fields)
    tree, rest = _fields(words)
    if rest:
        raise invalid(f"Invalid field selection {fields[:80]}")
    return _pick(document, tree)


def _fields(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    tree: dict[str, Any] = {}
    while words:
        name, *words = words
        if name in ",()/":
            raise invalid(f"Invalid field selection at {name!r}")
        path = tree
        while words[:1] == ["/"] and len(words) > 1:
            path = path.setdefault(name, {})
            name, words = words[1], words[2:]
        path[name] = {}
        if words[:1] == ["("]:
            path[name], words = _fields(words[1:])
            if words[:1] != [")"]:
                raise invalid("Invalid field selection: a parenthesis is not closed")
            words = words[1:]
        if words[:1] != [","]:
            break
        words = words[1:]
    return tree, words


def _pick(value: Any, tree: dict[str, Any]) -> Any:
    if not tree or "*" in tree:
        return value
    if isinstance(value, list):
        return [_pick(item, tree) for item in value]
    if isinstance(value, dict):
        return {name: _pick(value[name], below) for name, below in tree.items() if name in value}
    return value
