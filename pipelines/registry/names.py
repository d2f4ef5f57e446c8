"""Names that become parts of object names, and digests: checked before anything is asked of the store."""

from __future__ import annotations

import re

from pipelines.errors import YardError

WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"


def check(kind: str, value: str) -> str:
    """One path segment. Raises YardError(INVALID)."""
    if not re.fullmatch(WORD, value) or len(value) > 200:
        raise YardError(f"not a {kind}: {value[:80]!r}", todo="letters, digits, and . _ - inside")
    return value


def check_path(kind: str, value: str) -> str:
    """Segments with "/" between. Raises YardError(INVALID)."""
    for part in value.split("/"):
        check(kind, part)
    return value


def check_file(value: str) -> str:
    """The name of a file that a user may have chosen, with "/" between segments. Raises YardError(INVALID)."""
    parts = value.split("/")
    if (
        len(value.encode(errors="replace")) > 500
        or not value.isprintable()
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise YardError(f"not a file name: {value[:80]!r}")
    return value


def digest_hex(digest: str) -> str:
    """The hex part of "sha256:<hex>". Raises YardError(INVALID)."""
    match = re.fullmatch(r"sha256:([0-9a-f]{64})", digest)
    if not match:
        raise YardError(f"not a digest: {digest[:80]!r}", todo="sha256: and 64 hex digits")
    return match[1]
