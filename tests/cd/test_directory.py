"""Manifests are read as Kubernetes reads them, and every field knows its line."""

import json

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from solo.cd.directory import render
from solo.cd.git import SourceError

HEAD = "apiVersion: v1\nkind: X\n"

keys = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)


def read(text, file="a.yaml"):
    return [manifest.object for manifest in render({file: text.encode()})]


@given(values)
@example("a\x85b")
def test_whatever_json_can_say_is_read_the_same_from_json_and_from_yaml(value):
    obj = {"apiVersion": "v1", "kind": "X", "data": value}
    assert read(json.dumps(obj), "a.json") == [obj]
    # U+0085 ends a line in YAML 1.1: PyYAML writes it as it is, though only escaped it would come back
    plain = "\x85" not in json.dumps(obj, ensure_ascii=False)
    assert read(yaml.safe_dump(obj, allow_unicode=plain)) == [obj]


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), st.sampled_from(["a.yaml", "a.json"]))
def test_any_bytes_are_manifests_or_an_error_with_file_and_line(data, file):
    try:
        render({file: data})
    except SourceError as error:
        assert str(error).startswith(f"{file}:")  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    ("text", "value"),
    {
        "2026-11-01": "2026-11-01",
        "12:30": "12:30",
        "1e3": 1000.0,
        "-1.5E-2": -0.015,
        ".5": 0.5,
        "1.": 1.0,
        "0x1F": 31,
        "0644": 420,
        "1_000": 1000,
        "+5": 5,
        "yes": True,
        "~": None,
        "=": "=",
        "1.2.3": "1.2.3",
        "1e": "1e",
        "e5": "e5",
        "089": "089",
    }.items(),
)
def test_a_plain_scalar_means_what_it_means_to_kubernetes(text, value):
    (obj,) = read(f"{HEAD}data: {text}\n")
    assert obj["data"] == value
    assert type(obj["data"]) is type(value)


def test_documents_comments_and_empty_files():
    assert read("") == read("# nothing\n---\n---\n") == []
    assert read(f"---\n{HEAD}---\n# and\n---\n{HEAD}") == [{"apiVersion": "v1", "kind": "X"}] * 2
    assert read("# +argocd:skip-file-rendering\n{{ not yaml") == []


def test_anchors_and_merge_keys():
    (obj,) = read(f"{HEAD}base: &base {{a: 1, b: 2}}\ndata: {{<<: *base, b: 3}}\n")
    assert obj["data"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    {
        "data: !!python/name:os.system": "a.yaml:3: the tag",
        "data: !secret x": "a.yaml:3: the tag !secret",
        "data: .nan": "a.yaml:3: .nan cannot be written as JSON",
        "data: {[1]: 2}": "a.yaml:3: a key must be text",
        "data: {a: 1, a: 2}": "a.yaml:3: the key 'a' is given twice",
        "data: 'open": "a.yaml:4: found unexpected end of stream",
        "data: *nobody": "a.yaml:3: found undefined alias",
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "\n".join(
            f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ): "too many nodes",
        "data: " + "[" * 5000 + "]" * 5000: "a.yaml:1: nested too deeply",
        "data: \x00": "a.yaml:3:",
    }.items(),
)
def test_what_is_refused_and_where(text, message):
    with pytest.raises(SourceError) as error:
        read(f"{HEAD}{text}\n")
    assert message in str(error.value)


def test_each_field_has_its_line():
    (manifest,) = render(
        {"a.yaml": b"---\napiVersion: v1\nkind: X\nspec:\n  list:\n    - a: 1\n      b.c/d:\n        e: 2\n"}
    )
    assert manifest.place("spec.list[0].a") == "a.yaml:6"
    assert manifest.place("spec.list[0].b.c/d") == "a.yaml:7"
    assert manifest.place("spec.list[0].b.c/d.e") == "a.yaml:8"
    assert manifest.place("spec.missing.below[3]") == "a.yaml:4"
    assert manifest.place("nowhere") == "a.yaml:2"
