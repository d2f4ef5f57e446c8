"""`depends`: which results of which tasks let a task run, such as `a && (b.Failed || c.AllFailed)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from lark import Lark, Token, Tree

from solo.expressions.errors import ExpressionError, parse

RESULTS = ("Succeeded", "Failed", "Errored", "Skipped", "Omitted", "Daemoned", "AnySucceeded", "AllFailed")
# a task without a result means "it is out of the way"
DEFAULT = ("Succeeded", "Skipped", "Daemoned")

GRAMMAR = r"""
?start: either
?either: both | either "||" both -> either | either "or" both -> either
?both: unary | both "&&" unary -> both | both "and" unary -> both
?unary: atom | ("!" | "not") unary -> negate
?atom: "(" either ")" | NAME ["." RESULT] -> task
NAME: /[a-zA-Z0-9][-_a-zA-Z0-9]*/
RESULT.2: /[A-Z][a-zA-Z]+/
%ignore /\s+/
"""


@dataclass(frozen=True)
class Depends:
    """A parsed `depends`: the names in it, and those (`items`) of which it asks AnySucceeded or AllFailed."""

    text: str
    tasks: tuple[str, ...]
    items: frozenset[str]
    tree: Tree[Token]

    def holds(self, results: Mapping[str, frozenset[str]], default: Callable[[str], tuple[str, ...]]) -> bool:
        """Given the results that each task has; `default(task)` are those meant by a task's bare name."""

        def visit(node: Any) -> bool:
            match node.data:
                case "either":
                    return visit(node.children[0]) or visit(node.children[1])
                case "both":
                    return visit(node.children[0]) and visit(node.children[1])
                case "negate":
                    return not visit(node.children[0])
            name, result = node.children
            have = results[str(name)]
            return str(result) in have if result else any(wanted in have for wanted in default(str(name)))

        return visit(self.tree)


@lru_cache(maxsize=1024)
def parse_depends(text: str) -> Depends:
    """Raises ExpressionError, also for a result that does not exist."""

    def build(tree: Tree[Token]) -> Depends:
        tasks: dict[str, None] = {}
        items: set[str] = set()
        for node in tree.iter_subtrees():
            if node.data != "task":
                continue
            name, result = (None if part is None else str(part) for part in node.children)
            assert name is not None
            tasks[name] = None
            if result is not None and result not in RESULTS:
                place = node.children[1]
                assert isinstance(place, Token)
                raise ExpressionError(f"task result '{result}' for task '{name}' is invalid", text, place.start_pos)
            if result in ("AnySucceeded", "AllFailed"):
                items.add(name)
        return Depends(text, tuple(tasks), frozenset(items), tree)

    result: Depends = parse(_parser(), text, build)
    return result


@cache
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", propagate_positions=True, maybe_placeholders=True)
