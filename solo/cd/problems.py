"""What is wrong with an object, field by field, found by comparing it with a shape.

A shape is a value that looks like what it allows: `str`, `int`, `bool`, `[shape]` for a list, `{"key": shape}` for an
object with these keys only (`"key!"` must be there), `{"*": shape}` for an object with any keys, `{"a", "b"}` for one
of these values, `(int, str)` for one of these types, `object` for anything. A key that a shape lacks is refused:
nothing is ignored silently.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, NamedTuple

METADATA = {"name!": str, "namespace": str, "labels": {"*": str}, "annotations": {"*": str}}
COMMON: dict[str, Any] = {"apiVersion!": str, "kind!": str, "metadata!": METADATA}
NAMES = {str: "text", int: "a whole number", bool: "true or false"}


class Problem(NamedTuple):
    """`field` as in `spec.template.spec.containers[0].name`."""

    field: str
    message: str


def compare(value: Any, shape: Any, field: str = "") -> Iterator[Problem]:
    """Where `value` differs from `shape`."""
    if shape is object:
        return
    if isinstance(shape, dict):
        yield from _compare_object(value, shape, field)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield Problem(field, f"must be a list, not {_what(value)}")
        else:
            for index, item in enumerate(value):
                yield from compare(item, shape[0], f"{field}[{index}]")
    elif isinstance(shape, set):
        if not isinstance(value, str | int) or value not in shape:
            yield Problem(field, f"must be {' or '.join(map(repr, sorted(shape)))} here, not {value!r}")
    elif isinstance(shape, tuple):
        if all(list(compare(value, choice, field)) for choice in shape):
            yield Problem(field, f"must be {' or '.join(NAMES[choice] for choice in shape)}, not {_what(value)}")
    elif not isinstance(value, shape) or (shape is int and isinstance(value, bool)):
        yield Problem(field, f"must be {NAMES[shape]}, not {_what(value)}")


def _compare_object(value: Any, shape: dict[str, Any], field: str) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield Problem(field, f"must be an object, not {_what(value)}")
        return
    keys = {key.removesuffix("!"): inner for key, inner in shape.items()}
    for key in shape:
        if key.endswith("!") and key[:-1] not in value:
            yield Problem(_join(field, key[:-1]), "is missing")
    for key, item in value.items():
        if key in keys or "*" in keys:
            yield from compare(item, keys.get(key, keys.get("*")), _join(field, key))
        else:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f": did you mean {near[0]}?" if near else f": solo knows {', '.join(keys)}"
            yield Problem(_join(field, key), f"is not supported{hint}")


def _join(field: str, key: str) -> str:
    return f"{field}.{key}" if field else key


def _what(value: Any) -> str:
    if value is None:
        return "null"
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
