"""The Dockerfile's language: what is read, and what is refused by line."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo.builder.dockerfile import expand, pairs, parse, words
from solo.builder.errors import ImageError


def only(text: str, name: str = "RUN") -> list[str]:
    return [i.text for i in parse(f"FROM python:3.11\n{text}") if i.name == name]


def test_comments_continuations_and_blank_lines() -> None:
    source = (
        "# syntax=docker/dockerfile:1\nARG A=1\nFROM x:${A}\n\nRUN one && \\\n  # why\n\n  two\\\n three\nrun last\n"
    )
    found = parse(source)
    assert [(i.line, i.name) for i in found] == [(2, "ARG"), (3, "FROM"), (5, "RUN"), (10, "RUN")]
    assert found[2].text.split() == ["one", "&&", "two", "three"]


def test_exec_form_and_shell_form() -> None:
    found = parse('FROM x\nCMD ["python", "-m", "app"]\nENTRYPOINT [ is no list\nCOPY ["a b", "/c d/"]')
    assert [i.json for i in found] == [None, ("python", "-m", "app"), None, ("a b", "/c d/")]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("FROM x\nADD a b", "Dockerfile:2: ADD is not supported; solo cannot do it\n  → use COPY"),
        ("FROM x\n\nVOLUME /data", "Dockerfile:3: VOLUME"),
        ('FROM x\nSHELL ["bash"]', "Dockerfile:2: SHELL"),
        ("FROM x\nHEALTHCHECK CMD true", "Dockerfile:2: HEALTHCHECK"),
        ("FROM x AS a\nFROM y", "Dockerfile:2: a second FROM; solo cannot build in stages"),
        ("FROM x\nRUN <<EOF\necho\nEOF", "Dockerfile:2: solo cannot read here-documents"),
        ("FROM x\nRUN --mount=type=cache,target=/c pip install", "Dockerfile:2: solo cannot do RUN --mount"),
        ("FROM x\nCOPY --from=y a b", "Dockerfile:2: solo cannot do COPY --from"),
        ("FROM x\nRNU echo", "Dockerfile:2: 'RNU' is no Dockerfile instruction"),
        ("FROM x\nRUN", "Dockerfile:2: RUN without an argument"),
        ("RUN x\nFROM x", "Dockerfile:1: RUN before FROM"),
        ("# escape=`\nFROM x", "Dockerfile:1: solo cannot change the escape character"),
        ("# nothing", "Dockerfile: no FROM"),
    ],
)
def test_what_solo_cannot_do_is_refused_by_line(source: str, says: str) -> None:
    with pytest.raises(ImageError) as problem:
        parse(source)
    assert str(problem.value).startswith(says)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A", "1"),
        ("${A}x", "1x"),
        ("${B:-y}", "y"),
        ("${B:-$A}", "1"),
        ("${A:-y}", "1"),
        ("${A:+set}", "set"),
        ("${B:+set}", ""),
        ("$B.", "."),
        ("$", "$"),
    ],
)
def test_variables(text: str, expected: str) -> None:
    assert expand(text, {"A": "1"}) == expected


def test_words_keep_quotes_together_and_single_quotes_literal() -> None:
    values = {"A": "x y"}
    assert words(r"""a "b c" 'd $A' $A\ z \$A "$A" '' """, values, "") == ["a", "b c", "d $A", "x y z", "$A", "x y", ""]
    with pytest.raises(ImageError, match="not closed"):
        words("'a", {}, "Dockerfile:1")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), min_size=1), max_size=4))
def test_words_read_back_what_a_shell_would(texts: list[str]) -> None:
    assert words(shlex.join(texts), {}, "") == texts


def test_env_has_two_forms() -> None:
    both = parse('FROM x\nENV A=1 B="two words" C=$A\nENV OLD a b')[1:]
    assert pairs(both[0], {"A": "0"}, "") == {"A": "1", "B": "two words", "C": "0"}
    assert pairs(both[1], {}, "") == {"OLD": "a b"}
    with pytest.raises(ImageError, match="is not KEY=VALUE"):
        pairs(parse("FROM x\nENV A=1 B")[1], {}, "Dockerfile:2")


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse("FROM x\n" + text)
    except ImageError as problem:
        assert "Dockerfile" in str(problem)  # noqa: PT017
