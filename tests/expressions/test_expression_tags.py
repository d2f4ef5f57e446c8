"""`{{tags}}`: what is put in their place, what is left, and what is an error."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo.expressions import AbsentError, ExpressionError, UnresolvedError, nest, substitute, tags


def fill(text: str, variables: dict[str, Any], strict: tuple[str, ...] | None = None) -> str:
    return json.loads(substitute(json.dumps(text), variables, strict))


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{{a}}", "1"),
        ("{{ a }}-{{b.c}}", '1-say "x"\n'),
        ("{{unknown}} {{ other }}", "{{unknown}} {{ other }}"),
        ("{{= asInt(a) + 1}}", "2"),
        ("{{=a}}", "1"),
        ("{{='\"q\"'}}", '"q"'),
        ("{{={'k': [1.0, a]} }}", '{"k":[1,"1"]}'),
        ("{{=b.c}}", 'say "x"\n'),
        ("{{=missing.x}}", "{{=missing.x}}"),
        ("{{=lastRetry.status ?? 'none'}}", "{{=lastRetry.status ?? 'none'}}"),
        ("{{x.{{a}}}}", "{{x.1}}"),
        ("no tags } } {", "no tags } } {"),
    ],
)
def test_replacing(text: str, result: str) -> None:
    assert fill(text, {"a": "1", "b.c": 'say "x"\n'}) == result


def test_a_tag_that_must_be_resolved_fails() -> None:
    for text in ("{{tasks.a.outputs.result}}", "{{=tasks.a.outputs.result}}"):
        assert fill(text, {}) == text
        with pytest.raises(UnresolvedError, match=r"tasks|missing"):
            fill(text, {"tasks.b.id": "1"}, ("tasks",))
    assert fill("{{item}} {{tasksA}}", {}, ("tasks",)) == "{{item}} {{tasksA}}"
    with pytest.raises(UnresolvedError, match=r"failed to resolve \{\{item\}\}"):
        fill("{{item}}", {}, ("",))


def test_artifacts_are_looked_up_elsewhere() -> None:
    text = "{{tasks.a.outputs.artifacts.x}}"
    assert fill(text, {}, ("tasks",)) == text


def test_an_absent_output_is_for_expressions_only() -> None:
    variables = {"tasks.a.outputs.parameters.x": None}
    assert fill("{{= tasks.a.outputs.parameters.x ?? 'none' }}", variables, ("tasks",)) == "none"
    with pytest.raises(AbsentError, match="output is an absent optional"):
        fill("{{tasks.a.outputs.parameters.x}}", variables)


def test_a_broken_expression_is_an_error() -> None:
    with pytest.raises(ExpressionError, match="ends too early"):
        fill("{{= 1 + }}", {})
    with pytest.raises(ExpressionError, match="ends too early"):
        fill("{{={'k': {}}}}", {})  # the first two braces end it
    with pytest.raises(ValueError, match="Cannot find end tag"):
        fill("{{a", {})


def test_nesting() -> None:
    assert nest({"a.b": "1", "a": "json", "a.c.d": "2"}) == {"a": {"b": "1", "c": {"d": "2"}}}


def test_listing() -> None:
    assert list(tags("{{a}} x {{= b }}")) == ["a", "= b "]


@given(st.text(), st.text())
def test_any_value_arrives_as_it_is(value: str, around: str) -> None:
    around = around.replace("{", "").replace("}", "")
    assert fill(f"{around}{{{{v}}}}{around}", {"v": value}) == around + value + around
    assert fill("{{=v}}", {"v": value}) == value
