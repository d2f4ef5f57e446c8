"""Paths, templates, patterns and JSON, against what the real libraries do."""

import contextlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo.events.grammar import LanguageError
from solo.events.jsontext import as_go_map, dump, load, plain, text
from solo.events.paths import get, put
from solo.events.patterns import compile_pattern, replace_all
from solo.events.templates import render

VALUES = st.recursive(
    st.none() | st.booleans() | st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


def escape(key):
    return re.sub(r"([.*?|#@!{}\[\]()=<>\\\"%~])", r"\\\1", key)


@given(VALUES)
def test_json_survives(value):
    assert plain(load(json.dumps(value))) == value
    assert plain(load(dump(load(json.dumps(value))))) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive_go(number):
    assert float(dump(as_go_map(load(json.dumps(number))))) == number


@pytest.mark.parametrize(
    ("raw", "as_text", "by_go"),
    [
        ("12345678901234567890", "12345678901234567890", "12345678901234567000"),
        ("1.50", "1.5", "1.5"),
        ("1e3", "1000", "1000"),
        ("1e21", "1" + "0" * 21, "1e+21"),
        ("0.0000001", "0.0000001", "1e-7"),
        ("-0", "-0", "-0"),
        ("1e400", None, None),
    ],
)
def test_a_number_as_text(raw, as_text, by_go):
    value = load(raw)
    assert dump(value) == raw
    if as_text:
        assert (text(value), dump(as_go_map(value))) == (as_text, by_go)


def test_json_text_is_compact_and_escaped_as_by_go():
    assert text(load('{ "z": "<&>", "a": [1, 2.50] }')) == '{"z":"\\u003c\\u0026\\u003e","a":[1,2.50]}'
    assert load('{"a": 1, "a": 2}')["a"] == 1
    assert load('{"a": 1, "a": 2}', last_wins=True)["a"] == 2
    assert load('"\\ud800x"').encode()


@given(st.lists(KEYS, min_size=1, max_size=4), KEYS)
def test_what_was_put_is_found_again(keys, value):
    path = ".".join(escape(key) for key in ("x", *keys))
    target = {}
    assert put(target, path, value)
    assert get(target, path) == value


@given(st.text(max_size=30), VALUES)
def test_any_path_is_answered_or_refused(path, value):
    with contextlib.suppress(LanguageError):
        get(value, path)


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("a.b", {}, {"a": {"b": "x"}}),
        ("a.1", {"a": ["p", "q"]}, {"a": ["p", "x"]}),
        ("a.-1", {"a": ["p"]}, {"a": ["p", "x"]}),
        ("a.2", {}, {"a": [None, None, "x"]}),
        ("a.b", {"a": "text"}, {"a": {"b": "x"}}),
        ("labels.app\\.kubernetes\\.io/name", {"labels": {}}, {"labels": {"app.kubernetes.io/name": "x"}}),
        (
            'p.#(name=="b").value',
            {"p": [{"name": "a"}, {"name": "b", "value": ""}]},
            {"p": [{"name": "a"}, {"name": "b", "value": "x"}]},
        ),
        ('p.#(name=="c").value', {"p": [{"name": "a", "value": ""}]}, None),
        ('p.#(name=="a").value', {"p": [{"name": "a"}]}, None),
    ],
)
def test_setting_a_path(path, before, after):
    target = json.loads(json.dumps(before))
    assert put(target, path, "x") is (after is not None)
    assert target == (after or before)


def test_a_list_takes_no_names():
    with pytest.raises(LanguageError, match="a list has no element 'b'"):
        put({"a": []}, "a.b", "x")


@pytest.mark.parametrize(
    "path", ["", "a..b", "a.*", "a|b", "@this", "a.#.b", "[a,b]", "a.#(n>1)", 'a.#(n=="x")#', "a\\"]
)
def test_paths_beyond_the_subset_are_refused(path):
    with pytest.raises(LanguageError):
        get({}, path)


GIVEN = {
    "body": {
        "after": "0123456789abcdef",
        "ref": "refs/heads/Main",
        "n": 5.0,
        "big": 1234567.0,
        "million": 1e6,
        "half": 0.5,
        "tiny": 0.00001234,
        "huge": 1e300,
        "o": {"k": "v", "n": 1.0, "z": None},
        "b": True,
        "null": None,
        "list": ["a", "b"],
        "q": '<&>"',
    },
    "header": {"X-Stage": ["dev"]},
}


