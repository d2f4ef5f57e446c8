"""`yard parity`: what it submits, what it compares, and that it leaves nothing behind."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest
import yaml
from fake_argo import Fake, serve

from pipelines.cli import parity
from pipelines.errors import Exit

ROOT = Path(__file__).parents[2]
SPEC = {"entrypoint": "main", "arguments": {"parameters": [{"name": "sha", "value": "1"}]}, "templates": []}


def file(folder, name="one", spec=SPEC, *others):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump_all([{"kind": "Workflow", "metadata": {"name": name}, "spec": spec}, *others]))
    return str(path)


def status(workflow, salt="1", **changed):
    """What a controller makes of a Workflow with one step; `changed` is different in that step's node."""
    name, uid = workflow["metadata"]["name"], workflow["metadata"]["uid"]
    step = {
        "id": f"{name}-{salt}234567",
        "name": f"{name}.step",
        "displayName": "step",
        "type": "Pod",
        "phase": "Failed",
        "templateName": "work",
        "templateScope": "local/",
        "boundaryID": name,
        "nodeFlag": {"retried": True, "hooked": False},
        "progress": "0/1",
        "message": f"pod {name}-work-{salt}234567 of {uid} failed",
        "startedAt": f"2026-11-24T02:00:0{salt}Z",
        "hostNodeName": f"node-{salt}",
        "inputs": {"parameters": [{"name": "run", "value": name}]},
        "outputs": {
            "exitCode": "3",
            "parameters": [{"name": "why", "value": ""}, {"name": "unwritten", "valueFrom": {"path": "/x"}}],
            "artifacts": [{"name": "report", "gcs": {"key": f"{name}/{salt}"}}],
        },
        **changed,
    }
    root = {
        "id": name,
        "name": name,
        "displayName": name,
        "type": "DAG",
        "phase": "Failed",
        "templateName": "main",
        "children": [step["id"]],
        "outboundNodes": [step["id"]],
    }
    ended = {"progress": "0/1", "conditions": [{"type": "Completed", "status": "True"}]}
    return {"phase": "Failed", "message": "child failed", "nodes": {root["id"]: root, step["id"]: step}, **ended}


@pytest.fixture
def solo():
    """The other server; `argo` is the cluster's."""
    fake = Fake()
    with serve(fake) as url:
        fake.url = url
        yield fake


@pytest.fixture
def compare(yard, argo, solo, monkeypatch):
    monkeypatch.setattr(parity, "POLL", 0.01)
    solo.becomes = status
    argo.becomes = lambda workflow: status(workflow, "2")

    def run(*words):
        return yard("parity", *words, "--solo", solo.url)

    return run


def nothing_left(*fakes):
    return all(fake.created and not fake.workflows and not fake.templates for fake in fakes)


def test_what_is_the_same_is_equal_whatever_its_name_time_and_place(compare, argo, solo, tmp_path):
    said = compare(file(tmp_path))
    assert (said.code, said.err) == (0, "")
    (line,) = said.out.splitlines()[1:]
    assert line.split() == ["one", "Failed", "2", "23", "0", "equal"]
    assert nothing_left(argo, solo)


def test_a_workflow_is_submitted_by_reference_alone(compare, argo, solo, tmp_path):
    compare(file(tmp_path), "--namespace", "elsewhere")
    for fake in (argo, solo):
        (_, template), (_, workflow) = fake.created
        assert template["kind"] == "WorkflowTemplate"
        assert template["spec"] == SPEC
        name = template["metadata"]["name"]
        assert workflow["spec"] == {"workflowTemplateRef": {"name": name}, "arguments": SPEC["arguments"]}
        assert {made["metadata"]["namespace"] for _, made in fake.created} == {"elsewhere"}
    assert argo.created[0][1]["metadata"]["name"] != solo.created[0][1]["metadata"]["name"]


