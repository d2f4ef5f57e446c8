"""`when`: Argo puts values into the text and asks whether it is true."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo.expressions import ExpressionError, evaluate_when


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("", True),
        ("true", True),
        ("true == true", True),
        ("heads == tails", False),
        ("heads == heads", True),
        ("abc == 'abc'", True),
        ('"false" == "true"', False),
        ("'' == ''", True),
        ("10 < 10", False),
        ("9 < 10", True),
        ("2.50 == 2.5", True),
        ("-1 < 2", True),
        ("b > a", True),
        ('"6" == 6', False),
        ("2 != 1 && 2 != 2", False),
        ("!(a == b) && true", True),
        ("1 < 2 && 2 < 3 || false && true", True),
        ("( heads == heads &&\n  heads == tails\n) || ( a == a )", True),
        ("heads =~ tai", False),
        ("hello =~ '^h.*o$' && hello !~ x", True),
        ("a in ('a', 'b')", True),
        ("intro == intro && truex == truex", True),
        ("true == false == false", True),
        ("1 + 2 * 2 == 5", True),
        ("true || 1", True),
        ("false && 1", False),
        ("été == été", True),
    ],
)
def test_what_is_true(text: str, result: bool) -> None:
    assert evaluate_when(text) is result


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("abc", "Expected boolean evaluation for 'abc'. Got abc"),
        ("a-b == a-b", "Value 'a' cannot be used with the modifier '-', it is not a number"),
        ("a < 1", "Value 'a' cannot be used with the comparator '<', it is not a number"),
        ("true && 1", "Value '1' cannot be used with the logical operator '&&', it is not a bool"),
        ("v1.2 == v1.2", "wrapping the affected expression in quotes"),
        ("a =~ '('", "is not a regular expression"),
        ("1 / 0 == 1", "division by zero"),
    ],
)
def test_an_error_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate_when(text)
    assert says in str(caught.value)


def test_what_cannot_be_evaluated_is_told_in_argos_words() -> None:
    """Recorded on Argo 4.1.4."""
    with pytest.raises(ExpressionError) as caught:
        evaluate_when("acme/digits == acme")
    problem = "Value 'acme' cannot be used with the modifier '/', it is not a number"
    assert str(caught.value) == f"Failed to evaluate 'when' expresion 'acme/digits == acme': {problem}"


@pytest.mark.parametrize(("text", "column"), [("a == b)", 7), ("a $ b", 3), ("(a == a", 8), ("a ==", 5)])
def test_a_syntax_error_shows_text_and_place(text: str, column: int) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate_when(text)
    assert str(caught.value).endswith(f" | {text}\n | {' ' * (column - 1)}^")


@given(st.text())
def test_any_text_is_either_true_false_or_an_error(text: str) -> None:
    try:
        result = str(evaluate_when(text))
    except ExpressionError as error:
        result = str(error)
    assert result


@given(st.text(st.characters(exclude_characters="'\"\\", exclude_categories=("Cs",))), st.integers(0, 10**6))
def test_values_compare_as_what_they_are(word: str, number: int) -> None:
    assert evaluate_when(f"'{word}' == \"{word}\"")
    assert evaluate_when(f"{number} == {number}.0")
    assert evaluate_when(f"{number} < {number + 1}")
