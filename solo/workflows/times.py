"""Times and durations as Kubernetes and Go write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(h|ms|m|s|us|µs|ns)")
_WORDS = ((7 * 86400, "week"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def write(time: datetime) -> str:
    """To the microsecond: Argo's own are to the second, too coarse to show what a step took."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def write_seconds(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(maxsize=4096)
def to_seconds(text: str) -> str:
    """A time that was written, to the second."""
    return write_seconds(read(text))


def read(text: str) -> datetime:
    return datetime.fromisoformat(text)


def duration(text: str | int) -> timedelta:
    """`90`, `"90"` (seconds) or `"1h30m"`. Raises ValueError."""
    text = str(text).strip()
    if re.fullmatch(r"\d+", text):
        return timedelta(seconds=int(text))
    parts = list(_PART.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        raise ValueError(f'unable to parse "{text}" as a duration: write it as "90" (seconds) or "1h30m"')
    return timedelta(seconds=sum(float(part[1]) * _UNITS[part[2]] for part in parts))


def in_words(time: timedelta) -> str:
    """At most two units: `10 seconds`, `2 minutes 30 seconds`."""
    seconds = int(time.total_seconds())
    if seconds < 60:
        return _count(seconds, "second")
    size, word = next((size, word) for size, word in _WORDS if seconds >= size)
    rest_size, rest_word = (1, "second") if size == 60 else (60, "minute") if size == 3600 else (3600, "hour")
    rest = seconds % (60 if size == 60 else 3600 if size == 3600 else 86400) // rest_size
    return f"{_count(seconds // size, word)} {rest} {rest_word}s"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
