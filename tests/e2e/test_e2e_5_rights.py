"""What user code and service accounts can do, and what they cannot."""

from __future__ import annotations

import json
import urllib.error
from typing import Any

import e2e_install
import pytest
from e2e_cluster import Cluster, nodes, phase, until
from e2e_story import contract, deployed
from push_harness import service

# run by the user's own command, in each kind of step: says what is wrong and fails
LOOK = """\
import os, pathlib, sys
wrong = []
if os.getuid() == 0:
    wrong.append("runs as root")
if pathlib.Path("/var/run/secrets/kubernetes.io").exists():
    wrong.append("has a service account token")
secrets = [k for k in os.environ if any(w in k for w in ("TOKEN", "CREDENTIALS", "PASSWORD", "SECRET"))]
if secrets:
    wrong.append(f"environment has {secrets}")
mounts = [l.split()[1] for l in open("/proc/mounts")]
odd = [m for m in mounts if m.startswith("/var/run/") and not m.startswith("/var/run/argo")]
if odd:
    wrong.append(f"mounts {odd}")
for place in ("/", "/app", "/usr/local"):
    try:
        pathlib.Path(place, "written").write_text("")
        wrong.append(f"can write to {place}")
    except OSError:
        pass
if "NoNewPrivs:\\t1" not in open("/proc/self/status").read():
    wrong.append("may gain privileges")
caps = next(l.split()[1] for l in open("/proc/self/status") if l.startswith("CapEff"))
if int(caps, 16):
    wrong.append(f"has capabilities {caps}")
print("; ".join(wrong) or "confined")
sys.exit(bool(wrong))
"""
CONTRACT_LOOKS = (
    contract("pears")
    .replace("name: pears, command: cp", "name: pears, command: python look.py && cp")
    .replace("{command: cp train.npz", "{command: python look.py && cp train.npz")
    .replace("{command: cp model.onnx", "{command: python look.py && cp model.onnx")
    .replace("{command: test -f model.onnx}", "{command: python look.py}")
)


def test_user_code_is_confined_in_every_step(cluster: Cluster, repos: Any):
    pears = repos("pears")
    sha = pears.commit({**service(CONTRACT_LOOKS), "look.py": LOOK}, "Look around")
    pears.push()
    runs = deployed(cluster, repos, sha)
    looked = 0
    for run, steps in ((runs[0], ("test",)), (runs[1], ("ingest", "process", "train-cpu"))):
        for step in steps:
            said = cluster.yard("logs", run["metadata"]["name"], "--step", step).stdout
            assert "confined" in said, said
            looked += 1
    assert looked == 4


@pytest.mark.parametrize("secret", ["git-write", "signing"])
def test_a_workflow_that_mounts_a_release_secret_is_refused(cluster: Cluster, secret: str):
    container = {
        "image": e2e_install.pipelines_image(cluster),
        "command": ["sh", "-c", "cat /stolen/*"],
        "volumeMounts": [{"name": "stolen", "mountPath": "/stolen"}],
    }
    spec: dict[str, Any] = {
        "entrypoint": "main",
        "templates": [{"name": "main", "container": container}],
        "volumes": [{"name": "stolen", "secret": {"secretName": secret}}],
    }
    for spec_given in (spec, {"workflowTemplateRef": {"name": "release"}, "volumes": spec["volumes"]}):
        body = {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "metadata": {"generateName": "steal-", "namespace": "mlops-release"},
            "spec": spec_given,
        }
        made = json.loads(cluster.call("apis/argoproj.io/v1alpha1/namespaces/mlops-release/workflows", body))
        name = made["metadata"]["name"]
        run = until(lambda name=name: _ended(cluster, name), f"{name} to be refused", 60)
        assert phase(run) == "Error"
        assert "reference" in run["status"]["message"] or "workflowTemplateRef" in run["status"]["message"]
        assert not [n for n in nodes(run) if n["type"] == "Pod"]
        assert not cluster.list("pods", "mlops-release", f"workflows.argoproj.io/workflow={name}")
        cluster.kubectl("-n", "mlops-release", "delete", "workflow", name)


def _ended(cluster: Cluster, name: str) -> Any:
    run = cluster.get("workflows", "mlops-release", name)
    return run if run and phase(run) == "Error" else None