def test_the_templates_of_a_file_are_made_under_names_of_their_own(compare, argo, tmp_path):
    task = {"name": "a", "templateRef": {"name": "other", "template": "x"}}
    template = {"entrypoint": "main", "templates": [{"name": "main", "dag": {"tasks": [task]}}]}
    others = [
        {"kind": "WorkflowTemplate", "metadata": {"name": name}, "spec": spec}
        for name, spec in (("base", template), ("other", {"templates": []}))
    ]
    compare(file(tmp_path, "refers", {"workflowTemplateRef": {"name": "base"}}, *others))
    made = {made["metadata"]["name"]: made["spec"] for _, made in argo.created}
    run = argo.created[-1][1]["metadata"]["name"]
    assert set(made) == {run, f"{run}-base", f"{run}-other"}
    assert made[run] == {"workflowTemplateRef": {"name": f"{run}-base"}}
    assert made[f"{run}-base"]["templates"][0]["dag"]["tasks"][0]["templateRef"]["name"] == f"{run}-other"


@pytest.mark.parametrize(
    ("changed", "field", "values"),
    [
        ({"phase": "Error"}, "phase", ["Failed", "Error"]),
        ({"type": "Retry"}, "type", ["Pod", "Retry"]),
        ({"message": ""}, "message", ["pod <pod> of <uid> failed", "-"]),
        ({"outputs": {"exitCode": "4"}}, "outputs.exitCode", ["3", "4"]),
        ({"outputs": {"parameters": [{"name": "why", "value": "x"}]}}, "outputs.parameters.why", ["''", "'x'"]),
        ({"outputs": {}}, "outputs.artifacts.report", ["there", "-"]),
        ({"progress": "1/1"}, "progress", ["0/1", "1/1"]),
        ({"boundaryID": ""}, "boundary", ["<workflow>", "-"]),
        ({"templateScope": "namespaced/x"}, "scope", ["local/", "namespaced/x"]),
        ({"nodeFlag": {"retried": False}}, "flags", ["retried", "-"]),
        ({"inputs": {"parameters": [{"name": "run", "value": "y"}]}}, "inputs.parameters.run", ["'<workflow>'", "'y'"]),
    ],
)
def test_a_difference_is_found_and_named(compare, argo, solo, tmp_path, changed, field, values):
    argo.becomes = lambda workflow: status(workflow, "2", **changed)
    said = compare(file(tmp_path))
    assert said.code == Exit.FAILED
    first, *rest = [" ".join(line.split()) for line in said.out.splitlines()[1:]]
    assert first.endswith("DIFFERS")
    assert " ".join(["one <workflow>.step", field, *values]) in rest
    assert nothing_left(argo, solo)


def test_a_node_that_only_one_side_has_is_a_difference(compare, argo, tmp_path):
    def without(workflow):
        found = status(workflow)
        del found["nodes"][f"{workflow['metadata']['name']}-1234567"]
        return found

    argo.becomes = without
    said = compare(file(tmp_path))
    assert said.code == Exit.FAILED
    assert "one       <workflow>.step  phase                     Failed" in said.out
    assert said.out.splitlines()[1].split()[:3] == ["one", "Failed", "2"], "the nodes of both sides"


def test_a_known_difference_is_told_with_its_reason_and_does_not_count(compare, argo, tmp_path):
    kept = [{"name": "report"}, {"name": "main-logs"}]
    outputs = {"exitCode": "3", "parameters": [{"name": "why", "value": ""}], "artifacts": kept}
    argo.becomes = lambda workflow: status(workflow, outputs=outputs)
    said = compare(file(tmp_path))
    assert said.code == 0
    summary, why = said.out.split("\n\n")
    assert summary.split()[-2:] == ["1", "explained"]
    assert why.splitlines()[1].split(maxsplit=2) == ["1", "outputs.artifacts.main-logs", parity.KNOWN[0].why]


def test_a_known_difference_the_wrong_way_round_is_none():
    one, other = {("a", "outputs.artifacts.main-logs"): "there"}, {}
    assert parity.differences(other, one)[0].why
    assert parity.differences(one, other)[0].why == ""


def test_a_side_that_refuses_says_why(compare, argo, solo, tmp_path):
    solo.refuse["workflow-templates"] = (400, "spec.templates[0].daemon: solo does not support this field")
    said = compare(file(tmp_path))
    assert said.code == Exit.FAILED
    assert "spec.templates[0].daemon: solo does not support this field" in said.out
    assert said.out.splitlines()[1].endswith("DIFFERS")
    assert nothing_left(argo)
    argo.refuse["workflows"] = (500, "boom")
    said = compare(file(tmp_path))
    assert (said.code, said.out.splitlines()[1][-11:]) == (Exit.FAILED, "NEITHER RAN")
    assert "HTTP 500: boom" in said.out


