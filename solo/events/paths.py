"""gjson paths to read an event and sjson paths to write a Workflow: the part that Sensors need.

Keys with dots between them, `\\.` for a dot inside a key, list positions, `#` for a list's length, and the first
element of a list for which something holds: `#(name=="sha")`. Wildcards, modifiers, multipaths and `#(…)#` are
refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from lark import Lark, Token, Transformer

from solo.events.grammar import LanguageError, parse
from solo.events.jsontext import Number, text


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()
LENGTH: Final = "#"
_MOST = 1000  # sjson fills a list with nulls up to the position asked for


@dataclass(frozen=True)
class Key:
    name: str


@dataclass(frozen=True)
class Query:
    keys: tuple[Key, ...]
    negated: bool
    value: str


Part = Key | Query | str
Path = tuple[Part, ...]

_GRAMMAR = Lark(
    r"""
    start: (part ".")* last
    ?part: key | query
    ?last: key | query | "#" -> length
    key: KEY
    query: "#(" key ("." key)* OPERATOR (STRING | BARE) ")"
    OPERATOR: "==" | "!="
    STRING: /"(\\.|[^"\\])*"/
    BARE: /true|false|null|-?\d+(\.\d+)?/
    KEY: /(\\.|[^\\.*?|#@!{}\[\]()=<>"%~])+/
    """,
    parser="lalr",
)


class _Build(Transformer[Token, Any]):
    def start(self, parts: list[Part]) -> Path:
        return tuple(parts)

    def key(self, tokens: list[Token]) -> Key:
        return Key(re.sub(r"\\(.)", r"\1", tokens[0]))

    def length(self, _: list[Token]) -> str:
        return LENGTH

    def query(self, items: list[Any]) -> Query:
        *keys, operator, value = items
        return Query(tuple(keys), operator == "!=", json.loads(value) if value.startswith('"') else str(value))


_BUILD = _Build()


@lru_cache(1024)
def parse_path(path: str) -> Path:
    """Raises LanguageError."""
    parts: Path = parse(_GRAMMAR, _BUILD, path, "path")
    return parts


def get(value: Any, path: str) -> Any:
    """The value at a path, or ABSENT. Raises LanguageError for a path that solo does not read."""
    for part in parse_path(path):
        value = _step(value, part)
        if value is ABSENT:
            break
    return value


def put(value: Any, path: str, new: Any) -> bool:
    """Set `path` in a dict as sjson does, making what is missing on the way; `-1` adds to a list.

    False if nothing was set: that is what happens, silently, when a `#(…)` finds nothing. Raises LanguageError.
    """
    parts = parse_path(path)
    if all(isinstance(part, Key) for part in parts):
        _put(value, [part.name for part in parts if isinstance(part, Key)], new)
        return True
    for part in parts[:-1]:
        value = _step(value, part)
    if _step(value, parts[-1]) is ABSENT or parts[-1] == LENGTH:
        return False
    value[_position(value, parts[-1])] = new
    return True


def _step(value: Any, part: Part) -> Any:
    if isinstance(value, list):
        if part == LENGTH:
            return Number(str(len(value)))
        position = _position(value, part)
        return value[position] if isinstance(position, int) else ABSENT
    if isinstance(value, dict) and isinstance(part, Key):
        return value.get(part.name, ABSENT)
    return ABSENT


def _position(value: Any, part: Part) -> Any:
    """The index or key under which a part is found; None in a list that has no such element."""
    if isinstance(part, Query):
        return next((i for i, item in enumerate(value) if _holds(item, part)), None)
    if isinstance(part, Key) and isinstance(value, list):
        fits = re.fullmatch("[0-9]{1,9}", part.name) is not None and int(part.name) < len(value)
        return int(part.name) if fits else None
    return part.name if isinstance(part, Key) else None


def _holds(item: Any, query: Query) -> bool:
    for key in query.keys:
        item = _step(item, key)
    if item is ABSENT:
        return False
    if isinstance(item, Number):
        try:
            equal = float(item) == float(query.value)
        except ValueError:
            equal = float(item) == 0
    else:
        equal = ("null" if item is None else text(item)) == query.value
    return equal != query.negated


def _put(node: Any, names: list[str], new: Any) -> Any:
    if not names:
        return new
    name, rest = names[0], names[1:]
    numeric = re.fullmatch("[0-9]{1,9}", name) is not None
    if not isinstance(node, dict | list):
        node = [] if numeric or name == "-1" else {}
    if isinstance(node, dict):
        node[name] = _put(node.get(name), rest, new)
    elif name == "-1":
        node.append(_put(None, rest, new))
    elif not numeric:
        raise LanguageError(f"a list has no element '{name}'")
    else:
        if int(name) > _MOST:
            raise LanguageError(f"position {name} is beyond {_MOST}")
        node.extend([None] * (int(name) + 1 - len(node)))
        node[int(name)] = _put(node[int(name)], rest, new)
    return node
