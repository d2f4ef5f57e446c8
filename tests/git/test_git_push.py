"""A push to the git host, and the delivery that GitHub would send for it."""

import json
import subprocess

import pytest

from solo.git import clone_url, create_repo, path_of, repos

ZERO = "0" * 40


def test_the_first_push_of_a_branch(checkout):
    first = checkout.commit("one\n\nwith a body", a="1", b="1")
    second = checkout.commit("two", a="2", b=None, **{"ü file": "x"})
    checkout.push()
    payload = checkout.pushed()
    assert (payload["ref"], payload["before"], payload["after"]) == ("refs/heads/main", ZERO, second)
    assert (payload["created"], payload["deleted"], payload["forced"]) == (True, False, False)
    repository = payload["repository"]
    assert repository["full_name"] == "acme/digits"
    assert (repository["name"], repository["owner"]["login"], repository["default_branch"]) == (
        "digits",
        "acme",
        "main",
    )
    assert repository["clone_url"] == clone_url(checkout.home, "acme/digits")
    assert payload["pusher"] == {"name": "Ada", "email": "ada@example.com"}
    assert [(c["id"], c["message"]) for c in payload["commits"]] == [(first, "one\n\nwith a body"), (second, "two")]
    assert [(c["added"], c["removed"], c["modified"]) for c in payload["commits"]] == [
        (["a", "b"], [], []),
        (["ü file"], ["b"], ["a"]),
    ]
    assert payload["head_commit"]["id"] == second
    assert payload["head_commit"]["author"]["name"] == "Ada"


def test_the_next_push_has_the_new_commits_only(checkout):
    before = checkout.commit(a="1")
    checkout.push()
    checkout.pushed()
    after = checkout.commit(a="2")
    checkout.push()
    payload = checkout.pushed()
    assert (payload["before"], payload["after"]) == (before, after)
    assert [commit["id"] for commit in payload["commits"]] == [after]
    assert not payload["created"]


def test_a_new_branch_has_only_what_no_other_branch_has(checkout):
    checkout.commit(a="1")
    checkout.push()
    checkout.pushed()
    checkout.git("checkout", "-q", "-b", "feature/x")
    after = checkout.commit(a="2")
    checkout.push("feature/x")
    payload = checkout.pushed()
    assert payload["ref"] == "refs/heads/feature/x"
    assert [commit["id"] for commit in payload["commits"]] == [after]


def test_a_forced_push(checkout):
    checkout.commit(a="1")
    old = checkout.commit(a="2")
    checkout.push()
    checkout.pushed()
    checkout.git("reset", "-q", "--hard", "HEAD~1")
    new = checkout.commit(a="3")
    checkout.push("+main")
    payload = checkout.pushed()
    assert (payload["before"], payload["after"], payload["forced"]) == (old, new, True)
    assert [commit["id"] for commit in payload["commits"]] == [new]
    checkout.git("fetch", "-q", "origin", old)


def test_a_deleted_branch(checkout):
    sha = checkout.commit(a="1")
    checkout.push("main", "main:old")
    for path in (checkout.home / "outbox").iterdir():
        path.unlink()
    checkout.push(":old")
    payload = checkout.pushed()
    assert (payload["ref"], payload["before"], payload["after"]) == ("refs/heads/old", sha, ZERO)
    assert (payload["deleted"], payload["head_commit"], payload["commits"]) == (True, None, [])
    assert payload["pusher"]["name"] == "Ada"


@pytest.mark.parametrize("annotated", [False, True])
def test_a_tag(checkout, annotated):
    sha = checkout.commit(a="1")
    checkout.push()
    checkout.pushed()
    checkout.git("tag", *(["-a", "-m", "release"] if annotated else []), "v1")
    checkout.push("v1")
    payload = checkout.pushed()
    assert (payload["ref"], payload["created"], payload["commits"]) == ("refs/tags/v1", True, [])
    assert payload["head_commit"]["id"] == sha
    assert (payload["after"] == sha) is not annotated


def test_several_refs_are_several_deliveries_in_their_order(checkout):
    checkout.commit(a="1")
    checkout.git("tag", "v1")
    checkout.push("main", "v1", "HEAD:refs/notes/x")
    assert {delivery["payload"]["ref"] for delivery in checkout.outbox()} == {"refs/heads/main", "refs/tags/v1"}


def test_the_pusher_can_be_somebody_else_than_the_author(checkout):
    checkout.commit(a="1")
    checkout.push(GIT_PUSHER="trainyard-bot")
    assert checkout.pushed()["pusher"]["name"] == "trainyard-bot"


def test_a_push_with_many_commits_and_files_stays_small(checkout):
    for number in range(25):
        checkout.commit(f"{number} " + "x" * 30_000)
    checkout.commit("many", **{f"{number:04d}": "" for number in range(400)})
    checkout.push()
    payload = checkout.pushed()
    assert len(json.dumps(payload)) < 600_000
    assert payload["head_commit"]["message"] == "many"
    checkout.commit("few", a="1")
    checkout.push()
    assert len(checkout.pushed()["commits"]) == 1


def test_with_solo_down_a_push_is_kept_and_says_so(checkout):
    sha = checkout.commit(a="1")
    said = checkout.push()
    assert "remote: solo: not running; the push is kept" in said
    assert "remote: solo: `yard solo up` picks it up" in said
    assert [delivery["payload"]["after"] for delivery in checkout.outbox()] == [sha]


def test_a_hook_of_the_users_own_does_not_stand_in_the_way(checkout, tmp_path):
    (tmp_path / "config").write_text(f"[core]\n\thooksPath = {tmp_path}\n")
    checkout.commit(a="1")
    checkout.push(GIT_CONFIG_GLOBAL=str(tmp_path / "config"))
    assert len(checkout.outbox()) == 1


def test_an_outbox_that_cannot_be_written_does_not_fail_the_push(checkout):
    (checkout.home / "outbox").write_text("in the way")
    sha = checkout.commit(a="1")
    said = checkout.push()
    assert "its delivery could not be written" in said
    assert sha in checkout.git("ls-remote", "origin")


def test_a_repository_can_be_made_again(home):
    path = create_repo(home, "acme/digits", progress=["true"])
    assert json.loads((path / "hook.json").read_text())["progress"] == ["true"]
    assert repos(home) == ["acme/digits"]
    done = subprocess.run(["git", "-C", path, "symbolic-ref", "HEAD"], capture_output=True, text=True, check=True)
    assert done.stdout == "refs/heads/main\n"


@pytest.mark.parametrize(
    "name", ["digits", "../x/y", "acme/", "acme/..", "acme/.git", "a/b/c", "-x/y", "acme/x.git", "a b/c"]
)
def test_a_name_that_could_be_no_repository_is_refused(home, name):
    with pytest.raises(ValueError, match="is no repository name"):
        path_of(home, name)