BUILD, PIPELINE, RELEASE = "mlops-build:pipeline", "mlops:pipeline", "mlops-release:pipeline"
EXECUTOR, SENSOR, VERIFY = "mlops:executor", "argo-events:sensor", "mlops-release:verify"
# who, what, where, whether
RIGHTS = [
    (SENSOR, "create workflows.argoproj.io", "mlops-build", True),
    (SENSOR, "create workflows.argoproj.io", "mlops", True),
    (SENSOR, "create workflows.argoproj.io", "mlops-release", True),
    (SENSOR, "delete workflows.argoproj.io", "mlops", False),
    (SENSOR, "create workflows.argoproj.io", "argo", False),
    (SENSOR, "get secrets", "mlops-release", False),
    (SENSOR, "create pods", "mlops", False),
    (EXECUTOR, "create workflowtaskresults.argoproj.io", "mlops", True),
    (EXECUTOR, "patch workflowtaskresults.argoproj.io", "mlops", True),
    (EXECUTOR, "get secrets", "mlops", False),
    (EXECUTOR, "create workflows.argoproj.io", "mlops", False),
    (EXECUTOR, "create pods", "mlops", False),
    (EXECUTOR, "create workflowtaskresults.argoproj.io", "mlops-release", False),
    (EXECUTOR, "create workflowtaskresults.argoproj.io", "mlops-build", False),
    ("mlops-build:executor", "create workflowtaskresults.argoproj.io", "mlops-build", True),
    ("mlops-build:executor", "create workflowtaskresults.argoproj.io", "mlops", False),
    ("mlops-build:executor", "create workflows.argoproj.io", "mlops-build", False),
    ("argo-events:source", "create workflows.argoproj.io", "mlops-build", False),
    ("argo-events:bus", "get secrets", "argo-events", False),
    *(
        (who, what, where, False)
        for who in (BUILD, PIPELINE, RELEASE)
        for what, where in (
            ("get secrets", "mlops"),
            ("get secrets", "mlops-release"),
            ("create pods", "mlops"),
            ("create workflows.argoproj.io", "mlops-release"),
            ("create deployments.apps", "digits-dev"),
            ("patch applications.argoproj.io", "argocd"),
            ("get applications.argoproj.io", "argocd"),
        )
    ),
    (VERIFY, "get applications.argoproj.io", "argocd", True),
    (VERIFY, "patch applications.argoproj.io", "argocd", False),
    (VERIFY, "get secrets", "argocd", False),
    (VERIFY, "get secrets", "mlops-release", False),
    ("argo:viewer", "list workflows.argoproj.io", "mlops-release", True),
    ("argo:viewer", "create workflows.argoproj.io", "mlops", False),
    ("argo:trainer", "create workflows.argoproj.io", "mlops", True),
    ("argo:trainer", "create workflows.argoproj.io", "mlops-release", False),
    ("argo:approver", "create workflows.argoproj.io", "mlops-release", True),
    ("argo:admin", "delete workflows.argoproj.io", "mlops-release", True),
    ("argo:admin", "patch workflowtemplates.argoproj.io", "mlops", False),
    ("argo:admin", "get secrets", "mlops-release", False),
    ("argo:admin", "create pods", "mlops", False),
    ("digits-dev:default", "get secrets", "digits-dev", False),
    ("digits-dev:default", "create pods", "digits-dev", False),
]


@pytest.mark.parametrize(("who", "what", "where", "may"), RIGHTS)
def test_service_accounts_can_do_what_they_need_and_no_more(cluster: Cluster, who, what, where, may):
    namespace, name = who.split(":")
    verb, resource = what.split()
    identity = f"--as=system:serviceaccount:{namespace}:{name}"
    said = cluster.kubectl("auth", "can-i", verb, resource, "-n", where, identity, check=False).strip()
    assert said == ("yes" if may else "no")


def test_network_policies_hold_where_the_cni_enforces_them(cluster: Cluster, facts):
    """First whether this cluster enforces any policy at all; then ours."""
    deny = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": "e2e"},
        "spec": {"podSelector": {"matchLabels": {"run": "denied"}}, "policyTypes": ["Egress"]},
    }
    cluster.apply(deny)
    enforced = not reaches(cluster, "e2e", {"run": "denied"}, "githost.e2e.svc", 80)
    facts["network policies"] = "enforced" if enforced else "not enforced by this cluster's CNI"
    names = {policy["metadata"]["name"] for policy in policies(cluster, "mlops")}
    assert names == {"default-deny", "executor", "to-events", "to-git"}
    code = {"trainyard/code": "user"}
    assert reaches(cluster, "mlops", code, "storage.storage.svc", 4443)
    if enforced:
        assert not reaches(cluster, "mlops", code, "githost.e2e.svc", 80)
        assert not reaches(cluster, "mlops", code, "argo-server.argo.svc", 2746)


@pytest.mark.parametrize("namespace", ["mlops", "mlops-release", "storage", "digits-dev", "mlops-build"])
def test_a_pod_that_asks_for_more_than_its_namespace_allows_is_refused(cluster: Cluster, namespace: str):
    image = e2e_install.pipelines_image(cluster)
    root = {"name": "main", "image": image, "command": ["id"], "securityContext": {"runAsUser": 0}}
    host = {**root, "securityContext": {"privileged": True}}
    for container, refused in ((root, namespace != "mlops-build"), (host, True)):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "more", "namespace": namespace},
            "spec": {"containers": [container]},
        }
        path = f"api/v1/namespaces/{namespace}/pods?dryRun=All"
        if not refused:
            cluster.call(path, pod)
            continue
        with pytest.raises(urllib.error.HTTPError) as found:
            cluster.call(path, pod)
        assert "violates PodSecurity" in found.value.read().decode()


def policies(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    return json.loads(cluster.call(f"apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"))["items"]


def reaches(cluster: Cluster, namespace: str, labels: dict[str, str], host: str, port: int) -> bool:
    """Whether a pod with these labels gets a connection."""
    code = f"import socket; socket.create_connection(({host!r}, {port}), 10)"
    image = e2e_install.pipelines_image(cluster)
    good, _ = cluster.run(namespace, f"reach-{host.split('.')[0]}", image, ["python", "-c", code], labels=labels)
    return good