def test_what_does_not_end_is_given_up_and_deleted(compare, argo, solo, tmp_path):
    argo.becomes = lambda workflow: {"phase": "Running"}
    said = compare(file(tmp_path), "--timeout", "1")
    assert said.code == Exit.FAILED
    assert "not finished after 1 s: Running" in said.out
    assert nothing_left(argo, solo)


def test_a_controller_that_has_not_heard_of_the_template_yet_is_asked_again(compare, argo, solo, tmp_path):
    def late(workflow):
        if len(argo.parity()) == 1:
            return {"phase": "Error", "message": 'workflowtemplate.argoproj.io "x" not found'}
        return status(workflow)

    argo.becomes = late
    assert compare(file(tmp_path)).code == 0
    assert len(argo.parity()) == 2
    assert nothing_left(argo, solo)


def test_ctrl_c_leaves_nothing_behind(compare, argo, solo, tmp_path):
    pressed = threading.Lock()

    def forever(workflow):
        if argo.parity() and solo.parity() and pressed.acquire(blocking=False):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return {"phase": "Running"}

    argo.becomes = solo.becomes = forever
    assert compare(file(tmp_path)).code == 130
    assert nothing_left(argo, solo)


def test_a_folder_and_markdown(compare, tmp_path):
    file(tmp_path, "a")
    file(tmp_path, "b")
    said = compare(str(tmp_path), "--markdown")
    assert said.out.splitlines() == [
        "| WORKFLOW | ENDED | NODES | EQUAL | EXPLAINED | VERDICT |",
        "| --- | --- | --- | --- | --- | --- |",
        "| a | Failed | 2 | 23 | 0 | equal |",
        "| b | Failed | 2 | 23 | 0 | equal |",
    ]


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("a: [", Exit.INVALID, "not a file of Kubernetes objects"),
        ("kind: ConfigMap\nmetadata: {name: a}", Exit.INVALID, "holds ConfigMap\n  → one Workflow in a file"),
        ("kind: Workflow\n---\nkind: Workflow", Exit.INVALID, "holds Workflow, Workflow"),
        ("just text", Exit.INVALID, "not a file of Kubernetes objects"),
    ],
)
def test_a_file_that_is_none(compare, argo, tmp_path, text, code, says):
    (tmp_path / "x.yaml").write_text(text)
    said = compare(str(tmp_path / "x.yaml"))
    assert said.code == code
    assert f"x.yaml: {says}" in said.err
    assert argo.created == []


def test_what_is_missing_is_said(yard, compare, nowhere):
    (nowhere / "empty").mkdir()
    assert compare("empty").code == Exit.USAGE, "`nowhere` names no cluster"
    said = yard("parity", "empty", "--server", "http://127.0.0.1:9")
    assert (said.code, said.err) == (Exit.NOT_FOUND, "empty: no *.yaml here\n")
    assert yard("parity", "gone.yaml", "--server", "http://127.0.0.1:9").code == Exit.NOT_FOUND


def test_the_docs_quote_the_table_that_is_used():
    assert parity.known() in (ROOT / "docs/solo.md").read_text(), "paste what parity.known() returns"


def test_the_parity_workflows_say_what_ours_say():
    """The same pod as pipelines/templates makes: or else what they prove is about something else."""
    common = ("serviceAccountName", "automountServiceAccountToken", "executor", "securityContext", "volumes", "podGC")
    (ct,) = yaml.safe_load_all((ROOT / "mlops/templates/ct.yaml").read_text())
    for case in parity.load([ROOT / "tests/e2e/parity"]):
        whole = next(one for one in (case.workflow, *case.templates) if "templates" in one["spec"])
        assert {key: whole["spec"][key] for key in common} == {key: ct["spec"][key] for key in common}, case.name
        for template in whole["spec"]["templates"]:
            if "container" in template:
                assert template["container"]["securityContext"]["readOnlyRootFilesystem"] is True
                assert template["container"]["image"] == ct["spec"]["templates"][0]["container"]["image"]
