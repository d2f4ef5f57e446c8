"""`when`: the part of govaluate that Argo's users write.

Argo puts values into the text before it is read, so a bare word is a string (`heads == heads`) and a string ends at
either kind of quote. Numbers, `true`/`false`, comparison, `=~ !~`, `in`, `&& || !`, arithmetic on numbers and
parentheses.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

from lark import Lark, Token, Tree

from solo.expressions.errors import ExpressionError, parse
from solo.expressions.golang import to_text

GRAMMAR = r"""
?start: either
?either: both | either OR both
?both: relation | both AND relation
?relation: sum | relation COMPARE sum | relation IN "(" [either ("," either)*] ")" -> contained
?sum: product | sum SIGN product
?product: unary | product FACTOR unary
?unary: atom | NOT unary -> negate | SIGN unary -> signed
?atom: "(" either ")" | TRUE -> true | FALSE -> false | NUMBER -> number | STRING -> string | WORD -> word

OR: "||"
AND: "&&"
NOT: "!"
SIGN: "+" | "-"
FACTOR: "*" | "/" | "%"
COMPARE: "==" | "!=" | "<=" | ">=" | "<" | ">" | "=~" | "!~"
IN.3: /in(?!\w)/i
TRUE.3: /true(?!\w)/
FALSE.3: /false(?!\w)/
NUMBER: /[0-9]+(\.[0-9]+)?|\.[0-9]+/
STRING: /['"](\\.|[^'"\\])*['"]/
WORD: /[^\W\d_]\w*/
%ignore /\s+/
"""


@lru_cache(maxsize=4096)
def evaluate_when(text: str) -> bool:
    """Whether a `when` lets its task run; an empty one does. Raises ExpressionError."""
    if not text:
        return True
    try:
        result = parse(_parser(), text, lambda tree: _evaluated(tree, text))
    except WhenError:
        raise
    except ExpressionError as error:
        hint = ' (hint: try wrapping the affected expression in quotes ("))' if "unexpected" in error.problem else ""
        raise ExpressionError(
            f"Invalid 'when' expression '{text}': {error.problem}{hint}", text, error.position
        ) from None
    if not isinstance(result, bool):
        raise WhenError(f"Expected boolean evaluation for '{text}'. Got {to_text(result)}", text)
    return result


def _evaluated(tree: Any, text: str) -> Any:
    try:
        return _value(tree, text)
    except ExpressionError as error:
        # Argo's words, spelt as there. Source: shouldExecute, workflow/controller/steps.go
        raise WhenError(f"Failed to evaluate 'when' expresion '{text}': {error.problem}", text) from None


class WhenError(ExpressionError):
    """A `when` that can be read but has no answer; says what Argo's own message says, which quotes it already."""

    def __str__(self) -> str:
        return self.problem


@cache
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", propagate_positions=True, maybe_placeholders=False)


def _value(node: Any, text: str) -> Any:
    assert isinstance(node, Tree)
    kind, parts = node.data, node.children
    match kind:
        case "true":
            return True
        case "false":
            return False
        case "number":
            return float(str(parts[0]))
        case "string":
            return re.sub(r"\\(.)", r"\1", str(parts[0])[1:-1])
        case "word":
            return str(parts[0])
        case "negate":
            return not _expect(_value(parts[1], text), bool, "prefix", "!", text, parts[0])
        case "signed":
            number: float = _expect(_value(parts[1], text), float, "prefix", str(parts[0]), text, parts[0])
            return number if parts[0] == "+" else -number
        case "contained":
            return _value(parts[0], text) in [_value(part, text) for part in parts[2:]]
    operator = parts[1]
    assert isinstance(operator, Token)
    left = _value(parts[0], text)
    if kind in ("either", "both"):
        _expect(left, bool, "logical operator", operator, text, operator)
        if left == (kind == "either"):
            return left
        return _expect(_value(parts[2], text), bool, "logical operator", operator, text, operator)
    right = _value(parts[2], text)
    if kind == "relation":
        return _compare(operator, left, right, text)
    if operator == "+" and (isinstance(left, str) or isinstance(right, str)):
        return to_text(left) + to_text(right)
    for side in (left, right):
        _expect(side, float, "modifier", operator, text, operator)
    return _arithmetic(operator, left, right, text)


def _arithmetic(operator: Token, left: float, right: float, text: str) -> float:
    if operator in "/%" and right == 0:
        raise ExpressionError("division by zero", text, operator.start_pos)
    match str(operator):
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            return left / right
        case _:
            return left % right


def _compare(operator: Token, left: Any, right: Any, text: str) -> Any:
    if operator in ("==", "!="):
        same = type(left) is type(right) and left == right
        return same == (operator == "==")
    if operator in ("=~", "!~"):
        for side in (left, right):
            _expect(side, str, "comparator", operator, text, operator)
        try:
            return bool(re.search(right, left)) == (operator == "=~")
        except re.error as error:
            raise ExpressionError(f"'{right}' is not a regular expression: {error}", text, operator.start_pos) from None
    if not (isinstance(left, str) and isinstance(right, str)):
        for side in (left, right):
            _expect(side, float, "comparator", operator, text, operator)
    order = (left > right) - (left < right)
    return {"<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0}[str(operator)]


def _expect(value: Any, kind: type, role: str, operator: str, text: str, place: Any) -> Any:
    if isinstance(value, kind):
        return value
    wanted = {bool: "a bool", float: "a number", str: "a string"}[kind]
    raise ExpressionError(
        f"Value '{to_text(value)}' cannot be used with the {role} '{operator}', it is not {wanted}",
        text,
        place.start_pos,
    )
