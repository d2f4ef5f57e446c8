"""JSON as gjson and Go see it: numbers remember how they were written, and text comes out compact with `<>&` escaped.

Filters and parameters hand numbers on as text, so `12345678901234567890` and `1.50` must not become Python's idea of
them.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})
_WHOLE = re.compile(r"-?\d+")


class Number(float):
    """A number with its text in `raw`."""

    raw: str

    def __new__(cls, raw: str) -> Number:
        self = super().__new__(cls, raw)
        self.raw = raw
        return self


def load(text: bytes | str, *, last_wins: bool = False) -> Any:
    """The value of a JSON text; of a key given twice the first counts (in Go the last). Raises ValueError."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    try:
        value = json.loads(
            text,
            parse_int=Number,
            parse_float=Number,
            parse_constant=_no_constant,
            object_pairs_hook=dict if last_wins else _first_wins,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    # half a surrogate pair is no text: SQLite and terminals would choke on it later
    return _whole_characters(value) if "\\ud" in text.lower() else value


def dump(value: Any) -> str:
    """Compact JSON in the order of the keys, as Go writes a json.RawMessage."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{dump(str(key))}:{dump(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dump, value)) + "]"
    if isinstance(value, Number):
        return value.raw
    return json.dumps(value, ensure_ascii=False).translate(_HTML)


def as_go_map(value: Any) -> Any:
    """What is left of a value after Go's map[string]any: sorted keys, numbers as float64."""
    if isinstance(value, dict):
        return {key: as_go_map(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [as_go_map(item) for item in value]
    return Number(_go_number(value)) if isinstance(value, Number) else value


def plain(value: Any) -> Any:
    """The same with Python's own numbers, for objects that go to the Store."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, Number):
        return int(value.raw) if _WHOLE.fullmatch(value.raw) else float(value)
    return value


def text(value: Any) -> str:
    """gjson's `String()`: null is empty, numbers without exponent, objects as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Number):
        return value.raw if _WHOLE.fullmatch(value.raw) else fixed(value)
    return dump(value)


def fixed(number: float) -> str:
    """The shortest decimal without an exponent."""
    digits = format(Decimal(repr(float(number))), "f")
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def _go_number(number: float) -> str:
    if number and not 1e-6 <= abs(number) < 1e21:
        mantissa, _, exponent = repr(float(number)).partition("e")
        if exponent:
            sign = "-" if exponent.startswith("-") else "+"
            return f"{mantissa.removesuffix('.0')}e{sign}{exponent.lstrip('+-0')}"
    return fixed(number)


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        out.setdefault(key, value)
    return out


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _whole_characters(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(item) for key, item in value.items()}
    return [_whole_characters(item) for item in value] if isinstance(value, list) else value
