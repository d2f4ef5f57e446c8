"""Container paths in commands and scripts are led into the pod's directory; nothing else in a text changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo.pods.paths import PathMap, clean, is_system, plain

MAP = PathMap({"/tmp": Path("/h/tmp"), "/tmp/outputs": Path("/h/out"), "/hello.txt": Path("/h/hello.txt")})

names = st.text("abcxyz0123_", min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/tmp", "/h/tmp"),
        ("/tmp/", "/h/tmp/"),
        ("/tmp/x y", "/h/tmp/x y"),
        ("--out=/tmp/x", "--out=/h/tmp/x"),
        ("cat </tmp/a >/tmp/outputs/b;ls '/tmp' \"/tmp\"", "cat </h/tmp/a >/h/out/b;ls '/h/tmp' \"/h/tmp\""),
        ("dir:///tmp/context", "dir:///h/tmp/context"),
        ("PATH=/tmp/bin:/tmp/outputs", "PATH=/h/tmp/bin:/h/out"),
        ("curl -d @/tmp/x", "curl -d @/h/tmp/x"),
        ("/hello.txt", "/h/hello.txt"),
    ],
)
def test_a_named_path_is_found_wherever_a_path_may_begin(text: str, expected: str) -> None:
    assert MAP.rewrite(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "/tmpfile",
        "/tmp.txt",
        "/tmp-x",
        "/var/tmp/x",
        "$HOME/tmp",
        "${X}/tmp",
        "$(pwd)/tmp",
        "../tmp",
        "./tmp",
        "~/tmp",
        "https://host/tmp/x",
        "/hello.txt-more",
        "a/tmp",
    ],
)
def test_the_tail_of_another_path_is_left_alone(text: str) -> None:
    assert MAP.rewrite(text) == text


@given(st.lists(names, min_size=1, max_size=4), st.lists(names, max_size=3))
def test_host_and_rewrite_agree(prefix: list[str], rest: list[str]) -> None:
    root = "/" + "/".join(prefix)
    path = "/".join([root, *rest])
    paths = PathMap({root: Path("/h/root")})
    assert paths.host(path) == Path(paths.rewrite(path))


@given(st.text(max_size=40).filter(lambda text: "/" not in text))
def test_a_text_without_a_path_stays(text: str) -> None:
    assert MAP.rewrite(text) == text


def test_the_longest_prefix_wins() -> None:
    assert MAP.host("/tmp/outputs/x") == Path("/h/out/x")
    assert MAP.host("/tmp/other") == Path("/h/tmp/other")
    assert MAP.host("/work") is None


def test_paths_are_cleaned_before_they_are_compared() -> None:
    assert clean("//a/./b/../c/") == "/a/c"
    assert MAP.host("/x/../tmp/outputs/") == Path("/h/out")
    with pytest.raises(ValueError, match="not an absolute path"):
        clean("a/b")


def test_the_hosts_own_directories_are_known() -> None:
    assert is_system("/usr/bin/env")
    assert is_system("/etc")
    assert not is_system("/usr/local/lib")
    assert not is_system("/usrx")


def test_a_home_with_blanks_gets_a_name_that_a_shell_can_read(tmp_path: Path) -> None:
    home = tmp_path / "My Projects"
    home.mkdir()
    name = plain(home)
    try:
        assert " " not in str(name)
        assert name.resolve() == home
        assert plain(home) == name
    finally:
        name.unlink()
    assert plain(tmp_path) == tmp_path.resolve()
