"""`depends`: conditions over the results of tasks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo.expressions import ExpressionError, parse_depends
from solo.expressions.depends import DEFAULT, RESULTS


def holds(text: str, **results: str) -> bool:
    found = {name.replace("_", "-"): frozenset(result.split()) for name, result in results.items()}
    return parse_depends(text).holds(found, lambda _: DEFAULT)


@pytest.mark.parametrize(
    ("text", "results", "expected"),
    [
        ("a", {"a": "Succeeded"}, True),
        ("a", {"a": "Skipped"}, True),
        ("a", {"a": "Omitted"}, False),
        ("a", {"a": "Failed"}, False),
        ("a.Failed", {"a": "Failed"}, True),
        ("a.Errored || a.Failed", {"a": "Errored"}, True),
        ("a && b", {"a": "Succeeded", "b": "Failed"}, False),
        ("a && (b || b.Failed)", {"a": "Succeeded", "b": "Failed"}, True),
        ("!a.Succeeded", {"a": "Failed"}, True),
        ("a and not b.Failed", {"a": "Succeeded", "b": "Succeeded"}, True),
        ("fan.AnySucceeded && !fan.AllFailed", {"fan": "Failed AnySucceeded"}, True),
        ("load-data.Succeeded", {"load_data": "Succeeded"}, True),
        ("a.Omitted || b.Skipped && b.Failed", {"a": "Omitted", "b": "Skipped"}, True),
    ],
)
def test_conditions(text: str, results: dict[str, str], expected: bool) -> None:
    assert holds(text, **results) is expected


def test_the_names_it_speaks_of() -> None:
    depends = parse_depends("b.Failed || (a && b) || c-1.AllFailed")
    assert (set(depends.tasks), depends.items) == ({"a", "b", "c-1"}, {"c-1"})


@pytest.mark.parametrize("text", ["a &&", "a b", "a.", "(a", "a.Succeded", "&& a", "a & b"])
def test_a_mistake_is_shown(text: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_depends(text)
    assert text in str(caught.value)
    assert "^" in str(caught.value)


def test_an_unknown_result_is_named() -> None:
    with pytest.raises(ExpressionError, match="task result 'Succeded' for task 'a' is invalid"):
        parse_depends("a.Succeded")


conditions = st.recursive(
    st.tuples(st.sampled_from("abc"), st.sampled_from(RESULTS[:5])),
    lambda inner: st.tuples(st.sampled_from(("&&", "||")), inner, inner) | st.tuples(st.just("!"), inner),
    max_leaves=8,
)


@given(conditions, st.fixed_dictionaries({name: st.sampled_from(RESULTS[:5]) for name in "abc"}))
def test_it_agrees_with_python(condition: tuple, results: dict[str, str]) -> None:
    def text(node: tuple) -> str:
        if node[0] == "!":
            return f"!({text(node[1])})"
        if len(node) == 3:
            return f"({text(node[1])}) {node[0]} ({text(node[2])})"
        return f"{node[0]}.{node[1]}"

    def truth(node: tuple) -> bool:
        if node[0] == "!":
            return not truth(node[1])
        if len(node) == 3:
            both = truth(node[1]), truth(node[2])
            return all(both) if node[0] == "&&" else any(both)
        return results[node[0]] == node[1]

    assert holds(text(condition), **results) is truth(condition)
