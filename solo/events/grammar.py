"""How the small languages of Sensors are parsed: one error, which shows the text and the place."""

from __future__ import annotations

from typing import Any

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken, VisitError


class LanguageError(ValueError):
    """A path, template, pattern or expression that solo does not read, or that fails on the event at hand."""


def parse(parser: Lark, build: Transformer[Token, Any], text: str, what: str) -> Any:
    """Parse and build; raises LanguageError."""
    try:
        return build.transform(parser.parse(text))
    except UnexpectedCharacters as error:
        problem = f"unexpected '{error.char}' at column {error.column}"
    except UnexpectedToken as error:
        end = error.token.type == "$END"
        problem = (
            "ends too early" if end else f"unexpected '{error.token}' at column {(error.token.start_pos or 0) + 1}"
        )
    except UnexpectedInput:
        problem = "cannot be read"
    except VisitError as error:
        if isinstance(error.orig_exc, LanguageError):
            raise error.orig_exc from None
        raise
    except RecursionError:
        problem = "nested too deeply"
    raise LanguageError(f"{what} '{text}': {problem}")
