"""What was released either proves itself, or is taken back once, to what has proved itself."""

from __future__ import annotations

import copy
import json
import math

import pytest
from step_world import GOLDEN, answer, claim_at_the_end, git, status

from pipelines.errors import Exit, YardError
from pipelines.steps import verify
from pipelines.steps._step import StepFailedError

NOTHING = "0" * 40
HEAD = "e" * 40
APP = "digits-dev"


def fails(code):
    return pytest.raises(YardError, check=lambda error: error.code == code)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(verify, "POLL", 0.001)
    monkeypatch.setattr(verify, "LAG", 0.05)


def names(targets):
    return [(target["service"], target["lock"], target["removed"]) for target in targets]


def target(lock="sha256:x"):
    """What inspect says of a release that needs no repository to be judged."""
    return [{"service": "digits", "environment": "dev", "lock": lock, "sha": "", "removed": False, "back": ""}]


def wait(targets, commit, timeout="5", sync_timeout="5"):
    return verify.wait(targets=json.dumps(targets), commit=commit, timeout=timeout, sync_timeout=sync_timeout)


def smoke(targets):
    return verify.smoke(targets=json.dumps(targets))["smoke"]


def revert(targets, commit):
    """The commit that took this release back."""
    with pytest.raises(StepFailedError, check=lambda error: error.code == Exit.REVERTED) as raised:
        verify.revert(targets=json.dumps(targets), commit=commit)
    return raised.value.results["commit"]


def keep(world, lock, commit, service="digits"):
    """What is marked as serving once this release is to be kept."""
    found = {"service": service, "environment": "dev", "lock": lock, "removed": False}
    verify.keep(targets=json.dumps([found]), commit=commit)
    return world.registry.get_alias(service, "serving").lock


# --- inspect ---------------------------------------------------------------------------------------------------------


def test_a_push_names_the_services_that_it_changes(world):
    _, before = world.released()
    iris, _ = world.released("iris")
    digits, head = world.released()
    assert names(world.inspect(head, before)[0]) == [("digits", digits, False), ("iris", iris, False)]


def test_the_push_that_made_the_branch_names_everything(world):
    lock, head = world.released()
    targets, found = world.inspect(head, NOTHING)
    assert names(targets) == [("digits", lock, False)]
    assert targets[0]["back"] == ""
    assert found["reverts"] == "false"


def test_a_push_to_other_files_names_nothing(world):
    _, before = world.released()
    head = world.releases.push_files({"README.md": "x", "services/README.md": "x"})
    assert world.inspect(head, before)[0] == []
    assert wait([], head) == {"outcome": "healthy", "address": "", "targets": "[]"}


def test_a_missed_push_names_what_is_out_but_not_marked_serving(world):
    iris, before = world.released("iris")
    digits, head = world.released()
    assert keep(world, iris, before, "iris") == iris
    assert names(world.inspect(head)[0]) == [("digits", digits, False)]


def test_a_push_over_a_rewritten_branch_is_like_a_missed_one(world):
    lock, head = world.released()
    assert names(world.inspect(head, "1" * 40)[0]) == [("digits", lock, False)]


def test_a_commit_that_was_rewritten_away_is_said_to_be_gone(world):
    world.released()
    with fails(Exit.NOT_FOUND):
        world.inspect("1" * 40, NOTHING)


def test_a_removed_service_has_nothing_to_prove(world):
    _, before = world.released()
    git(world.releases.work, "rm", "-r", "--quiet", "services/digits")
    head = world.releases.push_files()
    targets, _ = world.inspect(head, before)
    assert names(targets) == [("digits", "", True)]
    assert wait(targets, head) == {"outcome": "healthy", "address": "", "targets": json.dumps(targets)}
    assert smoke(targets) == ""
    verify.keep(targets=json.dumps(targets), commit=head)
    assert world.registry.get_alias("digits", "serving") is None


def test_a_second_run_for_the_same_push_does_nothing(world):
    _, head = world.released()
    claims = [verify.inspect(before=NOTHING, commit=head, owner=owner)["claimed"] for owner in ("a", "b", "a")]
    assert claims == ["true", "false", "true"]


def test_the_end_of_a_run_asks_for_the_claim_that_its_beginning_made(world):
    _, head = world.released()
    verify.inspect(before=NOTHING, commit=head, owner="uid")
    assert claim_at_the_end(world.registry, "verify", commit=head) == "uid"


