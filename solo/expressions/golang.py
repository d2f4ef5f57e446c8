"""How Go writes values as text and as JSON. Argo shows these texts to users and passes them between steps."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def to_json(value: Any) -> str:
    """`encoding/json.Marshal`: sorted keys, no spaces, `<>&` escaped, whole floats without a fraction."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).translate(_HTML)
    if isinstance(value, float) and math.isfinite(value):
        return _number(value, -6 <= _exponent(value) < 21).replace("e-0", "e-")
    if isinstance(value, list):
        return "[" + ",".join(map(to_json, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{to_json(str(k))}:{to_json(value[k])}" for k in sorted(value)) + "}"
    return json.dumps(value, allow_nan=False)


def to_text(value: Any) -> str:
    """`fmt.Sprint`."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
        return _number(value, -4 <= _exponent(value) < 6)
    if isinstance(value, list):
        return "[" + " ".join(map(to_text, value)) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{k}:{to_text(value[k])}" for k in sorted(value)) + "]"
    return str(value)


def _number(value: float, positional: bool) -> str:
    """The shortest digits that read back as `value`, with or without an exponent of two digits or more."""
    if value == 0:
        return "0"
    exact = Decimal(repr(value)).normalize()
    if positional:
        return f"{exact:f}"
    digits = "".join(map(str, exact.as_tuple().digits))
    exponent = _exponent(value)
    point = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{'-' if value < 0 else ''}{digits[0]}{point}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _exponent(value: float) -> int:
    return Decimal(repr(value)).adjusted() if value else 0
