"""`yard verify`: each part that can be broken, broken once, and what is said then.

The cluster is a dictionary of objects as the real one returned them; what `kubectl` itself does is tried by hand there.
"""

from __future__ import annotations

import copy
import json
import subprocess

import pytest
import yaml

from pipelines import platform
from pipelines.cli import health
from pipelines.cli.kubectl import Kubectl
from pipelines.errors import Exit

TRUE = [{"type": "Deployed", "status": "True"}]
FALSE = [{"type": "Deployed", "status": "False", "reason": "EventBusNotReady", "message": "EventBus is not ready"}]
SERVICE = {"project": "services", "destination": {"namespace": "digits-dev"}}
UNRELEASED = "services/digits/dev: app path does not exist"


def thing(kind, name, namespace="", spec=None, **status):
    meta = {"name": name, "namespace": namespace, "generation": 1}
    return {"kind": kind, "metadata": meta, "spec": spec or {}, "status": status}


def workload(kind, name, namespace, ready=1):
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": name}}}
    return thing(kind, name, namespace, spec, readyReplicas=ready, observedGeneration=1)


def crd(kind, group="argoproj.io"):
    spec = {"group": group, "names": {"kind": kind}}
    return thing("CustomResourceDefinition", kind, "", spec, conditions=[{"type": "Established", "status": "True"}])


def app(name, sync="Synced", state="Healthy", spec=None, **more):
    found = {"sync": {"status": sync, "revision": "0123456789abcdef"}, "health": {"status": state}} | more
    return thing("Application", name, "argocd", spec or {"project": "platform", "destination": {}}, **found)


def well():
    ready = [{"type": "Ready", "status": "True"}]
    node = thing("Node", "box", nodeInfo={"kubeletVersion": "v1.36.3+k3s1"}, conditions=ready, capacity={})
    kinds = ("Application", "AppProject", "EventBus", "EventSource", "Sensor", "WorkflowTemplate", "CronWorkflow")
    return {
        "nodes": [node],
        "namespaces": [thing("Namespace", name) for name in (*health.CONTROLLERS, *health.OTHERS, "digits-dev")],
        "customresourcedefinitions": [crd(kind) for kind in kinds],
        "deployments,statefulsets,daemonsets": [workload("Deployment", "it", name) for name in health.CONTROLLERS],
        "pods": [],
        "eventbus": [thing("EventBus", "default", "argo-events", conditions=TRUE)],
        "eventsources": [thing("EventSource", "github", "argo-events", conditions=TRUE)],
        "sensors": [thing("Sensor", "ci", "argo-events", conditions=TRUE)],
        "certificates": [thing("Certificate", "argo-tls", "argo", {"dnsNames": ["argo.x.org"]}, conditions=ready)],
        "applications": [app("root"), app("digits-dev", spec=SERVICE)],
        "secrets": "mlops/token value\n",
    }


WANTED = [
    *(
        {"apiVersion": "argoproj.io/v1alpha1", "kind": kind, "metadata": {"name": "x"}}
        for kind in ("Sensor", "EventBus")
    ),
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x", "namespace": "mlops"},
        "spec": {
            "env": [
                {"valueFrom": {"secretKeyRef": {"name": "token", "key": "value"}}},
                {"valueFrom": {"secretKeyRef": {"name": "spare", "key": "value", "optional": True}}},
            ]
        },
    },
]


class Recorded(Kubectl):
    def __init__(self, objects):
        super().__init__([])
        self.objects, self.asked, self.phases = objects, [], []

    def ask(self, *args, given=None):
        self.asked.append(args)
        out, code, err = "", 0, ""
        if args[:2] == ("get", "secrets"):
            out = self.objects["secrets"]
        elif args[0] == "get" and args[1] != "-n":
            found = self.objects.get(args[1].partition(".")[0])
            out, code = json.dumps({"items": found or []}), int(found is None)
            err = 'error: the server doesn\'t have a resource type "x"' if found is None else ""
        elif args[0] == "get":
            status = self.phases.pop(0) if len(self.phases) > 1 else self.phases[0]
            out = json.dumps({"metadata": {"name": "hello-1", "namespace": args[2]}, "status": status})
        elif args[0] == "create":
            out = "workflow.argoproj.io/hello-1\n"
        elif "logs" in args:
            out = "heard: hello from a step\n"
        return subprocess.CompletedProcess(args, code, out, err)


