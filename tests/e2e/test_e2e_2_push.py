"""A signed push becomes a deployed model that answers, a second one builds from the cache, a worse one is refused."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from typing import Any

import e2e_install
import pytest
from e2e_cluster import Cluster, Object, node, output, phase, until
from e2e_repo import Repo
from e2e_story import ask, deployed, golden_rows, seconds, timing

GPU = "nvidia.com/gpu.present"


@pytest.fixture
def gpu_node(cluster: Cluster):
    """A node that calls itself a GPU node, for as long as it takes to place the training pod there."""
    name = cluster.list("nodes")[0]["metadata"]["name"]
    patch = [{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "1"}]
    headers = {"Content-Type": "application/json-patch+json"}
    cluster.call(f"api/v1/nodes/{name}/status", patch, "PATCH", headers)

    def label(on: bool) -> None:
        cluster.kubectl("label", "node", name, f"{GPU}=true" if on else f"{GPU}-", "--overwrite")

    label(False)  # a run that was killed may have left it
    yield label
    label(False)


def test_a_push_is_built_trained_released_and_answers(
    cluster: Cluster, repos: Any, digits: Repo, gpu_node, facts, registry
):
    digits.example("digits")
    digits.change("mlops.yaml", "gpu: 0", "gpu: 1")
    sha = digits.commit(message="Digits")
    pushed = digits.push()
    ci = cluster.ended(pipeline="ci", sha=sha)
    assert phase(ci) == "Succeeded", ci["status"].get("message")

    def training() -> Object | None:
        found = cluster.list("pods", "mlops", "trainyard/code=user")
        return next((pod for pod in found if "-train-gpu-" in pod["metadata"]["name"]), None)

    pod = until(training, "the training pod")
    waits = until(lambda: unschedulable(training() or pod), "the training pod to wait for a GPU node", 60)
    gpu_node(True)
    placed = until(lambda: (training() or pod)["spec"].get("nodeName"), "the training pod to be placed", 60)
    until(lambda: node(cluster.runs(pipeline="ct", sha=sha)[0], "train-gpu")["phase"] == "Succeeded", "training to end")
    gpu_node(False)  # serving keeps off GPU nodes, and there is but one node
    runs = deployed(cluster, repos, sha)
    facts["gpu"] = {"unschedulable": waits, "node": placed}

    commit = output(runs[2], "release", "commit")
    assert digits.status(sha, "trainyard/release") == "success"
    assert digits.statuses(sha) == {f"trainyard/{name}": "success" for name in ("ci", "ct", "release")}
    assert repos("releases").status(commit, "trainyard/verify") == "success"
    application = cluster.get("applications", "argocd", "digits-dev")
    assert application
    webhook = next(d for d in repos("releases").deliveries(commit) if "argocd" in d["url"])
    assert webhook["status"] == 200
    begun = seconds(webhook["time"], application["status"]["operationState"]["startedAt"])
    heard = cluster.kubectl("-n", "argocd", "logs", "deployment/argocd-server", "--tail=-1")
    assert "refreshing app 'digits-dev' from webhook" in heard
    assert begun < 30, f"Argo CD began {begun} s after its webhook"

    golden = golden_rows(registry, "digits")
    said = ask(cluster, "digits", golden["inputs"])
    told = next(entry["data"] for entry in said["outputs"] if entry["name"] == "label")
    assert told == golden["outputs"]["label"]
    facts["answer"] = f"digits v{said['model_version']} says {told} to its golden rows, as it should"
    print(facts["answer"])
    serving = cluster.list("pods", "digits-dev", "app.kubernetes.io/name=digits")
    assert len(serving) == 2
    facts["cold"] = timing(pushed, runs) | {"argo cd began": begun}


def unschedulable(pod: Object) -> str:
    found = [c for c in pod["status"].get("conditions", []) if c["type"] == "PodScheduled" and c["status"] == "False"]
    return str(found[0].get("message", found[0].get("reason"))) if found else ""


def test_the_image_has_an_sbom_and_the_platforms_signature(cluster: Cluster, digits: Repo, facts):
    ci = cluster.runs(pipeline="ci", sha=digits.git("rev-parse", "HEAD"))[0]
    image = output(ci, "build", "image")
    key: Any = cluster.get("secrets", "mlops-release", "signing")
    private = base64.b64decode(key["data"]["key.pem"])
    public = openssl("ec", "-pubout", given=private)
    other = openssl("ec", "-pubout", given=openssl("ecparam", "-name", "prime256v1", "-genkey").encode())

    def verify(key: str) -> tuple[bool, str]:
        """As anybody in the cluster would: the registry may be reached from there only."""
        ends = e2e_install.endpoints(cluster)
        env = {"ARGO_SERVER": "http://unused", **{name: ends[name] for name in ("REGISTRY", "REGISTRY_URL")}}
        command = ["yard", "verify-image", image, "--key", "/given/key.pub"]
        pipelines = e2e_install.pipelines_image(cluster)
        return cluster.run("e2e", "verify-image", pipelines, command, env=env, files={"key.pub": key})

    good, said = verify(public)
    assert good, said
    refused, why = verify(other)
    assert not refused
    assert "signature" in why
    components = int(re.search(r"(\d+) components", said)[1])
    assert components > 20, said
    facts["image"] = {"name": image, "components": components}


def openssl(*args: str, given: bytes = b"") -> str:
    return subprocess.run(["openssl", *args], input=given, capture_output=True, check=True).stdout.decode()


def test_a_second_build_comes_from_the_cache(cluster: Cluster, repos: Any, digits: Repo, facts):
    digits.change("mlops.yaml", "gpu: 1", "gpu: 0")
    digits.change("README.md", "# digits", "# Digits")
    sha = digits.commit(message="A word")
    pushed = digits.push()
    runs = deployed(cluster, repos, sha)
    log = cluster.yard("logs", runs[0]["metadata"]["name"], "--step", "build").stdout
    assert "Using caching version of cmd: RUN pip install" in log or "Found cached layer" in log, log[-2000:]
    facts["cached"] = timing(pushed, runs)
    cold, cached = (facts.get(name, {}).get("steps", {}).get("ci", {}).get("build(0)") for name in ("cold", "cached"))
    if cold and cached:
        facts["cache ratio"] = round(cold / cached, 1)
        print(f"build: {cold} s cold, {cached} s from the cache: {cold / cached:.1f} times as fast")


def test_a_worse_model_is_refused_and_nothing_of_it_stays_but_the_evidence(cluster, repos, digits, registry):
    before = (registry.versions("model", "digits"), repos("releases").pull(), len(registry.runs()))
    digits.change("mlops.yaml", "hidden: 64", "hidden: 1")
    sha = digits.commit(message="One hidden unit is enough")
    digits.push()
    ct = cluster.ended(pipeline="ct", sha=sha)
    assert phase(ct) == "Failed"
    decision = json.loads(output(ct, "gate", "decision"))
    assert not decision["accepted"]
    assert digits.status(sha, "trainyard/ct") == "failure"
    assert registry.versions("model", "digits") == before[0]
    assert repos("releases").pull() == before[1]
    kept = [name for name in registry.runs() if ct["metadata"]["name"] in name]
    assert len(kept) == 1
    assert json.loads(registry.run_file(kept[0], "decision.json")) == decision
    assert not cluster.runs(pipeline="release", sha=sha)
    digits.change("mlops.yaml", "hidden: 1", "hidden: 64")
    assert "refused" in cluster.yard("trace", sha).stdout