@pytest.mark.parametrize("text", ["", "data: ["])
def test_a_record_that_a_person_broke_is_named(world, text):
    head = world.releases.push_files({"services/digits/dev/release.yaml": text})
    with fails(Exit.INVALID) as raised:
        world.inspect(head, NOTHING)
    assert "services/digits/dev/release.yaml" in str(raised.value)


# --- wait ------------------------------------------------------------------------------------------------------------


def test_healthy_and_synced_to_this_commit_at_the_same_look(world, web):
    _, before = world.released()
    _, head = world.released()
    web.apps[APP] = [
        {},
        status("", "Missing", "Unknown"),
        status(before),
        status(head, "Healthy", "OutOfSync"),
        status(head, "Progressing"),
        status(head),
    ]
    targets, _ = world.inspect(head, before)
    found = wait(targets, head)
    assert found == {
        "outcome": "healthy",
        "address": f"{web.url}/digits/digits-dev",
        "targets": json.dumps(targets),
    }
    assert len(web.apps[APP]) == 1


def test_degraded_is_a_failure_at_once(web):
    web.apps[APP] = [status(HEAD, "Degraded")]
    with fails(Exit.FAILED) as raised:
        wait(target(), HEAD, timeout="60")
    assert "digits-dev is Degraded: because" in str(raised.value)


def test_what_ran_before_may_be_degraded_until_the_sync_is_done(world, web):
    _, before = world.released()
    _, head = world.released()
    web.apps[APP] = [status(before, "Degraded"), status(head, "Degraded", "OutOfSync"), status(head)]
    assert wait(world.inspect(head, before)[0], head)["outcome"] == "healthy"


def test_an_end_to_waiting(web):
    web.apps[APP] = [status(HEAD, "Progressing") | {"conditions": [{"message": "no node has room"}]}]
    with fails(Exit.FAILED) as raised:
        wait(target(), HEAD, timeout="0.05")
    assert "Synced at " in str(raised.value)
    assert "no node has room" in str(raised.value)


def test_a_rollout_has_its_time_from_the_sync_on_however_long_argo_cd_took_to_look(world, web):
    _, before = world.released()
    _, head = world.released()
    lost = status("main", sync="Unknown") | {"conditions": [{"message": "connection refused"}]}
    web.apps[APP] = [*[status(before)] * 5, *[lost] * 5, status(head, "Progressing"), status(head)]
    assert wait(world.inspect(head, before)[0], head, timeout="0.5", sync_timeout="30")["outcome"] == "healthy"


def test_an_argo_cd_that_never_syncs_is_a_failure(world, web):
    _, before = world.released()
    _, head = world.released()
    web.apps[APP] = [status(before) | {"conditions": [{"message": "connection refused"}]}]
    with fails(Exit.FAILED) as raised:
        wait(world.inspect(head, before)[0], head, timeout="60", sync_timeout="0.05")
    assert "connection refused" in str(raised.value)


def test_a_later_release_of_the_same_service_replaces_this_one(world, web):
    _, head = world.released()
    targets, _ = world.inspect(head, NOTHING)
    _, later = world.released()
    web.apps[APP] = [status(later, "Progressing")]
    assert wait(targets, head) == {"outcome": "superseded", "address": "", "targets": "[]"}


def test_of_several_services_the_one_that_a_later_release_replaced_is_left_out(world, web):
    world.released("iris")
    iris, _ = world.released("iris")
    _, head = world.released()
    targets, _ = world.inspect(head)
    _, later = world.released()
    web.apps |= {APP: [status(later)], "iris-dev": [status(later)]}
    found = wait(targets, head)
    assert found["outcome"] == "healthy"
    assert names(json.loads(found["targets"])) == [("iris", iris, False)]


def test_a_later_release_of_another_service_changes_nothing(world, web):
    _, head = world.released()
    targets, _ = world.inspect(head, NOTHING)
    _, later = world.released("iris")
    web.apps[APP] = [status(later, "Progressing"), status(later)]
    assert wait(targets, head)["outcome"] == "healthy"


def test_the_repository_is_read_once_a_revision_not_once_a_look(world, web, monkeypatch):
    _, before = world.released()
    _, head = world.released()
    targets, _ = world.inspect(head, before)
    clones = []
    real = verify.repository.releases
    monkeypatch.setattr(verify.repository, "releases", lambda: clones.append(1) or real())
    web.apps[APP] = [*[status(before)] * 20, status(head)]
    wait(targets, head)
    assert len(clones) == 1


