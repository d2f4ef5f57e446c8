"""checkout takes exactly the commit that was pushed; validate says file and field."""

from __future__ import annotations

import subprocess

import pytest

from pipelines.errors import Exit, YardError
from pipelines.steps.source import checkout, validate_config


def git(cwd, *args):
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    return subprocess.run(["git", *identity, *args], cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A Git host with acme/digits and a clone to commit from."""
    bare = tmp_path / "host/acme/digits.git"
    bare.mkdir(parents=True)
    git(bare, "init", "--bare", "--quiet", "--initial-branch=main", ".")
    git(bare, "config", "uploadpack.allowAnySHA1InWant", "true")
    monkeypatch.setenv("GIT_URL", f"file://{tmp_path}/host")
    work = tmp_path / "work"
    git(tmp_path, "clone", "--quiet", str(bare), str(work))
    return work


def commit(work, text):
    (work / "a.txt").write_text(text)
    git(work, "add", ".")
    git(work, "commit", "--quiet", "-m", text)
    git(work, "push", "--quiet", "--force", "origin", "HEAD:main")
    return git(work, "rev-parse", "HEAD")


def test_an_older_commit_is_checked_out_as_it_was(host, tmp_path):
    first = commit(host, "one")
    commit(host, "two")
    checkout(repo="acme/digits", sha=first, source=tmp_path / "out")
    assert (tmp_path / "out/a.txt").read_text() == "one"
    assert not (tmp_path / "out/.git").exists()


def test_a_commit_that_was_forced_away_is_still_the_one_that_was_pushed(host, tmp_path):
    first = commit(host, "one")
    git(host, "checkout", "--quiet", "--orphan", "other")
    commit(host, "rewritten")
    checkout(repo="acme/digits", sha=first, source=tmp_path / "out")
    assert (tmp_path / "out/a.txt").read_text() == "one"


def test_a_commit_that_is_not_there_says_so(host, tmp_path):
    commit(host, "one")
    with pytest.raises(YardError) as error:
        checkout(repo="acme/digits", sha="1" * 40, source=tmp_path / "out")
    assert error.value.code == Exit.NOT_FOUND
    assert "acme/digits.git" in str(error.value)


def test_a_host_that_does_not_answer_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_URL", f"file://{tmp_path}/nowhere")
    with pytest.raises(YardError) as error:
        checkout(repo="acme/digits", sha="1" * 40, source=tmp_path / "out")
    assert error.value.code == Exit.UNAVAILABLE


@pytest.mark.parametrize("sha", ["main", "abc1234", "--upload-pack=x", ""])
def test_a_branch_name_never_passes_for_a_commit(host, tmp_path, sha):
    with pytest.raises(YardError, match="not a full commit id"):
        checkout(repo="acme/digits", sha=sha, source=tmp_path / "out")


@pytest.mark.parametrize("repo", ["../etc", "acme", "acme/digits/x", "acme/..", "-x/y z"])
def test_a_repository_name_cannot_lead_elsewhere(host, tmp_path, repo):
    with pytest.raises(YardError, match="not an owner/name"):
        checkout(repo=repo, sha="1" * 40, source=tmp_path / "out")


def test_a_missing_contract_names_the_file(tmp_path):
    with pytest.raises(YardError, match=r"mlops\.yaml"):
        validate_config(source=tmp_path, service="digits")
