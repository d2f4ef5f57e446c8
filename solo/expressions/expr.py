"""expr-lang, as `{{= … }}` and the fields `expression` and `fromExpression` use it.

A recursive walk over a small tree. Values are those of JSON; `nil` is None. An integer is an int, a fraction a float,
and a comparison of two types that can be told apart while reading is an error, as it is in Argo.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from lark import Lark, Token, Tree

from solo.expressions.errors import ExpressionError, parse
from solo.expressions.functions import FUNCTIONS, RETURNS, CallError, read_path

GRAMMAR = r"""
?start: ternary
?ternary: condition | condition "?" ternary ":" ternary -> choose
?condition: either | coalesce
?coalesce: postfix "??" postfix | coalesce "??" postfix
?either: both | either ("||" | "or") both -> either
?both: relation | both ("&&" | "and") relation -> both
?relation: sum | sum (COMPARE sum)+ -> compare
?sum: negation | sum SIGN negation -> arithmetic
?negation: product | ("!" | "not") negation -> negate
?product: signed | product FACTOR signed -> arithmetic
?signed: power | SIGN signed -> sign
?power: postfix | postfix POWER signed -> arithmetic
?postfix: atom
  | postfix "." NAME -> member
  | postfix "?." NAME -> optional_member
  | postfix "[" ternary "]" -> index
  | postfix "?." "[" ternary "]" -> optional_index
  | postfix "[" [slice_end] ":" [slice_end] "]" -> slice
  | postfix "(" [argument ("," argument)*] ")" -> call
?slice_end: ternary
?argument: ternary | "{" ternary "}" -> closure
?atom: "(" ternary ")"
  | NUMBER -> number
  | STRING -> string
  | NAME -> name
  | "#" -> item
  | "." NAME -> item_member
  | "[" [ternary ("," ternary)* [","]] "]" -> list
  | "{" [pair ("," pair)* [","]] "}" -> map
pair: (NAME | STRING) ":" ternary

COMPARE.2: "==" | "!=" | "<=" | ">=" | "<" | ">" | /(not\s+)?in(?!\w)/ | /matches(?!\w)/ | /contains(?!\w)/
  | /startsWith(?!\w)/ | /endsWith(?!\w)/
