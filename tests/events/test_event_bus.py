"""From an accepted push to its Workflow, exactly once."""

import copy

import pytest
from event_world import GITHUB, SENSOR, SHA, STAGES, World, push, signed

from solo.events import history, simulate
from solo.store import AlreadyExistsError

NAME = "ci-acme-digits-0123456789ab"


def test_a_push_starts_its_workflow(world):
    world.push(delivery="d-7")
    world.hand_out()
    (workflow,) = world.workflows()
    meta = workflow["metadata"]
    assert (meta["namespace"], meta["name"]) == ("mlops", NAME)
    assert meta["labels"] == {
        "trainyard/pipeline": "ci",
        "trainyard/sha": SHA,
        "events.argoproj.io/sensor": "ci",
        "events.argoproj.io/trigger": "ci",
    }
    assert meta["annotations"] == {"trainyard/delivery": "d-7"}
    assert workflow["spec"]["arguments"]["parameters"] == [
        {"name": "repo", "value": "acme/digits"},
        {"name": "sha", "value": SHA},
    ]
    (verdict,) = world.last()["sensors"]
    assert verdict["created"] == f"mlops/{NAME}"


def test_the_same_trigger_fires_for_a_push_that_was_missed(world):
    body, _ = signed(push(delivery="reconcile-1"))
    assert world.request("http://solo:12001/missed", body, {"Authorization": "Bearer stage-token"}) == 200
    world.hand_out()
    (workflow,) = world.workflows()
    assert workflow["metadata"]["annotations"]["trainyard/delivery"] == "reconcile-1"


@pytest.mark.parametrize(
    ("payload", "headers", "said_no"),
    [
        (push(repository={"full_name": "acme/other"}), {}, "body.repository.full_name"),
        (push(ref="refs/heads/main2"), {}, "body.ref"),
        (push(ref="refs/tags/main", created=True), {}, "body.ref"),
        (push(after="0" * 40, deleted=True), {}, "body.deleted"),
        (push(), {"X-GitHub-Event": "pull_request"}, "body.X-GitHub-Event"),
        ({"ref": "refs/heads/main"}, {}, "body.repository.full_name"),
    ],
    ids=["unknown repository", "another branch", "a tag", "a deleted branch", "no push", "half a payload"],
)
def test_what_is_no_push_to_the_branch_starts_nothing_and_the_record_says_why(world, payload, headers, said_no):
    assert world.push(payload, **headers) == 200
    world.hand_out()
    assert world.workflows() == []
    assert any(asked.startswith(said_no) for asked in world.why_not())


def test_a_forced_push_is_a_push(world):
    world.push(push(forced=True, before="e" * 40))
    world.hand_out()
    assert [workflow["metadata"]["name"] for workflow in world.workflows()] == [NAME]


def test_the_same_delivery_again_is_recorded_as_a_duplicate(world):
    assert (world.push(), world.push()) == (200, 200)
    world.hand_out()
    assert len(world.workflows()) == 1
    second, first = (entry["sensors"][0] for entry in history(world.store))
    assert first["created"] == f"mlops/{NAME}"
    assert second["duplicate"]
    assert "AlreadyExists" in second["error"]


def test_one_delivery_twenty_times_at_once_starts_one_workflow(world):
    answers = world.requests([("http://solo:12000/push", *signed(push()))] * 20)
    world.hand_out()
    assert answers == [200] * 20
    assert len(world.workflows()) == 1
    assert sum("created" in entry["sensors"][0] for entry in history(world.store)) == 1


def test_a_crash_between_accepting_and_starting_loses_nothing(tmp_path):
    before = World(tmp_path / "solo.db")
    assert before.push() == 200
    before.store.close()
    after = World(tmp_path / "solo.db")
    after.hand_out()
    assert [workflow["metadata"]["name"] for workflow in after.workflows()] == [NAME]


