"""Hera's own client against solo: submit, get, list, log, stop, terminate, delete; and what is refused."""

from __future__ import annotations

import json
import sqlite3
import urllib.error
import urllib.request

import pytest
from hera.workflows import DAG, Artifact, Container, Task, Workflow, WorkflowsService
from push_harness import END, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The `json` method is deprecated"),  # Hera's own
]


@pytest.fixture(scope="module")
def service(shared):
    platform, _ = shared
    return WorkflowsService(host=platform.endpoints["ARGO_URL"], verify_ssl=False, namespace="mlops")


def workflow(service, command, **more):
    with Workflow(
        generate_name="api-", entrypoint="main", namespace="mlops", workflows_service=service, **more
    ) as made:
        step = Container(name="step", image="debian", command=["bash", "-c"], args=[command])
        with DAG(name="main"):
            Task(name="only", template=step)
    return made


def ended(service, name):
    def look():
        found = service.get_workflow(name)
        return found if found.status and found.status.phase in END else None

    return until(look, f"the end of {name}", 20)


def test_a_workflow_from_hera_runs_and_its_log_can_be_read(shared, service):
    platform, _ = shared
    created = workflow(service, "echo one; echo two", labels={"who": "hera"}).create()
    name = created.metadata.name
    assert ended(service, name).status.phase == "Succeeded"
    listed = service.list_workflows(label_selector="who=hera")
    assert [item.metadata.name for item in listed.items] == [name]
    url = f"{platform.endpoints['ARGO_URL']}/api/v1/workflows/mlops/{name}/log?logOptions.container=main"
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = [json.loads(line)["result"]["content"] for line in answer.read().splitlines()]
    assert lines == ["one", "two"]
    service.delete_workflow(name)
    with pytest.raises(Exception, match="not found"):
        service.get_workflow(name)


def test_a_deleted_workflow_takes_its_artifacts_and_pods_along(shared, service):
    platform, _ = shared
    kept = {"namespace": "mlops", "workflows_service": service}
    with Workflow(generate_name="api-", entrypoint="step", **kept) as made:
        out = Artifact(name="out", path="/tmp/outputs/out")
        command = ["bash", "-c", "mkdir -p /tmp/outputs; echo x > /tmp/outputs/out"]
        Container(name="step", image="debian", command=command, outputs=[out])
    name = made.create().metadata.name
    assert ended(service, name).status.phase == "Succeeded"

    def left():
        with sqlite3.connect(f"file:{platform.home}/storage/index.db?mode=ro", uri=True) as index:
            return [row for line in index.iterdump() if (row := line) and f"{name}/" in line]

    assert left()
    service.delete_workflow(name)
    until(lambda: not left(), "its artifacts to go", 20)


def test_a_followed_log_ends_with_the_workflow(shared, service):
    platform, _ = shared
    name = workflow(service, "for i in 1 2 3; do echo $i; sleep 0.1; done").create().metadata.name
    url = f"{platform.endpoints['ARGO_URL']}/api/v1/workflows/mlops/{name}/log"
    with urllib.request.urlopen(f"{url}?logOptions.container=main&logOptions.follow=true", timeout=20) as answer:
        lines = [json.loads(line)["result"]["content"] for line in answer]
    assert lines == ["1", "2", "3"]


def test_the_watch_tells_of_each_change_until_the_end(shared, service):
    platform, _ = shared
    name = workflow(service, "true").create().metadata.name
    url = (
        f"{platform.endpoints['ARGO_URL']}/api/v1/workflow-events/mlops?listOptions.fieldSelector=metadata.name={name}"
    )
    phases = []
    with urllib.request.urlopen(url, timeout=20) as answer:
        for line in answer:
            if line.startswith(b"data: "):
                phases.append(json.loads(line[6:])["result"]["object"].get("status", {}).get("phase"))
            if phases and phases[-1] in END:
                break
    assert phases[-1] == "Succeeded"


@pytest.mark.parametrize("verb", ["stop", "terminate"])
def test_a_stopped_workflow_ends_and_its_processes_with_it(service, verb):
    import psutil

    name = workflow(service, "exec sleep 987").create().metadata.name

    def sleepers():
        return [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "987"]]

    until(sleepers, "the step to run", 20)
    from hera.workflows import models as m

    if verb == "stop":
        service.stop_workflow(name, m.WorkflowStopRequest(name=name, namespace="mlops"))
    else:
        service.terminate_workflow(name, m.WorkflowTerminateRequest(name=name, namespace="mlops"))
    assert ended(service, name).status.phase == "Failed"
    until(lambda: not sleepers(), "its process to end", 20)


def template(name, *, namespace="mlops", **spec):
    body = {"kind": "WorkflowTemplate", "metadata": {"name": name}, "spec": spec}
    return {"namespace": namespace, "template": body}