def test_an_application_that_does_not_exist(web):
    with fails(Exit.NOT_FOUND) as raised:
        wait(target(), HEAD)
    assert "platform.yaml" in str(raised.value)


def test_kubernetes_being_away_for_a_while_says_nothing_about_the_release(web, monkeypatch):
    web.apps[APP] = [status(HEAD)]
    web.down.append("/apis")

    def until_it_gave_up(*args, real=verify.request, **more):
        try:
            return real(*args, **more)
        except YardError:
            web.down.clear()
            raise

    monkeypatch.setattr(verify, "request", until_it_gave_up)
    assert wait(target(), HEAD)["outcome"] == "healthy"
    assert not web.down


def test_kubernetes_being_away_for_good_is_unavailable(web):
    web.down.append("/apis")
    with fails(Exit.UNAVAILABLE):
        wait(target(), HEAD, sync_timeout="0.01")


def test_a_healthy_service_that_does_not_answer_is_unavailable(web):
    web.apps[APP] = [status(HEAD)]
    web.down.append("/digits")
    with fails(Exit.UNAVAILABLE):
        wait(target(), HEAD)


# --- smoke -----------------------------------------------------------------------------------------------------------


def test_the_golden_answer_within_the_tolerance(world, web):
    lock = world.lock("1" * 40)
    web.answers["digits"] = [answer(lock, probabilities=(0.75005, 0.25, 0.25, 0.74995))]
    assert "2 golden rows agree" in smoke(target(lock))
    path, body = web.asked[0]
    assert path == "/digits/digits-dev/v2/models/digits/infer"
    assert body == {"inputs": [{"name": "X", "datatype": "FP32", "shape": [2, 2], "data": [[0.0, 1.0], [1.0, 0.0]]}]}


def test_a_model_of_whole_numbers_is_asked_with_whole_numbers(world, web):
    bundle = copy.deepcopy(GOLDEN)
    bundle["inputs"][0]["datatype"] = "INT64"
    lock = world.lock("1" * 40, bundle=bundle)
    web.answers["digits"] = [answer(lock)]
    smoke(target(lock))
    values = [value for row in web.asked[0][1]["inputs"][0]["data"] for value in row]
    assert [type(value) for value in values] == [int] * 4


def test_a_pod_on_its_way_out_may_answer_for_a_moment(world, web):
    lock = world.lock("1" * 40)
    web.answers["digits"] = [answer("sha256:old"), answer("sha256:old"), answer(lock)]
    assert "agree" in smoke(target(lock))