@pytest.mark.parametrize("when", ["while creating", "after creating", "before the event is done"])
def test_a_crash_while_starting_starts_it_once(tmp_path, when):
    world = World(tmp_path / "solo.db")
    sensor = copy.deepcopy(SENSOR)
    sensor["metadata"]["name"] = "second"
    del sensor["spec"]["triggers"][0]["template"]["k8s"]["parameters"][0]
    del sensor["spec"]["triggers"][0]["template"]["k8s"]["parameters"][3]
    sensor["spec"]["triggers"][0]["template"]["k8s"]["source"]["resource"]["metadata"]["generateName"] = "second-"
    world.store.create(sensor)
    calls = []

    def create(workflow):
        calls.append(workflow)
        if when != "before the event is done" or len(calls) == 2:
            if when != "while creating":
                world.store.create(workflow)
            raise KeyboardInterrupt
        world.store.create(workflow)

    world.create = create
    world.push()
    with pytest.raises(KeyboardInterrupt):
        world.hand_out()
    world.store.close()
    after = World(tmp_path / "solo.db")
    after.hand_out()
    names = [workflow["metadata"]["name"] for workflow in after.workflows()]
    assert len(names) == 2
    assert {name.split("-")[0] for name in names} == {"ci", "second"}
    assert all("created" in verdict for verdict in after.last()["sensors"])


@pytest.mark.parametrize(
    ("error", "recorded"),
    [
        (ValueError("WorkflowTemplate ci is not there"), "WorkflowTemplate ci is not there"),
        (AlreadyExistsError("Workflow is there"), "AlreadyExists: Workflow is there"),
        (RuntimeError("a bug"), "internal error: RuntimeError('a bug')"),
    ],
)
def test_a_workflow_that_cannot_be_created_is_recorded_and_leaves_nothing_half_done(world, error, recorded):
    def create(workflow):
        world.store.create(workflow)
        raise error

    world.create = create
    world.push()
    world.hand_out()
    assert world.workflows() == []
    assert world.last()["sensors"][0]["error"] == recorded
    assert world.last()["state"] == "done"


def test_a_parameter_that_the_event_does_not_have_fails_the_trigger(world):
    payload = push()
    del payload["after"]
    world.push(payload)
    world.hand_out()
    assert world.workflows() == []
    assert "parameters[0] (metadata.name)" in world.last()["sensors"][0]["error"]


@pytest.mark.parametrize("after", ["refs/heads/x", "UPPER", "x" * 64])
def test_what_kubernetes_would_refuse_is_refused(world, after):
    world.push(push(after=after))
    world.hand_out()
    assert world.workflows() == []
    assert "Invalid value" in world.last()["sensors"][0]["error"]


def test_a_sensor_sees_the_events_of_its_own_namespace_only(world):
    sensor = copy.deepcopy(SENSOR)
    sensor["metadata"]["namespace"] = "elsewhere"
    world.store.delete("Sensor", "argo-events", "ci")
    world.store.create(sensor)
    world.push()
    world.hand_out()
    assert world.workflows() == []


def test_the_record_is_bounded(world, monkeypatch):
    monkeypatch.setattr("solo.events.bus.KEPT", 5)
    for number in range(8):
        world.push(push(after=f"{number:040d}"), delivery=str(number))
        world.hand_out()
    assert [entry["delivery"] for entry in history(world.store)] == ["7", "6", "5", "4", "3"]
    assert history(world.store, sha="0" * 39 + "6")[0]["delivery"] == "6"
    assert history(world.store, delivery="4")[0]["sha"] == "0" * 39 + "4"


def test_simulate_says_what_the_live_bus_does(world):
    headers = {"X-GitHub-Event": "push", "X-GitHub-Delivery": "d-1"}
    (verdict,) = simulate([GITHUB, STAGES], [SENSOR], "github", "push", headers, push())
    world.push()
    world.hand_out()
    (created,) = world.workflows()
    assert verdict.workflow["spec"] == created["spec"]
    assert verdict.workflow["metadata"].items() <= created["metadata"].items()
    assert f"name: {NAME}" in verdict.text()


def test_simulate_explains_a_no_and_needs_no_store():
    (verdict,) = simulate([GITHUB], [SENSOR], "github", "push", {}, push(ref="refs/heads/dev"))
    assert not verdict.passed
    assert verdict.workflow is None
    assert "NO  body.ref (string) = '^refs/heads/main$': \"refs/heads/dev\" matches no pattern" in verdict.text()


def test_simulate_names_the_events_that_there_are():
    with pytest.raises(
        ValueError, match=r"no EventSource has an event 'git/push' \(there are: github/push, stages/push\)"
    ):
        simulate([GITHUB, STAGES], [SENSOR], "git", "push", {}, {})
