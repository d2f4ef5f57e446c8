"""The part of govaluate that expression filters need.

Comparisons, `&&`, `||`, `!`, `in (…)`, `=~` and arithmetic over the fields that the filter names; `[my-name]` for a
name with a dash. Anything else (ternaries, bit operations, functions) is refused, and so is a text that govaluate
would take for a date.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from lark import Lark, Token, Transformer

from solo.events.grammar import LanguageError, parse
from solo.events.patterns import compile_pattern

Values = Mapping[str, Any]
Term = Callable[[Values], Any]

_DATE = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}(:\d{2}(:\d{2}(\.\d+)?)?)?(Z|[+-]\d{2}:?\d{2})?)?"
    r"|\d{1,2}:\d{2}(:\d{2})?\s*([AP]M)?"
)

_GRAMMAR = Lark(
    r"""
    ?start: either
    ?either: both | either "||" both -> or_
    ?both: comparison | both "&&" comparison -> and_
    ?comparison: sum | sum COMPARATOR sum -> compare
               | sum "in" "(" sum ("," sum)* ")" -> in_
    ?sum: product | sum SIGN product -> arithmetic
    ?product: unary | product TIMES unary -> arithmetic
    ?unary: atom | "!" unary -> not_ | SIGN unary -> signed
    ?atom: NUMBER -> number
         | STRING -> string
         | BOOL -> boolean
         | NAME -> name
         | BRACKETED -> bracketed
         | "(" either ")"
    COMPARATOR: "==" | "!=" | ">=" | "<=" | ">" | "<" | "=~" | "!~"
    SIGN: "+" | "-"
    TIMES: "*" | "/" | "%"
    NUMBER: /\d+(\.\d+)?/
    STRING: /"(\\.|[^"\\])*"|'(\\.|[^'\\])*'/
    BOOL.2: /(true|false)\b/
    NAME: /(?!in\b)[A-Za-z_]\w*/
    BRACKETED: /\[[^\]]+\]/
    %ignore /\s+/
    """,
    parser="lalr",
)


def evaluate(expression: str, values: Values) -> Any:
    """The value of an expression over named fields. Raises LanguageError."""
    return parse_expression(expression)(values)


@lru_cache(512)
def parse_expression(expression: str) -> Term:
    """Raises LanguageError."""
    term: Term = parse(_GRAMMAR, _BUILD, expression, "expression")
    return term


def names(expression: str) -> set[str]:
    """The fields that an expression reads. Raises LanguageError."""
    parse_expression(expression)
    tokens = [token for token in _GRAMMAR.lex(expression) if token.type in ("NAME", "BRACKETED")]
    return {str(token) if token.type == "NAME" else str(token)[1:-1] for token in tokens}


_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": lambda a, b: a - b * int(a / b),
}


class _Build(Transformer[Token, Any]):
    def or_(self, sides: list[Term]) -> Term:
        left, right = sides
        return lambda values: _bool(left(values), "||") or _bool(right(values), "||")

    def and_(self, sides: list[Term]) -> Term:
        left, right = sides
        return lambda values: _bool(left(values), "&&") and _bool(right(values), "&&")

    def not_(self, items: list[Term]) -> Term:
        return lambda values: not _bool(items[0](values), "!")

    def compare(self, items: list[Any]) -> Term:
        left, symbol, right = items
        return lambda values: _compare(left(values), str(symbol), right(values))

    def in_(self, items: list[Term]) -> Term:
        left, *choices = items
        return lambda values: any(_same(left(values), choice(values)) for choice in choices)

    def arithmetic(self, items: list[Any]) -> Term:
        left, symbol, right = items
        return lambda values: _calculate(left(values), str(symbol), right(values))

    def signed(self, items: list[Any]) -> Term:
        symbol, term = items
        return lambda values: _calculate(0.0, str(symbol), term(values))

    def number(self, tokens: list[Token]) -> Term:
        value = float(tokens[0])
        return lambda _: value

    def string(self, tokens: list[Token]) -> Term:
        value = re.sub(r"\\(.)", r"\1", tokens[0][1:-1])
        if _DATE.fullmatch(value):
            raise LanguageError(f"govaluate makes a number of the date '{value}': use a data filter")
        return lambda _: value

    def boolean(self, tokens: list[Token]) -> Term:
        value = tokens[0] == "true"
        return lambda _: value

    def name(self, tokens: list[Token]) -> Term:
        return self._field(str(tokens[0]))

    def bracketed(self, tokens: list[Token]) -> Term:
        return self._field(str(tokens[0])[1:-1])

    @staticmethod
    def _field(name: str) -> Term:
        def read(values: Values) -> Any:
            if name not in values:
                raise LanguageError(f"no field '{name}' is declared under `fields`")
            return values[name]

        return read


_BUILD = _Build()


def _bool(value: Any, symbol: str) -> bool:
    if not isinstance(value, bool):
        raise LanguageError(f"'{symbol}' wants true or false and was given {value!r}")
    return value


def _same(left: Any, right: Any) -> bool:
    """Equal as Go's DeepEqual is: true is not 1."""
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _compare(left: Any, symbol: str, right: Any) -> bool:
    if symbol in ("==", "!="):
        return _same(left, right) == (symbol == "==")
    if symbol in ("=~", "!~"):
        if not (isinstance(left, str) and isinstance(right, str)):
            raise LanguageError(f"'{symbol}' wants texts and was given {left!r} and {right!r}")
        return (compile_pattern(right).search(left) is not None) == (symbol == "=~")
    if _kind(left) != _kind(right) or _kind(left) is None:
        raise LanguageError(f"'{symbol}' wants two numbers or two texts and was given {left!r} and {right!r}")
    return _ORDER[symbol](left, right)


def _calculate(left: Any, symbol: str, right: Any) -> Any:
    if symbol == "+" and isinstance(left, str) and isinstance(right, str):
        return left + right
    if _kind(left) is not float or _kind(right) is not float:
        raise LanguageError(f"'{symbol}' wants numbers and was given {left!r} and {right!r}")
    if symbol in "/%" and right == 0:
        raise LanguageError("division by zero")
    return _ARITHMETIC[symbol](left, right)


def _kind(value: Any) -> type | None:
    if isinstance(value, bool):
        return None
    return float if isinstance(value, float) else str if isinstance(value, str) else None