def look(objects, **options):
    body = {
        "apiVersion": "trainyard/v1",
        "domain": "x.org",
        "repository": "a/b",
        "releases": "a/c",
        "services": [{"repo": "a/digits", "name": "digits"}],
    }
    rows = health.look(Recorded(objects), platform.load(yaml.safe_dump(body | options)), WANTED)
    return {row.component: row for row in rows}


def test_all_is_well():
    rows = look(well())
    assert {row.state for row in rows.values()} == {"Healthy"}
    assert rows["secrets"].why == "1 named, all there"
    assert rows["node box"].why == "v1.36.3+k3s1, train+serve"


def of(kind, change):
    def apply(objects):
        change(objects[kind])

    return apply


def set_status(**status):
    return lambda found: found[-1]["status"].update(status)


@pytest.mark.parametrize(
    ("change", "component", "state", "why"),
    [
        (of("nodes", list.clear), "node box", "Missing", "no such node"),
        (
            of("nodes", lambda found: found.append({**found[0], "metadata": {"name": "new"}})),
            "node new",
            "Degraded",
            "not in",
        ),
        (
            of("nodes", set_status(conditions=[{"type": "Ready", "status": "False", "message": "no CNI"}])),
            "node box",
            "Degraded",
            "no CNI",
        ),
        (
            of("nodes", lambda found: found[0]["metadata"].update(labels={"trainyard/train": "false"})),
            "node box",
            "Degraded",
            "trainyard/train",
        ),
        (of("customresourcedefinitions", list.clear), "kinds", "Missing", "EventBus.argoproj.io, Sensor.argoproj.io"),
        (of("namespaces", lambda found: found.pop(0)), "argocd", "Missing", "no such namespace"),
        (of("deployments,statefulsets,daemonsets", list.clear), "argo", "Missing", "nothing runs there"),
        (of("eventbus", list.clear), "EventBus", "Missing", "there is none"),
        (of("eventsources", set_status(conditions=FALSE)), "EventSource", "Degraded", "github: EventBusNotReady"),
        (of("sensors", set_status(conditions=[])), "Sensor", "Degraded", "ci: its controller has not looked"),
        (
            of("certificates", set_status(conditions=[{"type": "Ready", "status": "False", "reason": "DoesNotExist"}])),
            "certificate argo-tls",
            "Degraded",
            "DoesNotExist",
        ),
        (lambda objects: objects.update(secrets=""), "secrets", "Missing", "mlops/token value: yard secrets list"),
        (lambda objects: objects.update(secrets="mlops/token other\n"), "secrets", "Missing", "mlops/token value"),
        (of("applications", list.clear), "applications", "Missing", "has none"),
        (
            # it says Healthy, and nothing of it could be built
            of("applications", set_status(sync={"status": "Unknown"}, conditions=[{"message": "no repository"}])),
            "application digits-dev",
            "Degraded",
            "Unknown, Healthy; no repository",
        ),
        (
            of("applications", set_status(sync={"status": "Unknown"}, conditions=[{"message": UNRELEASED}])),
            "application digits-dev",
            "Waiting",
            "push the service",
        ),
        (
            of("applications", set_status(health={"status": "Degraded", "message": "exceeded its deadline"})),
            "application digits-dev",
            "Degraded",
            "Synced, Degraded; exceeded its deadline",
        ),
    ],
)
def test_what_is_broken_is_told(change, component, state, why):
    objects = copy.deepcopy(well())
    change(objects)
    rows = look(objects)
    assert rows[component].state == state
    assert why in rows[component].why