@pytest.mark.parametrize(
    ("template", "result"),
    [
        ("{{ .Input.body.after | trunc 12 }}", "0123456789ab"),
        ("{{ trunc -4 .Input.body.after }}", "cdef"),
        ('{{.Input.body.ref|trimPrefix "refs/heads/"|lower}}', "main"),
        ("{{ .Input.body.ref | trimSuffix `Main` | upper }}", "REFS/HEADS/"),
        ("{{ .Input.body.n }} {{ .Input.body.big }} {{ .Input.body.million }}", "5 1.234567e+06 1e+06"),
        ("{{ .Input.body.half }} {{ .Input.body.tiny }} {{ .Input.body.huge }}", "0.5 1.234e-05 1e+300"),
        ("{{ .Input.body.o }} {{ .Input.body.list }} {{ .Input.body.b }}", "map[k:v n:1 z:<nil>] [a b] true"),
        ("{{ .Input.body.q }}", '<&>"'),
        ('{{ index .Input.header "X-Stage" 0 }}', "dev"),
        ('{{ .Input.body.nothing | default "sprig" }}', "sprig"),
        ('{{ .Input.body.null | default "sprig" }}', "sprig"),
        ('{{ default "x" .Input.body.after | substr 0 4 }}', "0123"),
        ("a-{{ .Input.body.nothing }}-{{ .Input.body.nothing.deeper }}", "a-<no value>-<no value>"),
        ('{{ printf "%s-%v-%d%%" .Input.body.after .Input.body.n 7 }}', "0123456789abcdef-5-7%"),
        ('{{ regexReplaceAll "[^a-z]+" (.Input.body.ref | lower) "-" }}', "refs-heads-main"),
        ('{{ regexReplaceAll "^refs/(\\\\w+)/.*$" .Input.body.ref "${1}" }}', "heads"),
        ('{{ .Input.body.ref | replace "/" "-" }}', "refs-heads-Main"),
        ('{{ toString .Input.body.n | printf "%s!" }}', "5!"),
        ('{{ "}}" }}text', "}}text"),
    ],
)
def test_a_template(template, result):
    assert render(template, GIVEN) == result


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ .Input.body.nothing }}", "finds no value"),
        ("{{ .Input.body.null }}", "finds no value"),
        ('{{ "" }}', "is empty"),
        ("{{ .Input.body.null.deeper }}", "a field of null"),
        ("{{ .Input.body.after.deeper }}", "asks for a field"),
        ("{{ .Input.body.nothing | trunc 3 }}", "trunc wants a text"),
        ("{{ .Input.body.n | lower }}", "lower wants a text"),
        ("{{ trunc .Input.body.n .Input.body.after }}", "trunc wants a whole number"),
        ("{{ .Input.body.after | nosuch }}", "no function 'nosuch'"),
        ("{{ .Input.body.after | trunc }}", "takes 2 values"),
        ("{{ if .Input }}x{{ end }}", "template"),
        ("{{ .Input.body.X-Event }}", "unexpected"),
        ("{{ .Input", "not closed"),
        ('{{ "x" | "y" }}', "only a function"),
        ("{{ index .Input.body.list 7 }}", "index 7"),
        ('{{ printf "%s" .Input.body.n }}', "no fitting value"),
    ],
)
def test_a_template_that_fails(template, problem):
    with pytest.raises(LanguageError, match=re.escape(problem)):
        render(template, GIVEN)


@given(st.text(max_size=40) | st.text('{}.|()"` Input', max_size=40))
def test_any_template_is_answered_or_refused(template):
    with contextlib.suppress(LanguageError):
        assert render(template, GIVEN)


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_an_escaped_text_matches_itself_and_nothing_longer(value):
    pattern = compile_pattern(f"^{re.escape(value)}$")
    assert pattern.search(value)
    assert not pattern.search(value + "\n")


@pytest.mark.parametrize(
    "pattern",
    ["([", "a**", "(?=x)", "(?!x)", r"\1", "a++", "(?P<n>a", "[b-a]", "x{2,1}", "[[:alpha:]]", r"\pL", "(?U)a", "a)"],
)
def test_patterns_that_go_lacks_or_solo_does_not_read_are_refused(pattern):
    with pytest.raises(LanguageError):
        compile_pattern(pattern)


@given(st.text(max_size=12), st.text(max_size=12))
def test_any_pattern_is_compiled_or_refused(pattern, value):
    with contextlib.suppress(LanguageError):
        compile_pattern(pattern).search(value)


def test_a_replacement_knows_groups_and_dollars():
    assert replace_all("(a)(b)?", "xa", "${1}${2}${9}$$") == "xa$"
    with pytest.raises(LanguageError, match=r"write \$\{1\}"):
        replace_all("a", "a", "$1x")
