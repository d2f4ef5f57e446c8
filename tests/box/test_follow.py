""".ci/follow: what a dependency bot's change leads to is pushed to its branch, once."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = """
charts:
\tcp versions.yaml sums.txt
render:
\tcp versions.yaml rendered.yaml
lock:
\tcp pyproject.toml locked.txt
"""


def git(where, *words):
    who = ("-c", "user.name=bot", "-c", "user.email=bot@example.com")
    done = subprocess.run(["git", *who, *words], cwd=where, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A checkout of a branch of the bot, with a Makefile whose targets write what follows."""
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    git(tmp_path, "clone", "--quiet", "origin.git", "checkout")
    folder = tmp_path / "checkout"
    for name, text in (("Makefile", MAKEFILE), ("versions.yaml", "1\n"), ("pyproject.toml", "1\n")):
        (folder / name).write_text(text)
    (folder / "rendered.yaml").write_text("1\n")
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/follow", folder / ".ci/follow")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=first")
    git(folder, "checkout", "--quiet", "-b", "renovate/argo-cd-3.x")
    return folder


def follow(folder, branch="renovate/argo-cd-3.x"):
    return subprocess.run([".ci/follow", branch], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("changed", "made"), [("versions.yaml", ["rendered.yaml", "sums.txt"]), ("pyproject.toml", ["locked.txt"])]
)
def test_what_follows_is_pushed_once_by_an_author_that_the_bot_ignores(checkout, changed, made):
    (checkout / changed).write_text("2\n")
    git(checkout, "commit", "--quiet", "--all", "--message=a new pin")
    follow(checkout)
    pushed = git(checkout.parent / "origin.git", "log", "-1", "--format=%ae", "--name-only", "renovate/argo-cd-3.x")
    assert pushed.split() == ["ci@trainyard.invalid", *made]
    assert "nothing follows" in follow(checkout)


def test_no_other_branch_is_touched(checkout):
    assert "not a branch of the bot" in follow(checkout, "main")
