"""Does a dependency take an event? Each filter says yes or no, and why, for a person who looks for a lost push.

Pure. The semantics are Argo Events': a text filter is an unanchored regular expression, a number filter takes other
types as 0, and a filter that cannot be evaluated (absent path, type that does not exist) drops the event.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from solo.events import exprs
from solo.events.event import Event
from solo.events.grammar import LanguageError
from solo.events.jsontext import Number, dump, fixed, text
from solo.events.paths import ABSENT, get
from solo.events.patterns import compile_pattern
from solo.events.templates import render

CONTEXT_FIELDS = ("type", "subject", "source", "datacontenttype")
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class FilterVerdict:
    """`field` is the place in the dependency's `filters`; `asked` the question in words."""

    field: str
    asked: str
    passed: bool
    why: str


def judge(dependency: dict[str, Any], event: Event) -> tuple[bool, list[FilterVerdict]]:
    """Whether the dependency takes the event, and every filter's verdict."""
    filters = dependency.get("filters") or {}
    groups: list[tuple[bool, list[FilterVerdict]]] = []
    for key, operator, one in (
        ("exprs", "exprLogicalOperator", _expression),
        ("data", "dataLogicalOperator", _data),
    ):
        verdicts = [one(f"{key}[{i}]", spec, event) for i, spec in enumerate(filters.get(key) or [])]
        if verdicts:
            passed = [verdict.passed for verdict in verdicts]
            groups.append((any(passed) if filters.get(operator) == "or" else all(passed), verdicts))
    if context := filters.get("context"):
        verdicts = [_context(name, context[name], event) for name in CONTEXT_FIELDS if context.get(name)]
        groups.append((all(verdict.passed for verdict in verdicts), verdicts))
    results = [passed for passed, _ in groups]
    taken = (
        any(results) if dependency.get("filtersLogicalOperator") == "or" and "filters" in dependency else all(results)
    )
    return taken, [verdict for _, verdicts in groups for verdict in verdicts]


def _expression(field: str, spec: dict[str, Any], event: Event) -> FilterVerdict:
    values = {}
    for item in spec["fields"]:
        found = get(event.data, item["path"])
        if found is ABSENT:
            return FilterVerdict(field, spec["expr"], False, f"path '{item['path']}' does not exist in this event")
        values[item["name"]] = found
    seen = ", ".join(f"{name} = {_brief(value)}" for name, value in values.items())
    try:
        result = exprs.evaluate(spec["expr"], values)
    except LanguageError as error:
        return FilterVerdict(field, spec["expr"], False, f"{error} ({seen})")
    return FilterVerdict(field, spec["expr"], result is True, f"is {_brief(result)} with {seen}")


def _data(field: str, spec: dict[str, Any], event: Event) -> FilterVerdict:
    comparator = spec.get("comparator") or "="
    wanted = [str(value) for value in spec["value"]]
    asked = f"{spec['path']} ({spec['type']}) {comparator} {' or '.join(map(repr, wanted))}"
    found = get(event.data, spec["path"])
    if found is ABSENT:
        return FilterVerdict(field, asked, False, f"path '{spec['path']}' does not exist in this event")
    try:
        if spec.get("template"):
            found = render(spec["template"], text(found))
        passed, why = _TYPES[spec["type"]](found, comparator, wanted)
    except LanguageError as error:
        return FilterVerdict(field, asked, False, str(error))
    return FilterVerdict(field, asked, passed, why)


def _string(found: Any, comparator: str, wanted: list[str]) -> tuple[bool, str]:
    value = text(found)
    matches = [(pattern, compile_pattern(pattern).search(value)) for pattern in wanted]
    if comparator == "!=":
        other = next((pattern for pattern, match in matches if match is None), None)
        if other is None:
            return False, f"{_brief(value)} matches every pattern"
        trap = " (one is enough: `!=` with several values nearly always passes)" if len(wanted) > 1 else ""
        return True, f"{_brief(value)} does not match '{other}'{trap}"
    for pattern, match in matches:
        if match is not None:
            part = match[0] != value
            trap = f"; it matched only '{match[0][:80]}' in it: write ^…$ if the whole is meant" if part else ""
            return True, f"{_brief(value)} matches '{pattern}'{trap}"
    return False, f"{_brief(value)} matches no pattern"


def _number(found: Any, comparator: str, wanted: list[str]) -> tuple[bool, str]:
    value = _as_float(found)
    trap = "" if isinstance(found, Number) else f" (it is no number and counts as {fixed(value)})"
    for item in wanted:
        if _NUMBERS[comparator](value, parse_number(item)):
            return True, f"{_brief(found)} {comparator} {item}{trap}"
    return False, f"{_brief(found)} {comparator} none of {', '.join(wanted)}{trap}"


def _boolean(found: Any, comparator: str, wanted: list[str]) -> tuple[bool, str]:
    value = _as_bool(found)
    trap = "" if isinstance(found, bool) else f" ({_brief(found)} is no bool and counts as {dump(value)})"
    return any(parse_bool(item) == value for item in wanted), f"it is {dump(value)}{trap}"


_TYPES: dict[str, Callable[[Any, str, list[str]], tuple[bool, str]]] = {
    "string": _string,
    "number": _number,
    "bool": _boolean,
}
_NUMBERS: dict[str, Callable[[float, float], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
}
# what each type compares with; Argo ignores the comparator of a bool
COMPARATORS: dict[str, tuple[str, ...]] = {"string": ("=", "!="), "number": tuple(_NUMBERS), "bool": ("=",)}


def parse_number(value: str) -> float:
    """A number as a filter writes it. Raises LanguageError."""
    if not _FLOAT.fullmatch(value):
        raise LanguageError(f"'{value}' is no number")
    return float(value)


def parse_bool(value: str) -> bool:
    """Go's ParseBool. Raises LanguageError."""
    if value not in _TRUE + _FALSE:
        raise LanguageError(f"'{value}' is neither true nor false")
    return value in _TRUE


def _as_float(found: Any) -> float:
    if isinstance(found, bool):
        return 1.0 if found else 0.0
    if isinstance(found, str):
        return float(found) if _FLOAT.fullmatch(found) else 0.0
    return float(found) if isinstance(found, float) else 0.0


def _as_bool(found: Any) -> bool:
    if isinstance(found, str):
        return found.lower() in _TRUE
    return bool(found) if isinstance(found, bool | float) else False


def _context(name: str, wanted: str, event: Event) -> FilterVerdict:
    value = event.context()[name]
    return FilterVerdict(f"context.{name}", f"{name} = {wanted!r}", value == wanted, f"it is {value!r}")


def _brief(value: Any) -> str:
    words = dump(value)
    return words if len(words) <= 120 else words[:117] + "…"
