"""`{{tag}}` and `{{= expression }}` in a JSON document, replaced as Argo replaces them.

Argo works on the JSON text of a whole template: a tag is found wherever `{{` stands, its value goes in with quotes
and line breaks escaped, and the result is read again as JSON. A value of None is an *absent optional*: the output of
a task that was skipped and declared no default. An expression may look at it (`??`); a plain tag that meets it is an
error for ever.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from solo.expressions.errors import ExpressionError
from solo.expressions.expr import Expression, parse_expression
from solo.expressions.golang import to_json

# known later than the rest: an expression that names one of them is left alone until it is there
LATE = (
    "item",
    "retries",
    "lastRetry.exitCode",
    "lastRetry.status",
    "lastRetry.duration",
    "lastRetry.message",
    "workflow.status",
    "workflow.failures",
)


class UnresolvedError(ValueError):
    """A tag under a prefix that must be resolved has no value."""


class AbsentError(ValueError):
    """A plain tag names the output of a skipped task that has no default."""


def substitute(document: str, variables: Mapping[str, Any], strict: tuple[str, ...] | None = None) -> str:
    """`document` (JSON text) with the known tags replaced; unknown ones stay as they are.

    A tag whose first words are one of `strict` must have a value, except an artifact, which is looked up
    elsewhere; `strict` of `("",)` means all. With `strict` None an expression that fails is left alone too, to be
    tried again with more values. Raises UnresolvedError, AbsentError, ExpressionError; ValueError if braces are
    not closed.
    """
    if "{{" not in document:
        return document
    environment: dict[str, Any] | None = None
    out: list[str] = []
    for text, tag in _split(document):
        out.append(text)
        if tag is None:
            continue
        if tag.startswith("="):
            if environment is None:
                environment = nest(variables)
            out.append(_expression(tag[1:], environment, strict))
        else:
            out.append(_plain(tag, variables, strict))
    return "".join(out)


def tags(document: str) -> Iterator[str]:
    """The text between braces of each tag, with its `=` if it is an expression."""
    for _, tag in _split(document):
        if tag is not None:
            yield tag


def nest(variables: Mapping[str, Any]) -> dict[str, Any]:
    """`{"tasks.a.status": …}` → `{"tasks": {"a": {"status": …}}}`; a name that is also a prefix gives way."""
    tree: dict[str, Any] = {}
    for key in sorted(variables, key=lambda key: key.count(".")):
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            below = node.get(parent)
            if not isinstance(below, _Branch):
                below = node[parent] = _Branch()
            node = below
        if not isinstance(node.get(last), _Branch):
            node[last] = variables[key]
    return tree


class _Branch(dict[str, Any]):
    """A level that `nest` made, as opposed to a value that happens to be a dict."""


def _split(document: str) -> Iterator[tuple[str, str | None]]:
    position = 0
    while (start := document.find("{{", position)) >= 0:
        end = document.find("}}", start + 2)
        if end < 0:
            raise ValueError(f'Cannot find end tag="}}}}" in the template: …{document[start : start + 40]}')
        yield document[position:start], document[start + 2 : end]
        position = end + 2
    yield document[position:], None


def _plain(tag: str, variables: Mapping[str, Any], strict: tuple[str, ...] | None) -> str:
    name = tag.strip()
    if name in variables:
        value = variables[name]
        if value is None:
            raise AbsentError(
                f"unable to substitute {{{{{tag}}}}}: output is an absent optional "
                "(skipped/omitted node with no default)"
            )
        if isinstance(value, str):
            return json.dumps(value, ensure_ascii=False)[1:-1]
        raise UnresolvedError(f"failed to resolve {{{{{tag}}}}} to string")
    outer, braces, inner = tag.rpartition("{{")
    if braces and inner in variables:
        if variables[inner] is None:
            raise AbsentError(f'unable to substitute nested tag {{{{{tag}}}}}: "{inner}" is an absent optional')
        return "{{" + outer + json.dumps(str(variables[inner]), ensure_ascii=False)[1:-1]
    if _must(name, strict) and ".outputs.artifacts." not in name:
        raise UnresolvedError(f"failed to resolve {{{{{tag}}}}}")
    return "{{" + tag + "}}"


def _expression(source: str, environment: Mapping[str, Any], strict: tuple[str, ...] | None) -> str:
    untouched = "{{=" + source + "}}"
    try:
        text = str(json.loads(f'"{source}"'))
    except ValueError:
        raise ExpressionError("a quote or line break that is not escaped", source) from None
    expression = parse_expression(text)
    missing = [name for name in expression.names if not _has(environment, name)]
    for name in missing:
        if _must(name, strict):
            raise UnresolvedError(f"failed to evaluate expression: {name} is missing")
    tolerant = strict is None or bool(missing)
    if tolerant and any(name in LATE for name in missing):
        return untouched
    value = _evaluate(expression, environment, tolerant)
    if value is None:
        if tolerant:
            return untouched
        raise ExpressionError("the result is nil", text)
    written = to_json(value)
    if isinstance(value, str):
        return written[1:-1]
    return json.dumps(written, ensure_ascii=False)[1:-1]


def _evaluate(expression: Expression, environment: Mapping[str, Any], tolerant: bool) -> Any:
    try:
        return expression.evaluate(environment)
    except ExpressionError:
        if tolerant:
            return None
        raise


def _has(environment: Mapping[str, Any], name: str) -> bool:
    node: Any = environment
    for part in name.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


def _must(name: str, strict: tuple[str, ...] | None) -> bool:
    return strict is not None and any(
        prefix == "" or name == prefix or name.startswith(prefix + ".") for prefix in strict
    )
