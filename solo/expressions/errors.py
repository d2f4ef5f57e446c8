"""The one error of all expression languages, and how a parser's complaint becomes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken, VisitError


class ExpressionError(ValueError):
    """An expression that cannot be read or evaluated; `position` is where in `text` the trouble is."""

    def __init__(self, problem: str, text: str, position: int | None = None) -> None:
        self.problem, self.text, self.position = problem, text, position
        super().__init__(problem)

    def __str__(self) -> str:
        if self.position is None:
            return f"{self.problem} in '{self.text}'"
        before = self.text[: self.position]
        line = self.text.split("\n")[before.count("\n")]
        column = self.position - (before.rfind("\n") + 1)
        return f"{self.problem} (column {column + 1})\n | {line}\n | {' ' * column}^"


def parse(parser: Lark, text: str, build: Callable[[Tree[Token]], Any]) -> Any:
    """Parse `text` and hand the tree to `build`; raises ExpressionError with the place."""
    try:
        return build(parser.parse(text))
    except UnexpectedToken as error:
        if error.token.type == "$END":
            raise ExpressionError("the expression ends too early", text, len(text)) from None
        raise ExpressionError(f"unexpected '{error.token}'", text, error.token.start_pos) from None
    except UnexpectedCharacters as error:
        place = error.pos_in_stream or 0
        raise ExpressionError(f"unexpected '{text[place]}'", text, place) from None
    except (UnexpectedEOF, UnexpectedInput):
        raise ExpressionError("the expression ends too early", text, len(text)) from None
    except VisitError as error:
        if isinstance(error.orig_exc, ExpressionError):
            raise error.orig_exc from None
        raise
    except RecursionError:
        raise ExpressionError("the expression is nested too deeply", text) from None