def test_a_workload_that_is_not_ready_is_told_with_what_its_pod_says():
    objects = well()
    objects["deployments,statefulsets,daemonsets"][0] = workload("Deployment", "it", "argocd", ready=0)
    pod = thing("Pod", "it-1", "argocd")
    pod["metadata"]["labels"] = {"app": "it"}
    waiting = {"reason": "ImagePullBackOff", "message": "no such host"}
    pod["status"] = {"containerStatuses": [{"state": {"waiting": waiting}}]}
    objects["pods"] = [pod]
    assert look(objects)["argocd"].why == "deployment it 0 of 1: ImagePullBackOff no such host"
    pod["status"] = {
        "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: too little memory"}]
    }
    assert "too little memory" in look(objects)["argocd"].why


def test_what_waits_for_a_release_waits_and_what_is_broken_beside_it_does_not():
    objects = well()
    unreleased = app("digits-dev", "Unknown", spec=SERVICE, conditions=[{"message": UNRELEASED}])
    children = [{"kind": "Application", "name": "digits-dev"}]
    objects["applications"] = [app("root", state="Degraded", resources=children), unreleased]
    assert look(objects)["application root"].state == "Waiting"
    objects["applications"].append(app("harbor", state="Degraded"))
    children.append({"kind": "Application", "name": "harbor"})
    assert look(objects)["application root"].state == "Degraded"


def test_a_gpu_node_must_have_one():
    gpu = {"nodes": [{"name": "box", "gpu": True}]}
    objects = well()
    objects["nodes"][0]["metadata"]["labels"] = {"nvidia.com/gpu.present": "true"}
    assert "no nvidia.com/gpu" in look(objects, **gpu)["node box"].why
    objects["nodes"][0]["status"]["capacity"] = {"nvidia.com/gpu": "2"}
    assert look(objects, **gpu)["node box"].why.endswith("2 GPU")


# ---- hello

SUCCEEDED = {"phase": "Succeeded"}
FAILED = {"phase": "Failed", "nodes": {"x": {"type": "Pod", "displayName": "say", "message": "no such image"}}}


@pytest.mark.parametrize(
    ("phases", "state", "why"),
    [
        ([{}, {"phase": "Running"}, SUCCEEDED], "Healthy", "heard: hello from a step"),
        ([FAILED], "Degraded", "Failed: say: no such image"),
        ([{}], "Degraded", "does the workflow controller run?"),
    ],
)
def test_hello_runs_and_is_deleted(monkeypatch, phases, state, why):
    monkeypatch.setattr(health, "PAUSE", 0.0)
    kubectl = Recorded(well())
    kubectl.phases = phases
    template = {"kind": "WorkflowTemplate", "metadata": {"name": "hello", "namespace": "elsewhere"}}
    row = health.say_hello(kubectl, [template], patience=0.0 if phases == [{}] else 5.0)
    assert (row.state, why in row.why) == (state, True)
    assert kubectl.asked[-1] == ("-n", "elsewhere", "delete", "workflow.argoproj.io/hello-1", "--wait=false")


def test_the_exit_code_and_the_json_say_the_same(monkeypatch, capsys):
    monkeypatch.setattr(health, "look", lambda *_: [health.Row("argocd", "Degraded", "no disk")])
    assert health.verify(Recorded({}), None, hello=False, as_json=True) == Exit.UNAVAILABLE
    assert json.loads(capsys.readouterr().out) == [{"component": "argocd", "state": "Degraded", "why": "no disk"}]
    monkeypatch.setattr(health, "look", lambda *_: [health.Row("argocd", "Healthy")])
    assert health.verify(Recorded({}), None, hello=False) == Exit.OK


def test_an_add_on_that_is_off_is_not_asked_for(tmp_path):
    for name in ("applications/harbor/database.yaml", "applications/nfs/class.yaml", "argocd/applications/nfs.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"apiVersion: example.org/v1\nkind: {name.split('/')[1].title()}\n")
    assert {body["kind"] for body in health.committed(tmp_path)} == {"Applications", "Nfs"}


@pytest.mark.parametrize("said", ["services/digits/dev: app path does not exist", "failed: remote repository is empty"])
def test_a_service_before_its_first_release_waits(said):
    unreleased = app("digits-dev", spec=SERVICE)
    unreleased["status"] |= {"sync": {"status": "Unknown"}, "conditions": [{"message": said}]}
    row = health._application(unreleased)
    assert (row.state, row.well) == ("Waiting", True)
