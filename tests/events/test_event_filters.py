"""Each filter's answer, as recorded from Argo Events 1.9.11, and the words that explain it."""

import pytest

from solo.events.event import Event
from solo.events.filters import judge
from solo.events.jsontext import load

NUMBER, STRING, BOOL = "number", "string", "bool"


def verdict(filters, body, **dependency):
    event = Event("argo-events", "hook", "push", "webhook", load(body) if isinstance(body, str) else {"body": body})
    return judge({"name": "d", "filters": filters, **dependency}, event)


def body(text):
    return '{"header": {"X-Stage": ["dev"]}, "body": ' + text + "}"


def data(path, type_, *value, **more):
    return {"path": path, "type": type_, "value": list(value), **more}


@pytest.mark.parametrize(
    ("spec", "value", "passed"),
    [
        # a text is a regular expression found anywhere
        (data("body.v", STRING, "main"), '"main"', True),
        (data("body.v", STRING, "main"), '"domain"', True),
        (data("body.v", STRING, "main"), '"Main"', False),
        (data("body.v", STRING, "^main$"), '"main2"', False),
        (data("body.v", STRING, "^main$"), '"main\\n"', False),
        (data("body.v", STRING, "^main$"), '"x\\nmain"', False),
        (data("body.v", STRING, "^v1.2$", "(?i)^release$"), '"RELEASE"', True),
        (data("body.v", STRING, "^v1.2$"), '"v1x2"', True),
        (data("body.v", STRING, "^5$"), "5", True),
        (data("body.v", STRING, "^1000$"), "1e3", True),
        (data("body.v", STRING, "^$"), "null", True),
        (data("body.v", STRING, r'^\{"a":1\}$'), '{"a": 1}', True),
        # != with several values passes if any of them differs
        (data("body.v", STRING, "main", "dev", comparator="!="), '"main"', True),
        (data("body.v", STRING, "main", "dev", comparator="!="), '"main-dev"', False),
        # numbers: other types count as 0
        (data("body.v", NUMBER, "5.0"), "5", True),
        (data("body.v", NUMBER, "5.0"), '"5"', True),
        (data("body.v", NUMBER, "5.0", comparator="<="), '"many"', True),
        (data("body.v", NUMBER, "5.0", comparator="<"), "null", True),
        (data("body.v", NUMBER, "5.0", comparator=">"), "5.1", True),
        (data("body.v", NUMBER, "5.0", comparator=">="), "4.9", False),
        (data("body.v", NUMBER, "5.0", comparator="!="), "5.0", False),
        (data("body.v", NUMBER, "1", "3", "0"), "{}", True),
        (data("body.v", NUMBER, "1"), "true", True),
        (data("body.v", BOOL, "false"), "false", True),
        (data("body.v", BOOL, "true"), '"TRUE"', True),
        (data("body.v", BOOL, "false"), '"no"', True),
        (data("body.v", BOOL, "true"), "2", True),
        # a template sees the value as text
        (
            data("body.v", STRING, "^main$", template='{{ .Input | trimPrefix "refs/heads/" }}'),
            '"refs/heads/main"',
            True,
        ),
        (data("body.v", STRING, "", template="{{ .Input }}"), '""', False),
    ],
)
def test_a_data_filter(spec, value, passed):
    assert verdict({"data": [spec]}, body('{"v": ' + value + "}"))[0] is passed


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("body.a.b.0.n", True),
        ("body.a.b.2.n", False),
        ("body.a.b.#", True),
        ("body.a.b.#(ok==true).n", True),
        ('body.a.b.#(n=="z").n', False),
        ("body.k\\.e", True),
        ("body.k.e", False),
        ("header.X-Stage.0", True),
        ("header.x-stage.0", False),
        ("body.a.b.0.n.deeper", False),
    ],
)
def test_a_path_that_is_absent_drops_the_event(path, there):
    text = body('{"a": {"b": [{"n": "x", "ok": false}, {"n": "y", "ok": true}]}, "k.e": 1}')
    passed, (answer,) = verdict({"data": [data(path, STRING, "")]}, text)
    assert passed is there
    assert there or "does not exist" in answer.why


@pytest.mark.parametrize(
    ("filters", "given", "passed"),
    [
        ({"dataLogicalOperator": "and"}, '{"v": "x", "n": 5}', True),
        ({}, '{"v": "x"}', False),
        ({"dataLogicalOperator": "or"}, '{"v": "x"}', True),
        ({"dataLogicalOperator": "or"}, '{"n": 5}', True),
        ({"dataLogicalOperator": "or"}, "{}", False),
    ],
)
def test_several_filters_need_all_or_one(filters, given, passed):
    specs = [data("body.v", STRING, "x"), data("body.n", NUMBER, "5")]
    assert verdict({"data": specs, **filters}, body(given))[0] is passed


def test_kinds_of_filters_need_all_or_one():
    filters = {
        "exprs": [{"expr": "v == 1", "fields": [{"name": "v", "path": "body.v"}]}],
        "data": [data("body.n", NUMBER, "1")],
        "context": {"type": "webhook"},
    }
    assert verdict(filters, body('{"v": 1, "n": 1}'))[0]
    assert not verdict(filters, body('{"v": 1, "n": 2}'))[0]
    assert not verdict({**filters, "context": {"type": "github"}}, body('{"v": 1, "n": 1}'))[0]
    assert verdict(filters, body('{"v": 2, "n": 2}'), filtersLogicalOperator="or")[0]


@pytest.mark.parametrize(
    ("expr", "given", "passed"),
    [
        ("v != true", '{"v": false}', True),
        ("v != true", '{"v": true}', False),
        ("v != true", "{}", False),
        ("v", '{"v": 1}', False),
        ("v", '{"v": true}', True),
        ("[v] in ('dev', 'prod')", '{"v": "prod"}', True),
        ("v in ('dev', 'prod')", '{"v": "stage"}', False),
        ('v =~ "start" && 1 < 2', '{"v": "restart"}', True),
        ("(v + 1) / 2 >= 6 || v == -1", '{"v": 11}', True),
        ("!(v % 2 == 1)", '{"v": 4}', True),
        ("v > 'a'", '{"v": 1}', False),
        ("v && true", '{"v": 1}', False),
        ("1 / v > 0", '{"v": 0}', False),
    ],
)
def test_an_expression(expr, given, passed):
    filters = {"exprs": [{"expr": expr, "fields": [{"name": "v", "path": "body.v"}]}]}
    answer, (one,) = verdict(filters, body(given))
    assert answer is passed
    assert one.why


@pytest.mark.parametrize(
    ("spec", "value", "trap"),
    [
        (data("body.v", STRING, "main"), '"domain"', "it matched only 'main' in it: write ^…$"),
        (data("body.v", NUMBER, "0"), '"many"', "it is no number and counts as 0"),
        (data("body.v", STRING, "a", "b", comparator="!="), '"a"', "one is enough"),
        (data("body.wrong", STRING, "a"), '"a"', "path 'body.wrong' does not exist in this event"),
        (data("body.v", BOOL, "false"), '"no"', '"no" is no bool and counts as false'),
    ],
)
def test_the_traps_are_named(spec, value, trap):
    _, (answer,) = verdict({"data": [spec]}, body('{"v": ' + value + "}"))
    assert trap in answer.why