WRONG = {
    "another lock": (lambda lock: answer("sha256:old"), "lock sha256:old answers"),
    "another label": (lambda lock: answer(lock, label=(0, 0)), "it says [0, 0], the golden answer is [0, 1]"),
    "fewer labels": (lambda lock: answer(lock, label=(0,)), "it says [0]"),
    "a probability off": (lambda lock: answer(lock, probabilities=(0.75, 0.25, 0.25, 0.752)), "off, one by 0.002"),
    "not a number first": (lambda lock: answer(lock, probabilities=(math.nan, 0.25, 0.25, 0.75)), "one by nan"),
    "not a number last": (lambda lock: answer(lock, probabilities=(0.75, 0.25, 0.25, math.nan)), "one by nan"),
    "infinite": (lambda lock: answer(lock, probabilities=(0.75, 0.25, 0.25, math.inf)), "one by inf"),
    "fewer probabilities": (lambda lock: answer(lock, probabilities=(0.75, 0.25)), "2 probabilities"),
    "nothing for a number": (lambda lock: answer(lock, probabilities=(0.75, 0.25, 0.25, None)), "not an answer"),
    "no outputs": (lambda lock: (200, {"parameters": {"lock": lock}}), "not an answer"),
    "no lock": (lambda lock: (200, {"outputs": answer(lock)[1]["outputs"]}), "not an answer"),
    "another page": (lambda lock: (200, b"<html>"), "not an answer of a model server: <html>"),
    "a list": (lambda lock: (200, []), "not an answer"),
    "a refusal": (lambda lock: (422, {"error": "no answer to these rows"}), "HTTP 422"),
    "another model": (lambda lock: (404, {"error": "no model"}), "HTTP 404"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_answer_is_a_failure(world, web, case):
    lock = world.lock("1" * 40)
    make, told = WRONG[case]
    web.answers["digits"] = [make(lock)]
    with fails(Exit.FAILED) as raised:
        smoke(target(lock))
    assert told in str(raised.value)
    assert "/v2/models/digits/infer" in str(raised.value)


# --- keep ------------------------------------------------------------------------------------------------------------


def test_a_keep_that_comes_late_does_not_mark_an_earlier_release_again(world):
    first, before = world.released()
    second, head = world.released()
    assert keep(world, second, head) == second
    assert keep(world, first, before) == second


def test_what_a_later_commit_went_back_to_is_what_serves(world):
    first, before = world.released()
    second, head = world.released()
    assert keep(world, first, before) == first
    git(world.releases.work, "checkout", "--quiet", before, "--", "services")
    back = world.releases.push_files()
    assert keep(world, second, head) == first  # late
    assert keep(world, first, back) == first
    third, last = world.released()
    assert keep(world, third, last) == third
    git(world.releases.work, "pull", "--quiet", "origin", "main")
    git(world.releases.work, "checkout", "--quiet", before, "--", "services")
    assert keep(world, first, world.releases.push_files()) == first


# --- revert ----------------------------------------------------------------------------------------------------------


def test_a_release_is_taken_back_once(world):
    first, before = world.released()
    _, head = world.released()
    targets, _ = world.inspect(head, before)
    made = revert(targets, head)
    assert made == world.releases.head()
    assert world.record()["lock"] == first
    assert revert(targets, head) == made
    assert world.releases.count() == 3


def test_taking_back_is_not_itself_taken_back(world):
    _, before = world.released()
    _, head = world.released()
    made = revert(world.inspect(head, before)[0], head)
    assert world.inspect(made, head)[1]["reverts"] == "true"


def test_a_first_release_is_taken_back_to_nothing(world):
    _, head = world.released()
    revert(world.inspect(head, NOTHING)[0], head)
    assert world.releases.files() == []
    assert names(world.inspect(world.releases.head(), head)[0]) == [("digits", "", True)]


def test_a_first_release_beside_others_is_taken_back_alone(world):
    world.released("iris")
    _, before = world.released("iris")
    _, head = world.released()
    revert(world.inspect(head, before)[0], head)
    assert {path.split("/")[1] for path in world.releases.files()} == {"iris"}


@pytest.mark.parametrize("missed", [False, True])
def test_all_services_of_a_push_are_taken_back_to_before_the_push(world, missed):
    digits, _ = world.released()
    iris, before = world.released("iris")
    world.released()
    _, head = world.released("iris")
    revert(world.inspect(head, "" if missed else before)[0], head)
    assert world.record()["lock"] == digits
    assert world.record("iris")["lock"] == iris


def test_a_release_goes_back_to_what_proved_itself_not_to_another_that_did_not(world):
    good, commit = world.released()
    assert keep(world, good, commit) == good
    _, unproven = world.released()
    _, head = world.released()
    revert(world.inspect(head, unproven)[0], head)
    assert world.record()["lock"] == good


def test_a_newer_release_is_left_alone(world):
    _, before = world.released()
    _, head = world.released()
    targets, _ = world.inspect(head, before)
    newer, last = world.released()
    assert verify.revert(targets=json.dumps(targets), commit=head) == {"commit": ""}
    assert world.record()["lock"] == newer
    assert world.releases.head() == last


def test_only_the_service_without_a_newer_release_is_taken_back(world):
    digits, _ = world.released()
    _, before = world.released("iris")
    world.released()
    _, head = world.released("iris")
    targets, _ = world.inspect(head, before)
    newer, _ = world.released("iris")
    revert(targets, head)
    assert world.record()["lock"] == digits
    assert world.record("iris")["lock"] == newer


def test_a_race_with_another_release_is_run_again(world, monkeypatch):
    first, before = world.released()
    _, head = world.released()
    targets, _ = world.inspect(head, before)
    real, others = verify.repository.push, []

    def beaten(clone):
        if not others:
            others.append(None)
            world.released("iris")
        return real(clone)

    monkeypatch.setattr(verify.repository, "push", beaten)
    assert revert(targets, head) == world.releases.head()
    assert world.record()["lock"] == first
    assert world.record("iris")


def test_with_nothing_better_to_go_back_to_the_run_is_red(world):
    good, commit = world.released()
    assert keep(world, good, commit) == good
    _, bad = world.released()
    git(world.releases.work, "checkout", "--quiet", commit, "--", "services")
    head = world.releases.push_files()
    with fails(Exit.FAILED) as raised:
        verify.revert(targets=json.dumps(world.inspect(head, bad)[0]), commit=head)
    assert "nothing to go back to" in str(raised.value)
    assert world.releases.head() == head
