"""The functions of expr-lang that solo knows, Argo's own (`asInt`, `toJson`, `jsonpath`, …) among them: one table."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from solo.expressions.golang import to_json, to_text


class CallError(Exception):
    """What is wrong with an argument; the caller adds the function's name and the place."""


def _int(value: Any) -> int:
    if isinstance(value, str):
        if re.fullmatch(r"[+-]?[0-9]+", value):
            return int(value)
        raise CallError(f"'{value}' is not a whole number")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CallError(f"{to_text(value)} is not a number")
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise CallError(f"{to_text(value)} is not a number")
    try:
        return float(value)
    except ValueError:
        raise CallError(f"'{value}' is not a number") from None


def _round(value: float) -> float:
    return math.copysign(math.floor(abs(value) + 0.5), value)


def _extreme(choose: Callable[[list[Any]], Any]) -> Callable[..., Any]:
    def of(*values: Any) -> Any:
        return choose(list(values[0]) if len(values) == 1 and isinstance(values[0], list) else list(values))

    return of


def _text(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose arguments must all be strings."""

    def checked(*values: Any) -> Any:
        for value in values:
            if not isinstance(value, str):
                raise CallError(f"{to_text(value)} is not a string")
        return function(*values)

    return checked


def _join(items: list[Any], by: str = "") -> str:
    if not all(isinstance(item, str) for item in items):
        raise CallError("only strings can be joined")
    return by.join(items)


_STEP = re.compile(
    r"""\.(?P<name>[\w-]+|\*)|\[(?:'(?P<single>[^']*)'|"(?P<double>[^"]*)"|(?P<index>-?\d+)|(?P<all>\*)"""
    r"""|(?P<start>-?\d*):(?P<end>-?\d*))\]"""
)


def read_path(path: str) -> list[re.Match[str]]:
    """The steps of a JSON path: `.name`, `['name']`, `[0]`, `[-1]`, `[1:3]`, `[*]` and `.*`; no filters, no `..`."""
    if not path.startswith("$"):
        raise CallError(f"the path '{path}' does not begin with $")
    steps: list[re.Match[str]] = []
    position = 1
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None:
            raise CallError(f"solo cannot read the path '{path}' from '{path[position:]}' on")
        steps.append(step)
        position = step.end()
    return steps


def jsonpath(document: Any, path: Any) -> Any:
    if not isinstance(document, str) or not isinstance(path, str):
        raise CallError("needs a JSON text and a path")
    try:
        found: Any = json.loads(document)
    except ValueError as error:
        raise CallError(f"the first argument is not JSON: {error}") from None
    many = False
    for step in read_path(path):
        results = [_walk(value, step) for value in (found if many else [found])]
        if step["all"] or step["name"] == "*" or step["start"] is not None:
            found, many = [item for result in results for item in result], True
        else:
            found = results if many else results[0]
    return found


def _walk(value: Any, step: re.Match[str]) -> Any:
    if step["all"] or step["name"] == "*":
        return list(value.values()) if isinstance(value, dict) else list(value)
    if step["start"] is not None and isinstance(value, list):
        start, end = (int(step[side]) if step[side] else None for side in ("start", "end"))
        return value[start:end]
    if step["index"] is not None and isinstance(value, list):
        index = int(step["index"])
        if -len(value) <= index < len(value):
            return value[index]
        raise CallError(f"index {index} is out of range")
    key = next((step[group] for group in ("name", "single", "double") if step[group] is not None), step["index"])
    if isinstance(value, dict) and key in value:
        return value[key]
    raise CallError(f"key '{key}' not found")


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "asFloat": _float,
    "asInt": _int,
    "ceil": lambda value: float(math.ceil(value)),
    "first": lambda items: items[0] if items else None,
    "float": _float,
    "floor": lambda value: float(math.floor(value)),
    "fromJSON": _text(json.loads),
    "hasPrefix": _text(str.startswith),
    "hasSuffix": _text(str.endswith),
    "indexOf": _text(str.find),
    "int": _int,
    "join": _join,
    "jsonpath": jsonpath,
    "keys": lambda value: sorted(value),
    "last": lambda items: items[-1] if items else None,
    "len": len,
    "lower": _text(str.lower),
    "max": _extreme(max),
    "min": _extreme(min),
    "replace": _text(str.replace),
    "round": _round,
    "split": _text(lambda text, by: text.split(by) if by else list(text)),
    "string": to_text,
    "sum": sum,
    "toJson": to_json,
    "trim": _text(str.strip),
    "trimPrefix": _text(str.removeprefix),
    "trimSuffix": _text(str.removesuffix),
    "upper": _text(str.upper),
    "values": lambda value: [value[key] for key in sorted(value)],
}

# what a function returns, where that is always the same; used to refuse comparisons that can never hold
RETURNS = {
    **dict.fromkeys(
        ("asFloat", "asInt", "ceil", "count", "float", "floor", "indexOf", "int", "len", "round"), "number"
    ),
    **dict.fromkeys(
        ("join", "lower", "replace", "string", "toJson", "trim", "trimPrefix", "trimSuffix", "upper"), "string"
    ),
    **dict.fromkeys(("all", "any", "hasPrefix", "hasSuffix", "none", "one"), "bool"),
}
