"""CronWorkflows: what is due, and what is started then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from workflow_world import manifest

from solo.store import Object, Store
from solo.workflows import ValidationError, operate
from solo.workflows.cron import due, run_cron

MIDNIGHT = datetime(2026, 1, 2, tzinfo=UTC)
BEFORE = MIDNIGHT - timedelta(hours=12)


def test_the_latest_of_all_schedules() -> None:
    spec = {"schedules": ["*/10 * * * *", "5 0 * * *"], "startingDeadlineSeconds": 3600}
    found = due(spec, BEFORE, MIDNIGHT + timedelta(minutes=7))
    assert found == (MIDNIGHT + timedelta(minutes=5), MIDNIGHT + timedelta(minutes=10))


def test_a_time_zone() -> None:
    spec = {"schedules": ["30 9 * * *"], "timezone": "Europe/Berlin"}
    assert due(spec, BEFORE, MIDNIGHT).next == datetime(2026, 1, 2, 8, 30, tzinfo=UTC)
    assert due(spec, BEFORE, datetime(2026, 7, 1, tzinfo=UTC)).next == datetime(2026, 7, 1, 7, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("late", "deadline", "runs"), [(1, None, True), (60, None, False), (60, 120, True), (180, 120, False)]
)
def test_how_late_a_run_may_start(late: int, deadline: int | None, runs: bool) -> None:
    spec: dict[str, Any] = {"schedules": ["0 0 * * *"]} | (
        {} if deadline is None else {"startingDeadlineSeconds": deadline}
    )
    assert due(spec, BEFORE, MIDNIGHT + timedelta(seconds=late)).now == (MIDNIGHT if runs else None)


def test_a_time_that_was_dealt_with_is_not_due() -> None:
    spec = {"schedules": ["0 0 * * *"], "startingDeadlineSeconds": 60}
    assert due(spec, MIDNIGHT, MIDNIGHT + timedelta(seconds=5)).now is None


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"schedules": ["0 0 * *"]}, r"spec.schedules\[0\]: '0 0 \* \*' is not a cron schedule"),
        ({"schedules": ["0 0 31 2 *"]}, "is not a cron schedule"),
        ({"schedules": []}, "at least one schedule"),
        ({"schedules": ["0 0 * * *"], "timezone": "Mars/Olympus"}, "unknown time zone Mars/Olympus"),
    ],
)
def test_mistakes(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        due(spec, BEFORE, MIDNIGHT)


def cron(policy: str = "Allow", more: str = "") -> tuple[Store, Object]:
    store = Store()
    (obj,) = manifest(f"""
kind: CronWorkflow
metadata: {{name: nightly}}
spec:
  schedules: ["0 * * * *"]
  concurrencyPolicy: {policy}
  {more}
  workflowSpec: {{entrypoint: main, templates: [{{name: main, container: {{image: x, command: [run]}}}}]}}
""")
    return store, store.create(obj)


def runs(store: Store) -> list[str]:
    return [workflow["metadata"]["name"] for workflow in store.list("Workflow")]


def test_a_run_has_its_time_in_its_name_and_starts_once() -> None:
    store, obj = cron()
    handled, again = run_cron(store, obj, None, MIDNIGHT + timedelta(seconds=1))
    assert (handled, again) == (MIDNIGHT, MIDNIGHT + timedelta(hours=1))
    assert runs(store) == [f"nightly-{int(MIDNIGHT.timestamp())}"]
    status = store.get("CronWorkflow", "argo", "nightly")["status"]
    assert status["lastScheduledTime"] == "2026-01-02T00:00:00Z"
    assert [ref["name"] for ref in status["active"]] == runs(store)
    # killed before it could remember: the same run again, under the same name
    store.update(obj)
    run_cron(store, obj, None, MIDNIGHT + timedelta(seconds=2))
    assert len(runs(store)) == 1
    workflow = store.list("Workflow")[0]
    assert workflow["metadata"]["ownerReferences"][0]["name"] == "nightly"
    assert workflow["metadata"]["annotations"] == {"workflows.argoproj.io/scheduled-time": "2026-01-02T00:00:00Z"}


@pytest.mark.parametrize(("policy", "count"), [("Allow", 2), ("Forbid", 1), ("Replace", 2)])
def test_when_the_last_run_is_not_finished(policy: str, count: int) -> None:
    store, obj = cron(policy)
    run_cron(store, obj, None, MIDNIGHT)
    later = MIDNIGHT + timedelta(hours=1)
    handled, _ = run_cron(store, store.get("CronWorkflow", "argo", "nightly"), MIDNIGHT, later)
    assert handled == later
    assert len(runs(store)) == count
    first = store.get("Workflow", "argo", runs(store)[0])
    assert first["spec"].get("shutdown") == ("Terminate" if policy == "Replace" else None)


def test_what_runs_can_be_a_template_by_name() -> None:
    store = Store()
    template, obj = (
        store.create(made)
        for made in manifest("""
kind: WorkflowTemplate
metadata: {name: nightly}
spec:
  entrypoint: main
  templates: [{name: main, container: {image: x, command: [run]}}]
  workflowMetadata: {labels: {kind: clean}}
---
kind: CronWorkflow
metadata: {name: nightly}
spec: {schedules: ["0 * * * *"], concurrencyPolicy: Forbid, workflowSpec: {workflowTemplateRef: {name: nightly}}}
""")
    )
    run_cron(store, obj, None, MIDNIGHT)
    (workflow,) = store.list("Workflow")
    assert workflow["spec"] == {"workflowTemplateRef": {"name": "nightly"}}
    result = operate(workflow, lambda name: template if name == "nightly" else None, {}, MIDNIGHT)
    assert [pod["spec"]["containers"][0]["command"] for pod in result.create] == [["run"]]
    labels = result.workflow["metadata"]["labels"]
    assert labels["kind"] == "clean"
    assert labels["workflows.argoproj.io/cron-workflow"] == "nightly"
    # it counts as the run that is not finished yet
    run_cron(store, store.get("CronWorkflow", "argo", "nightly"), MIDNIGHT, MIDNIGHT + timedelta(hours=1))
    assert len(runs(store)) == 1


def test_a_missing_template_is_told() -> None:
    store, obj = cron()
    obj["spec"]["workflowSpec"] = {"workflowTemplateRef": {"name": "nope"}}
    run_cron(store, obj, None, MIDNIGHT)
    assert runs(store) == []
    (condition,) = store.get("CronWorkflow", "argo", "nightly")["status"]["conditions"]
    assert "workflow template nope not found" in condition["message"]


def test_a_suspended_one_starts_nothing() -> None:
    store, obj = cron(more="suspend: true")
    run_cron(store, obj, None, MIDNIGHT)
    assert runs(store) == []


def test_what_cannot_be_submitted_is_told() -> None:
    store, obj = cron()
    obj["spec"]["workflowSpec"]["entrypoint"] = "nope"
    run_cron(store, obj, None, MIDNIGHT)
    (condition,) = store.get("CronWorkflow", "argo", "nightly")["status"]["conditions"]
    assert condition["type"] == "SubmissionError"
    assert "template name 'nope' undefined" in condition["message"]