SIGN: "+" | "-"
FACTOR: "*" | "/" | "%"
POWER: "**" | "^"
NUMBER: /(0x[0-9a-fA-F]+|[0-9][0-9_]*(\.[0-9]+)?([eE][-+]?[0-9]+)?|\.[0-9]+)/
STRING: /"(\\.|[^"\\])*"|'(\\.|[^'\\])*'|`[^`]*`/s
NAME: /[A-Za-z_$][A-Za-z0-9_$]*/
%ignore /\s+/
%ignore /\/\*.*?\*\//s
"""

_CHAIN = ("member", "index", "optional_member", "optional_index")
_PREDICATES = ("filter", "map", "all", "any", "none", "one", "count")
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TEXT: dict[str, Callable[[str, str], bool]] = {
    "contains": lambda text, part: part in text,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "matches": lambda text, pattern: re.search(pattern, text) is not None,
}


class _Cut(Exception):
    """`?.` met nil."""


@dataclass(frozen=True)
class Expression:
    """A parsed expression. `names` are the variables that it cannot do without (`tasks`, `tasks.a`, …)."""

    text: str
    tree: Tree[Token]
    names: tuple[str, ...]

    def evaluate(self, variables: Mapping[str, Any]) -> Any:
        """`variables` is nested (`{"tasks": {"a": …}}`, see `nest`). Raises ExpressionError."""
        return _Evaluation(self.text, variables).value(self.tree)


@lru_cache(maxsize=2048)
def parse_expression(text: str) -> Expression:
    """Raises ExpressionError, also for an unknown function."""

    def build(tree: Tree[Token]) -> Expression:
        _check(tree, text)
        return Expression(text, tree, tuple(dict.fromkeys(_names(tree))))

    expression: Expression = parse(_parser(), text, build)
    return expression


def evaluate(text: str, variables: Mapping[str, Any]) -> Any:
    return parse_expression(text).evaluate(variables)


def evaluate_bool(text: str, variables: Mapping[str, Any]) -> bool:
    result = evaluate(text, variables)
    if not isinstance(result, bool):
        raise ExpressionError("the result is not true or false", text)
    return result


@cache
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", propagate_positions=True, maybe_placeholders=True)


class _Evaluation:
    """One evaluation: the variables, and what `#` stands for in the innermost predicate."""

    def __init__(self, text: str, variables: Mapping[str, Any]) -> None:
        self.text, self.variables = text, variables
        self.items: list[Any] = []

    def fail(self, problem: str, node: Any) -> ExpressionError:
        return ExpressionError(problem, self.text, node.meta.start_pos if isinstance(node, Tree) else node.start_pos)

    def value(self, node: Any) -> Any:
        if node.data in _CHAIN:
            try:
                return self.chain(node)
            except _Cut:
                return None
        handler: Callable[[Tree[Token]], Any] = getattr(self, f"_{node.data}")
        return handler(node)

    def _number(self, node: Tree[Token]) -> Any:
        return _number(str(node.children[0]))

    def _string(self, node: Tree[Token]) -> Any:
        return _string(str(node.children[0]))

    def _name(self, node: Tree[Token]) -> Any:
        name = str(node.children[0])
        if name in ("true", "false", "nil"):
            return {"true": True, "false": False, "nil": None}[name]
        if name not in self.variables:
            raise self.fail(f"unknown name {name}", node)
        return self.variables[name]

    def _item(self, node: Tree[Token]) -> Any:
        if not self.items:
            raise self.fail("'#' outside of a predicate", node)
        return self.items[-1]

    def _item_member(self, node: Tree[Token]) -> Any:
        return self.fetch(self._item(node), str(node.children[0]), node)

    def _list(self, node: Tree[Token]) -> Any:
        return [self.value(child) for child in node.children if isinstance(child, Tree)]

    def _map(self, node: Tree[Token]) -> Any:
        pairs = [child.children for child in node.children if isinstance(child, Tree)]
        return {_key(key): self.value(value) for key, value in pairs}

    def _choose(self, node: Tree[Token]) -> Any:
        condition, yes, no = node.children
        return self.value(yes if self.boolean(condition) else no)

    def _either(self, node: Tree[Token]) -> Any:
        return self.boolean(node.children[0]) or self.boolean(node.children[1])

    def _both(self, node: Tree[Token]) -> Any:
        return self.boolean(node.children[0]) and self.boolean(node.children[1])

    def _negate(self, node: Tree[Token]) -> Any:
        return not self.boolean(node.children[0])

    def _coalesce(self, node: Tree[Token]) -> Any:
        left = self.value(node.children[0])
        return self.value(node.children[1]) if left is None else left

    def _compare(self, node: Tree[Token]) -> Any:
        left = self.value(node.children[0])
        for sign, right_node in zip(node.children[1::2], node.children[2::2], strict=True):
            right = self.value(right_node)
            if not self.compare(" ".join(str(sign).split()), left, right, sign):
                return False
            left = right
        return True

    def compare(self, sign: str, left: Any, right: Any, place: Any) -> bool:
        if sign in ("==", "!="):
            return _equal(left, right) == (sign == "==")
        if sign in ("in", "not in"):
            if isinstance(right, Mapping):
                return (left in right) == (sign == "in")
            if isinstance(right, list):
                return any(_equal(left, item) for item in right) == (sign == "in")
        elif sign in _TEXT:
            if isinstance(left, str) and isinstance(right, str):
                try:
                    return bool(_TEXT[sign](left, right))
                except re.error as error:
                    raise self.fail(f"'{right}' is not a regular expression: {error}", place) from None
        elif (_is_number(left) and _is_number(right)) or (isinstance(left, str) and isinstance(right, str)):
            return _ORDER[sign](left, right)
        raise self.fail(f"invalid operation: {_type(left)} {sign} {_type(right)}", place)

    def _arithmetic(self, node: Tree[Token]) -> Any:
        left_node, sign, right_node = node.children
        left, right = self.value(left_node), self.value(right_node)
        if sign == "+" and isinstance(left, str) and isinstance(right, str):
            return left + right
        if not (_is_number(left) and _is_number(right)):
            raise self.fail(f"invalid operation: {_type(left)} {sign} {_type(right)}", sign)
        match str(sign):
            case "+":
                return left + right
            case "-":
                return left - right
            case "*":
                return left * right
            case "/":
                if right == 0:
                    return math.nan if left == 0 else math.copysign(math.inf, left)
                return left / right
            case "%":
                if not (isinstance(left, int) and isinstance(right, int)):
                    raise self.fail(f"invalid operation: {_type(left)} % {_type(right)}", sign)
                if right == 0:
                    raise self.fail("integer divide by zero", sign)
                return int(math.fmod(left, right))
        try:
            return float(left) ** float(right)
        except OverflowError:
            return math.inf

    def _sign(self, node: Tree[Token]) -> Any:
        number = self.value(node.children[1])
        if not _is_number(number):
            raise self.fail(f"invalid operation: {node.children[0]} {_type(number)}", node)
        return number if node.children[0] == "+" else -number

    def chain(self, node: Tree[Token]) -> Any:
        """One link of `a.b[c]?.d`; raises _Cut where `?.` meets nil, so that the rest of the chain is nil too."""
        head = node.children[0]
        assert isinstance(head, Tree)
        left = self.chain(head) if head.data in _CHAIN else self.value(head)
        key = node.children[1]
        if node.data.startswith("optional_") and left is None:
            raise _Cut
        return self.fetch(left, str(key) if isinstance(key, Token) else self.value(key), key)

    def fetch(self, left: Any, key: Any, place: Any) -> Any:
        if isinstance(left, Mapping) and isinstance(key, str):
            return left.get(key)
        if isinstance(left, list | str) and isinstance(key, int) and not isinstance(key, bool):
            if -len(left) <= key < len(left):
                return left[key]
            raise self.fail(f"index out of range: {key} (array length is {len(left)})", place)
        raise self.fail(f"cannot fetch {key} from {'<nil>' if left is None else _type(left)}", place)

    def _slice(self, node: Tree[Token]) -> Any:
        value, start, end = (child if child is None else self.value(child) for child in node.children)
        if not isinstance(value, list | str) or any(not isinstance(x, int | None) for x in (start, end)):
            raise self.fail(f"cannot slice {_type(value)}", node)
        return value[start:end]

    def _call(self, node: Tree[Token]) -> Any:
        name = _callee(node, self.text)
        arguments = [child for child in node.children[1:] if isinstance(child, Tree)]
        if name in _PREDICATES:
            return self.predicate(name, arguments, node)
        values = [self.value(argument) for argument in arguments]
        try:
            return FUNCTIONS[name](*values)
        except (CallError, ValueError) as error:
            raise self.fail(f"{name}: {error}", node) from None
        except (TypeError, KeyError, AttributeError):
            raise self.fail(f"{name}: wrong number or kind of arguments", node) from None

    def predicate(self, name: str, arguments: list[Tree[Token]], node: Tree[Token]) -> Any:
        if len(arguments) != 2:
            raise self.fail(f"{name}: needs a list and a predicate", node)
        items, body = self.value(arguments[0]), arguments[1]
        if not isinstance(items, list):
            raise self.fail(f"{name}: {_type(items)} is not a list", arguments[0])
        body_node = body.children[0] if body.data == "closure" else body
        results = []
        for item in items:
            self.items.append(item)
            results.append(self.value(body_node))
            self.items.pop()
        if name == "map":
            return results
        if not all(isinstance(result, bool) for result in results):
            raise self.fail(f"{name}: the predicate is not true or false", body)
        if name == "filter":
            return [item for item, keep in zip(items, results, strict=True) if keep]
        true = results.count(True)
        return {"all": true == len(items), "any": true > 0, "none": true == 0, "one": true == 1, "count": true}[name]

    def boolean(self, node: Any) -> bool:
        value = self.value(node)
        if not isinstance(value, bool):
            raise self.fail(f"{_type(value)} is not true or false", node)
        return value


def _number(text: str) -> int | float:
    text = text.replace("_", "")
    if text.startswith("0x"):
        return int(text, 16)
    return int(text) if text.isdigit() else float(text)


def _string(text: str) -> str:
    if text[0] == "`":
        return text[1:-1]
    # Go's escapes are Python's; a real line break may stand in the text
    try:
        result = ast.literal_eval(text.replace("\n", "\\n").replace("\r", "\\r"))
    except (SyntaxError, ValueError):
        raise ExpressionError("a string with an unknown escape", text, 0) from None
    return str(result)


def _key(token: Any) -> str:
    return _string(str(token)) if token.type == "STRING" else str(token)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    return bool(left == right)


def _type(value: Any) -> str:
    if isinstance(value, Mapping):
        return "map"
    names = {bool: "bool", int: "int", float: "float64", str: "string", list: "list", type(None): "nil"}
    return names.get(type(value), type(value).__name__)


def _callee(node: Tree[Token], text: str) -> str:
    head = node.children[0]
    assert isinstance(head, Tree)
    name = str(head.children[0]) if head.data == "name" else ""
    if name in FUNCTIONS or name in _PREDICATES:
        return name
    start, end = head.meta.start_pos, head.meta.end_pos
    raise ExpressionError(f"solo does not know the function '{text[start:end]}'", text, start)


def _check(tree: Tree[Token], text: str) -> None:
    """Refuse what can be seen without values: unknown functions, stray predicates, comparisons of different types."""
    for node in tree.iter_subtrees():
        if node.data == "call":
            name = _callee(node, text)
            closures = [child for child in node.children[1:] if isinstance(child, Tree) and child.data == "closure"]
            if closures and name not in _PREDICATES:
                raise ExpressionError(f"{name} takes no predicate", text, closures[0].meta.start_pos)
            if name == "jsonpath":
                _check_path(node, text)
        elif node.data == "string":
            token = node.children[0]
            assert isinstance(token, Token)
            try:
                _string(str(token))
            except ExpressionError as error:
                raise ExpressionError(error.problem, text, token.start_pos) from None
        elif node.data == "compare":
            for left, sign, right in zip(node.children[::2], node.children[1::2], node.children[2::2], strict=False):
                kinds = _static_type(left), _static_type(right)
                if sign in ("==", "!=", *_ORDER) and None not in kinds and kinds[0] != kinds[1]:
                    assert isinstance(sign, Token)
                    problem = f"invalid operation: {sign} (mismatched types {kinds[0]} and {kinds[1]})"
                    raise ExpressionError(problem, text, sign.start_pos)


def _check_path(node: Tree[Token], text: str) -> None:
    """An unreadable path must not wait for its first evaluation: Argo would leave such an expression as it is."""
    path = node.children[-1]
    if isinstance(path, Tree) and path.data == "string":
        try:
            read_path(_string(str(path.children[0])))
        except CallError as error:
            raise ExpressionError(f"jsonpath: {error}", text, path.meta.start_pos) from None


def _static_type(node: Any) -> str | None:
    """bool, number or string where the text alone tells; else None."""
    if node.data in ("string", "number"):
        return str(node.data)
    if node.data in ("compare", "negate", "both", "either"):
        return "bool"
    if node.data == "name":
        return "bool" if node.children[0] in ("true", "false") else None
    if node.data == "call":
        return RETURNS.get(str(node.children[0].children[0])) if node.children[0].data == "name" else None
    return None


def _names(node: Any, guarded: bool = False) -> Iterator[str]:
    """Variables and dotted paths, but no path to the left of `??` or `?.`: those may be absent."""
    if not isinstance(node, Tree):
        return
    children = node.children
    match node.data:
        case "name":
            if children[0] not in ("true", "false", "nil"):
                yield str(children[0])
        case "call":
            for child in children[1:]:
                yield from _names(child, guarded)
        case "member" | "index":
            path = _path(node)
            if path is not None and not guarded:
                yield ".".join(path)
            for child in children:
                yield from _names(child, guarded)
        case "optional_member" | "optional_index":
            yield from _names(children[0], True)
            yield from _names(children[1], guarded)
        case "coalesce":
            yield from _names(children[0], True)
            yield from _names(children[1], guarded)
        case _:
            for child in children:
                yield from _names(child, guarded)


def _path(node: Any) -> list[str] | None:
    if node.data == "name":
        return [str(node.children[0])]
    if node.data not in ("member", "index"):
        return None
    head, last = _path(node.children[0]), node.children[1]
    if head is None:
        return None
    if isinstance(last, Token):
        return [*head, str(last)]
    return [*head, _string(str(last.children[0]))] if last.data == "string" else None
