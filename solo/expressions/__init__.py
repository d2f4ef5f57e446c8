"""The four small languages inside Argo's manifests.

`when` (govaluate), `depends` (task results), expr-lang (`{{= … }}`, `expression:`) and `{{tag}}` substitution. They
read the documented syntax only as far as templates use it; anything else is an error that shows the text and where it
stopped.
"""

from solo.expressions.depends import Depends, parse_depends
from solo.expressions.errors import ExpressionError
from solo.expressions.expr import Expression, evaluate, evaluate_bool, parse_expression
from solo.expressions.tags import AbsentError, UnresolvedError, nest, substitute, tags
from solo.expressions.when import evaluate_when


def warm() -> None:
    """Build the parsers now rather than at their first use."""
    parse_expression("true")
    parse_depends("a")
    evaluate_when("true")


__all__ = [
    "AbsentError",
    "Depends",
    "Expression",
    "ExpressionError",
    "UnresolvedError",
    "evaluate",
    "evaluate_bool",
    "evaluate_when",
    "nest",
    "parse_depends",
    "parse_expression",
    "substitute",
    "tags",
    "warm",
]