def test_a_template_can_be_made_run_and_deleted(shared, service):
    platform, _ = shared
    main = {
        "name": "main",
        "container": {"image": "debian", "command": ["test", "{{workflow.parameters.a}}", "=", "b"]},
    }
    made = template("made", arguments={"parameters": [{"name": "a"}]}, entrypoint="main", templates=[main])
    path = "/api/v1/workflow-templates/mlops"
    assert request(platform, "POST", path, made)[0] == 200
    assert request(platform, "POST", path, made)[0] == 409
    spec = {"workflowTemplateRef": {"name": "made"}}
    code, text = request(
        platform, "POST", "/api/v1/workflows/mlops", {"workflow": {"metadata": {"generateName": "m-"}, "spec": spec}}
    )
    assert (code, "spec.arguments.a.value" in text) == (400, True), text
    spec["arguments"] = {"parameters": [{"name": "a", "value": "b"}]}
    code, text = request(
        platform, "POST", "/api/v1/workflows/mlops", {"workflow": {"metadata": {"generateName": "m-"}, "spec": spec}}
    )
    assert code == 200, text
    assert ended(service, json.loads(text)["metadata"]["name"]).status.phase == "Succeeded"
    assert request(platform, "DELETE", f"{path}/made") == (200, "{}")
    assert request(platform, "GET", f"{path}/made")[0] == 404
    assert request(platform, "DELETE", f"{path}/made")[0] == 404


def request(platform, method, path, body=None, headers=None):
    data = json.dumps(body).encode() if body is not None else None
    asked = urllib.request.Request(
        platform.endpoints["ARGO_URL"] + path,
        data,
        {"Content-Type": "application/json", **(headers or {})},
        method=method,
    )
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


CONTAINER = {"name": "main", "container": {"image": "debian", "command": ["true"]}}
REFUSED = {
    "no such Workflow": ("GET", "/api/v1/workflows/mlops/nope", None, 404, "nope"),
    "no such verb": ("PUT", "/api/v1/workflows/mlops/nope/resubmit", {}, 501, "resubmit"),
    "not JSON": ("POST", "/api/v1/workflows/mlops", "x", 400, "not an object"),
    "no workflow": ("POST", "/api/v1/workflows/mlops", {}, 400, "workflow"),
    "missing template": (
        "POST",
        "/api/v1/workflows/mlops",
        {"workflow": {"metadata": {"generateName": "a-"}, "spec": {"entrypoint": "x", "templates": [CONTAINER]}}},
        400,
        "x",
    ),
    "a field that solo does not do": (
        "POST",
        "/api/v1/workflows/mlops",
        {
            "workflow": {
                "metadata": {"generateName": "a-"},
                "spec": {"entrypoint": "main", "templates": [{**CONTAINER, "daemon": True}]},
            }
        },
        400,
        "daemon",
    ),
    "no template": ("POST", "/api/v1/workflow-templates/mlops", {}, 400, "template"),
    "a template without a name": (
        "POST",
        "/api/v1/workflow-templates/mlops",
        {"template": {"spec": {"templates": [CONTAINER]}}},
        400,
        "metadata.name",
    ),
    "a template that names another that is missing": (
        "POST",
        "/api/v1/workflow-templates/mlops",
        template("t", templates=[{"name": "main", "dag": {"tasks": [{"name": "a", "template": "nope"}]}}]),
        400,
        "templates.main",
    ),
    "a template with a field that solo does not do": (
        "POST",
        "/api/v1/workflow-templates/mlops",
        template("t", templates=[{**CONTAINER, "daemon": True}]),
        400,
        "spec.templates[0].daemon",
    ),
    "no such template to submit": (
        "POST",
        "/api/v1/workflows/mlops/submit",
        {"resourceKind": "WorkflowTemplate", "resourceName": "nope", "submitOptions": {}},
        404,
        "nope",
    ),
    "an option that solo does not do": (
        "POST",
        "/api/v1/workflows/mlops/submit",
        {"resourceKind": "WorkflowTemplate", "resourceName": "ci", "submitOptions": {"dryRun": True}},
        501,
        "dryRun",
    ),
    "an unknown kind": ("GET", "/api/v1/namespaces/mlops/secrets", None, 501, "secrets"),
    "an unsupported selector": (
        "GET",
        "/api/v1/workflows/mlops?listOptions.labelSelector=a%20in%20(b)",
        None,
        501,
        "labelSelector",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_solo_cannot_do_is_said(shared, case):
    method, path, body, status, words = REFUSED[case]
    code, text = request(shared[0], method, path, body)
    assert code == status, text
    assert words in json.loads(text)["message"]


def test_a_page_that_resolves_to_loopback_is_turned_away(shared):
    code, _ = request(shared[0], "GET", "/api/v1/workflows/mlops", headers={"Host": "evil.example.com"})
    assert code == 400
