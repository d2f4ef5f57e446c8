"""The part of Go's text/template with sprig that Sensors need: fields, pipelines and some functions.

`{{ .Input.body.after | trunc 12 }}`, `{{ index .Input.header "X-Stage" 0 }}`. As in Go, a key that is not there prints
`<no value>`, a float that is large prints as `1e+06`, and a value of the wrong type for a function is an error.
Everything with a keyword (if, range, with, variables, comments, trim markers) is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lark import Lark, Token, Transformer

from solo.events.grammar import LanguageError, parse
from solo.events.paths import ABSENT
from solo.events.patterns import replace_all

NO_VALUE = "<no value>"
_ACTION = re.compile(r'\{\{((?:"(?:\\.|[^"\\])*"|`[^`]*`|[^}"`]|\}(?!\}))*)\}\}')


def render(template: str, given: Any) -> str:
    """The text of a template whose `.Input` is `given`. Raises LanguageError, also for an empty or absent result."""
    values = {"Input": given}
    out = "".join(
        piece if isinstance(piece, str) else show(_evaluate(piece, values)) for piece in parse_template(template)
    )
    if out in ("", NO_VALUE):
        raise LanguageError(f"template '{template}': {'is empty' if not out else 'finds no value'} for this event")
    return out


@lru_cache(1024)
def parse_template(template: str) -> tuple[str | Pipeline, ...]:
    """Literal texts and pipelines, in order. Raises LanguageError."""
    pieces: list[str | Pipeline] = []
    end = 0
    for match in _ACTION.finditer(template):
        pieces += [template[end : match.start()], parse(_GRAMMAR, _BUILD, match[1], "template")]
        end = match.end()
    pieces.append(template[end:])
    if any("{{" in piece for piece in pieces if isinstance(piece, str)):
        raise LanguageError(f"template '{template}': a '{{{{' is not closed")
    return tuple(pieces)


def show(value: Any) -> str:
    """How Go prints a value (`%v`)."""
    if value is ABSENT or value is None:
        return NO_VALUE
    return _inner(value)


# --- functions: sprig's, with Go's types: a JSON number is a float and goes into no int -------------------------------


def _trunc(length: int, text: str) -> str:
    data = text.encode()
    cut = data[length:] if length < 0 and len(data) + length > 0 else data[:length] if length >= 0 else data
    return cut.decode(errors="replace")


def _substr(start: int, end: int, text: str) -> str:
    data = text.encode()
    if start < 0:
        start = 0
    elif end < 0 or end > len(data):
        end = len(data)
    if not start <= end <= len(data):
        raise LanguageError(f"substr {start} {end} is outside of a text of {len(data)} bytes")
    return data[start:end].decode(errors="replace")


def _default(fallback: Any, *given: Any) -> Any:
    return fallback if not given or given[0] in (None, "", 0, False, [], {}) else given[0]


def _index(item: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(item, dict) and isinstance(key, str):
            item = item.get(key)
        elif isinstance(item, list) and isinstance(key, int) and 0 <= key < len(item):
            item = item[key]
        else:
            raise LanguageError(f"index {key!r} does not fit into {_inner(item)[:80]}")
    return item


def _printf(form: str, *values: Any) -> str:
    rest = list(values)

    def expand(match: re.Match[str]) -> str:
        verb = match[1]
        if verb == "%":
            return "%"
        value = rest.pop(0) if rest else ABSENT
        fits = {"s": isinstance(value, str), "v": value is not ABSENT, "d": isinstance(value, int)}
        if not fits.get(verb, False):
            raise LanguageError(f"printf '{form}': %{verb} has no fitting value (solo has %s, %v, %d and %%)")
        return _inner(value)

    text = re.sub("%(.?)", expand, form)
    if rest:
        raise LanguageError(f"printf '{form}': {len(rest)} values too many")
    return text


@dataclass(frozen=True)
class Function:
    """A function, the types of its leading arguments, and whether more of any type may follow."""

    call: Callable[..., Any]
    types: tuple[type, ...]
    more: bool = False


FUNCTIONS: dict[str, Function] = {
    "default": Function(_default, (object,), more=True),
    "index": Function(_index, (object,), more=True),
    "lower": Function(str.lower, (str,)),
    "printf": Function(_printf, (str,), more=True),
    "regexReplaceAll": Function(replace_all, (str, str, str)),
    "replace": Function(lambda old, new, text: text.replace(old, new), (str, str, str)),
    "substr": Function(_substr, (int, int, str)),
    "toString": Function(lambda value: _inner(value), (object,)),
    "trimPrefix": Function(lambda prefix, text: text.removeprefix(prefix), (str, str)),
    "trimSuffix": Function(lambda suffix, text: text.removesuffix(suffix), (str, str)),
    "trunc": Function(_trunc, (int, str)),
    "upper": Function(str.upper, (str,)),
}


# --- the language ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    names: tuple[str, ...]


@dataclass(frozen=True)
class Literal:
    value: Any


@dataclass(frozen=True)
class Call:
    name: str
    arguments: tuple[Field | Literal | Pipeline, ...]


@dataclass(frozen=True)
class Pipeline:
    commands: tuple[Field | Literal | Call | Pipeline, ...]


_GRAMMAR = Lark(
    r"""
    start: pipeline
    pipeline: command ("|" command)*
    ?command: operand | NAME operand* -> call
    ?operand: FIELD -> field
            | STRING -> string
            | RAW -> raw
            | INT -> integer
            | FLOAT -> number
            | BOOL -> boolean
            | "(" pipeline ")"
    FIELD: /(\.[A-Za-z_]\w*)+|\./
    STRING: /"(\\.|[^"\\\n])*"/
    RAW: /`[^`]*`/
    INT: /-?\d+/
    FLOAT: /-?\d+\.\d+/
    BOOL.2: /(true|false)\b/
    NAME: /[A-Za-z_]\w*/
    %ignore /[ \t\r\n]+/
    """,
    parser="lalr",
)


class _Build(Transformer[Token, Any]):
    def start(self, items: list[Pipeline]) -> Pipeline:
        return items[0]

    def pipeline(self, commands: list[Any]) -> Pipeline:
        for command in commands[1:]:
            if not isinstance(command, Call):
                raise LanguageError("template: only a function can stand after '|'")
        return Pipeline(tuple(commands))

    def call(self, items: list[Any]) -> Call:
        name = str(items[0])
        if name not in FUNCTIONS:
            raise LanguageError(f"template: no function '{name}'; solo has {', '.join(FUNCTIONS)}")
        return Call(name, tuple(items[1:]))

    def field(self, tokens: list[Token]) -> Field:
        return Field(tuple(tokens[0].split(".")[1:]) if tokens[0] != "." else ())

    def string(self, tokens: list[Token]) -> Literal:
        try:
            return Literal(json.loads(tokens[0], strict=False))
        except ValueError:
            raise LanguageError(f"template: solo does not read an escape in {tokens[0]}") from None

    def raw(self, tokens: list[Token]) -> Literal:
        return Literal(str(tokens[0][1:-1]))

    def integer(self, tokens: list[Token]) -> Literal:
        return Literal(int(tokens[0]))

    def number(self, tokens: list[Token]) -> Literal:
        return Literal(float(tokens[0]))

    def boolean(self, tokens: list[Token]) -> Literal:
        return Literal(tokens[0] == "true")


_BUILD = _Build()


def _evaluate(node: Field | Literal | Call | Pipeline, dot: Any) -> Any:
    if isinstance(node, Literal):
        return node.value
    if isinstance(node, Field):
        for name in node.names:
            dot = _field(dot, name)
        return dot
    if isinstance(node, Call):
        return _call(node, [_evaluate(argument, dot) for argument in node.arguments])
    value = _evaluate(node.commands[0], dot)
    for command in node.commands[1:]:
        assert isinstance(command, Call)
        value = _call(command, [*(_evaluate(argument, dot) for argument in command.arguments), value])
    return value


def _field(value: Any, name: str) -> Any:
    if value is ABSENT:
        return ABSENT
    if not isinstance(value, dict):
        held = "null" if value is None else repr(_inner(value)[:80])
        raise LanguageError(f"template: .{name} asks for a field of {held}")
    return value.get(name, ABSENT)


def _call(call: Call, given: list[Any]) -> Any:
    function = FUNCTIONS[call.name]
    wanted = len(function.types)
    if len(given) < wanted or (len(given) > wanted and not function.more):
        raise LanguageError(f"template: {call.name} takes {wanted} values and was given {len(given)}")
    for value, type_ in zip(given, function.types, strict=False):
        if type_ is not object and (not isinstance(value, type_) or isinstance(value, bool)):
            kind = "a text" if type_ is str else "a whole number"
            raise LanguageError(f"template: {call.name} wants {kind} and was given {show(value)[:80]!r}")
    return function.call(*(None if value is ABSENT else value for value in given))


def _inner(value: Any) -> str:
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, list):
        return "[" + " ".join(map(_inner, value)) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_inner(value[key])}" for key in sorted(value)) + "]"
    return str(value)


def _float(value: float) -> str:
    """Go's `%v`: the shortest text, with an exponent from 1e+06 on and below 1e-4."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    sign, digits, exponent = _digits(value)
    if digits != "0" and not -4 <= exponent < 6:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{fraction}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    whole, fraction = digits[: exponent + 1].ljust(exponent + 1, "0"), digits[exponent + 1 :]
    return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"


def _digits(value: float) -> tuple[str, str, int]:
    """Sign, significant digits and decimal exponent of the shortest text of a float."""
    mantissa, _, exponent = repr(float(value)).partition("e")
    sign, mantissa = ("-", mantissa[1:]) if mantissa.startswith("-") else ("", mantissa)
    whole, _, fraction = mantissa.partition(".")
    point = len(whole) + int(exponent or 0)
    digits = whole + fraction
    stripped = digits.lstrip("0")
    point -= len(digits) - len(stripped)
    return sign, stripped.rstrip("0") or "0", (point - 1) if stripped.strip("0") else 0
