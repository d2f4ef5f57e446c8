"""expr-lang: what the expressions in templates come to. The values are those that expr-lang itself gives."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo.expressions import ExpressionError, evaluate, evaluate_bool, parse_expression

VARIABLES = {
    "a": {"b": "x", "n": None, "l": [1, 2]},
    "s": "str",
    "tasks": {"train-model": {"outputs": {"result": "7"}}},
}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("1 + 2 * 3", 7),
        ("7 / 2", 3.5),
        ("-7 % 2", -1),
        ("2 ** 3", 8),
        ("2 - -1", 3),
        ("'a' + \"b\"", "ab"),
        ("tasks['train-model'].outputs.result", "7"),
        ("asInt(tasks['train-model'].outputs.result) * 10", 70),
        ("a.b == 'x' ? 't' : 'f'", "t"),
        ("true ? false ? 1 : 2 : 3", 2),
        ("a.zz", None),
        ("a.zz ?? 'd'", "d"),
        ("a.n ?? a.b", "x"),
        ("(a.zz ?? 3) + 1", 4),
        ("a.n?.x", None),
        ("a.zz?.x.y", None),
        ("a?.b", "x"),
        ("a.b == 1", False),
        ("1 == 1.0", True),
        ("1 < 2 < 3", True),
        ("3 < 2 < 3", False),
        ("'a' in ['a'] && 'k' in {'k': 1} && 2 not in [1]", True),
        ("not true or true", True),
        ("!true == false", True),
        ("'abc' matches '^a' && 'abc' contains 'b' && 'abc' startsWith 'a' && 'abc' endsWith 'c'", True),
        ("[1,2,3][-1] + [1,2,3][0]", 4),
        ("[1,2,3][1:][0]", 2),
        ("'abc'[1:]", "bc"),
        ("{a: 1, 'b': [2]}.b[0]", 2),
        ("filter([1,2,3], # > 1)", [2, 3]),
        ("map([1,2], {# * 2})", [2, 4]),
        ("map([{'v': 1}], .v)", [1]),
        ("any([1,2], # == 2) && all([1,2], {# > 0}) && none([], # == 1)", True),
        ("count([1,2,3], # > 1)", 2),
        ("len('äb') + len([1])", 3),
        ("int('3') + int(3.9)", 6),
        ("float('1.5')", 1.5),
        ("string(1000000.0)", "1e+06"),
        ("string([1, 'a'])", "[1 a]"),
        ("toJson({'b': 1.0, 'a': '<x>'})", '{"a":"\\u003cx\\u003e","b":1}'),
        ('jsonpath(\'{"e": [{"n": 1}, {"n": 2}]}\', \'$.e[*].n\')', [1, 2]),
        ('jsonpath(\'{"e": {"a b": [5, 6, 7]}}\', "$.e[\'a b\'][1:]")', [6, 7]),
        ("split('a,b', ',')[1] + join(['a', 'b'], '-') + upper('c') + trim(' d ')", "ba-bCd"),
        ("max(1, 2.5) + min([3, 1])", 3.5),
        ("round(2.5)", 3),
        ("1/* c */+1", 2),
        ('"a\\n\\u0041"', "a\nA"),
        ("`raw\\n`", "raw\\n"),
    ],
)
def test_values(text: str, result: object) -> None:
    assert evaluate(text, VARIABLES) == result


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nope", "unknown name nope"),
        ("a.n.x", "cannot fetch x from <nil>"),
        ("s.x", "cannot fetch x from string"),
        ("'a' == 1", "mismatched types string and number"),
        ("asInt('1') == '1'", "mismatched types number and string"),
        ("'a' + 1", "invalid operation: string + int"),
        ("a.zz > 1", "invalid operation: nil > int"),
        ("a.zz ? 1 : 2", "nil is not true or false"),
        ("[1][3]", "index out of range: 3"),
        ("int('3.5')", "int: '3.5' is not a whole number"),
        ("10 ?? 2 + 1", "unexpected '+'"),
        ("foo(1)", "solo does not know the function 'foo'"),
        ("sprig.date('2006')", "solo does not know the function 'sprig.date'"),
        ("jsonpath(a.b, '$.x[?(@.y)]')", "solo cannot read the path"),
        ("jsonpath('no', '$')", "is not JSON"),
        ("5 % 0", "integer divide by zero"),
        ("1 +", "the expression ends too early"),
        ("#", "'#' outside of a predicate"),
    ],
)
def test_errors_say_what_and_where(text: str, says: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate(text, VARIABLES)
    assert says in str(caught.value)
    assert f" | {text}\n | " in str(caught.value)


def test_only_true_and_false_decide() -> None:
    assert evaluate_bool("1 < 2", {})
    with pytest.raises(ExpressionError, match="true or false"):
        evaluate_bool("'true'", {})


def test_the_variables_that_it_needs() -> None:
    names = parse_expression("tasks.a.x ?? tasks['b-c'].y[len(item)]").names
    assert set(names) == {"tasks", "tasks.b-c.y", "tasks.b-c", "item"}


numbers = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from([" + ", " - ", " * "]), inner).map(lambda t: f"({''.join(t)})"),
    max_leaves=10,
)


@given(numbers)
def test_arithmetic_is_pythons(text: str) -> None:
    assert evaluate(text, {}) == eval(text)


@given(st.text(max_size=20))
def test_any_text_gives_a_value_or_an_error_with_a_message(text: str) -> None:
    message = ""
    try:
        message = str(evaluate(text, VARIABLES)) or "empty"
    except ExpressionError as error:
        message = str(error)
    assert message


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_json_goes_in_and_out(value: object) -> None:
    assert json.loads(evaluate("toJson(v)", {"v": value})) == value
