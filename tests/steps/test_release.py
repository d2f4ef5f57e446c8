"""A release is one commit, once; a later push wins, whatever order the runs end in."""

from __future__ import annotations

import subprocess

import pytest
import yaml
from step_world import git

from pipelines.errors import Exit, YardError
from pipelines.steps import _releases as repository
from pipelines.steps.release import release


def fails(code):
    return pytest.raises(YardError, check=lambda error: error.code == code)


def test_a_first_release_into_an_empty_repository(world):
    lock, commit = world.released()
    folder = "services/digits/dev"
    names = ["deployment.yaml", "pdb.yaml", "release.yaml", "service.yaml"]
    assert world.releases.files() == [f"{folder}/{name}" for name in names]
    record = world.record()
    assert (record["lock"], record["sha"], record["previous"]) == (lock, world.digits.head(), "")
    assert yaml.safe_load(world.releases.show(f"{folder}/deployment.yaml"))["spec"]["replicas"] == 2
    message = git(world.releases.bare, "log", "-1", "--format=%an%n%B", commit)
    assert message.startswith("trainyard\ndigits dev: model v1 from acme/digits@")
    assert f"Trainyard-Lock: {lock}" in message


def test_the_next_release_names_the_one_before_it(world):
    first, _ = world.released()
    second, commit = world.released()
    assert (world.record()["lock"], world.record()["previous"]) == (second, first)
    assert world.releases.head() == commit
    assert world.releases.count() == 2


def test_a_lock_that_is_out_is_not_released_again(world):
    lock, commit = world.released()
    assert world.release(lock, owner="another-run") == {"outcome": "unchanged", "commit": commit}
    assert world.releases.count() == 1


def test_a_run_that_died_after_its_push_finds_its_own_commit(world):
    lock, commit = world.released()
    assert world.release(lock) == {"outcome": "released", "commit": commit}
    assert world.releases.count() == 1


def test_a_push_whose_answer_was_lost_is_not_made_twice(world, monkeypatch):
    def lossy(*args, real=repository.git, **more):
        out = real(*args, **more)
        if "push" in args:
            raise YardError("the connection broke", code=Exit.UNAVAILABLE)
        return out

    monkeypatch.setattr(repository, "git", lossy)
    out = world.release(world.lock(world.digits.commit()))
    assert out == {"outcome": "released", "commit": world.releases.head()}
    assert world.releases.count() == 1


@pytest.mark.parametrize("before", [0, 1])
def test_another_service_that_was_faster_loses_nothing(world, monkeypatch, before):
    if before:
        world.released("iris")
    real, others = repository.push, []

    def beaten(clone):
        if not others:
            others.append(None)
            others.append(world.released("iris")[1])
        return real(clone)

    monkeypatch.setattr(repository, "push", beaten)
    lock, commit = world.released()
    assert world.releases.count() == 2 + before
    assert git(world.releases.bare, "rev-parse", f"{commit}^") == others[1]
    assert world.record()["lock"] == lock
    assert world.record("iris")["service"] == "iris"


def test_a_service_that_is_beaten_every_time_gives_up_for_now(world, monkeypatch):
    world.released()
    monkeypatch.setattr(repository, "push", lambda clone: False)
    monkeypatch.setattr(repository, "PUSH_TRIES", 2)
    with fails(Exit.UNAVAILABLE):
        world.release(world.lock(world.digits.commit()))


def test_an_older_commit_that_ends_later_does_not_come_out(world):
    older = world.lock(world.digits.commit("older"))
    newer, commit = world.released()
    assert world.release(older) == {"outcome": "superseded", "commit": ""}
    assert world.record()["lock"] == newer
    assert world.releases.head() == commit


def test_a_commit_that_was_rewritten_away_does_not_come_out(world):
    base = world.digits.commit("base")
    mine = world.lock(world.digits.commit("mine"))
    world.digits.back_to(base)
    world.released()
    assert world.release(mine)["outcome"] == "superseded"


def test_what_replaced_a_rewritten_commit_comes_out(world):
    base = world.digits.commit("base")
    world.released()
    world.digits.back_to(base)
    mine = world.lock(world.digits.commit("mine"))
    assert world.release(mine)["outcome"] == "released"
    assert world.record()["lock"] == mine


def test_an_earlier_attempt_that_ends_later_does_not_come_out(world):
    sha = world.digits.commit()
    first, second = world.lock(sha), world.lock(sha, attempt=2)
    assert world.release(second)["outcome"] == "released"
    assert world.release(first)["outcome"] == "superseded"
    assert world.release(world.lock(sha, attempt=3))["outcome"] == "released"


def test_after_the_branch_was_deleted_nothing_comes_out(world):
    world.released()
    mine = world.lock(world.digits.commit("mine"))
    world.digits.delete_branch()
    with fails(Exit.NOT_FOUND) as raised:
        world.release(mine)
    assert "no branch 'main'" in str(raised.value)
    assert world.releases.count() == 1


def test_an_environment_that_the_contract_does_not_have(world):
    with fails(Exit.INVALID) as raised:
        world.release(world.lock("2" * 40), environment="prod")
    assert "no environment 'prod'" in str(raised.value)


@pytest.mark.parametrize("change", [{"service": "iris"}, {"repo": "acme/iris"}, {"sha": "1" * 40}])
def test_a_lock_of_something_else_is_refused(world, change):
    with fails(Exit.INVALID) as raised:
        world.release(world.lock("2" * 40), **change)
    assert "parameter lock" in str(raised.value)


def test_a_lock_that_does_not_exist(world):
    with fails(Exit.NOT_FOUND):
        release(
            service="digits",
            repo="acme/digits",
            branch="main",
            sha="1" * 40,
            environment="dev",
            lock="sha256:" + "1" * 64,
            workflow="release-x",
            owner="uid",
        )


@pytest.mark.parametrize("text", ["", "data: [1", "data: {lock: x}"])
def test_a_record_that_a_person_broke_is_named(world, text):
    world.releases.push_files({"services/digits/dev/release.yaml": text})
    with fails(Exit.INVALID) as raised:
        world.release(world.lock(world.digits.commit()))
    assert "services/digits/dev/release.yaml" in str(raised.value)


def test_a_host_that_refuses_the_push_is_not_asked_ten_times(world):
    hook = world.releases.bare / "hooks/pre-receive"
    hook.parent.mkdir()
    hook.write_text(f"#!/bin/sh\necho x >> {world.releases.bare}/asked\necho protected branch >&2\nexit 1\n")
    hook.chmod(0o755)
    with fails(Exit.UNAVAILABLE) as raised:
        world.release(world.lock(world.digits.commit()))
    assert (world.releases.bare / "asked").read_text() == "x\n"
    assert "git push:" in str(raised.value)


def test_a_host_that_is_away_is_tried_again_by_the_workflow(world, monkeypatch, tmp_path):
    lock = world.lock(world.digits.commit())
    monkeypatch.setenv("GIT_URL", f"file://{tmp_path}/nowhere")
    with fails(Exit.UNAVAILABLE):
        world.release(lock)


def test_no_clone_is_left_behind(world, tmp_path):
    world.released()
    world.released()
    assert {path.name for path in tmp_path.iterdir()} == {"host"}
    subprocess.run(["git", "fsck", "--strict"], cwd=world.releases.bare, check=True, capture_output=True)
