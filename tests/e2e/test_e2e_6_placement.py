"""A second node that has the GPU gets the training pod, and never a serving pod."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from e2e_cluster import Cluster, phase, until
from e2e_repo import Repo
from e2e_story import ask, golden_rows

GPU_NODE = "gpu-1"


@pytest.fixture
def gpu_node(cluster: Cluster):
    """A Node object that looks alive (nothing runs on it), with the label and a GPU to give."""
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        # as platform.yaml's node list labels it beside a node without a GPU
        "metadata": {"name": GPU_NODE, "labels": {"nvidia.com/gpu.present": "true", "trainyard/serve": "false"}},
        "spec": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]},
    }
    cluster.apply(node)
    stop = threading.Event()

    def live() -> None:
        while not stop.is_set():
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            room = {"cpu": "8", "memory": "32Gi", "pods": "50", "nvidia.com/gpu": "1"}
            condition = {"type": "Ready", "status": "True", "reason": "Test", "lastHeartbeatTime": now}
            status = {"status": {"capacity": room, "allocatable": room, "conditions": [condition]}}
            headers = {"Content-Type": "application/merge-patch+json"}
            cluster.call(f"api/v1/nodes/{GPU_NODE}/status", status, "PATCH", headers)
            stop.wait(5)

    beat = threading.Thread(target=live, daemon=True)
    beat.start()
    # the node controller takes a new node's taint away when it is Ready
    until(
        lambda: not [t for t in taints(cluster) if t["key"].startswith("node.kubernetes.io")],
        "the node to be ready",
        60,
    )
    yield GPU_NODE
    stop.set()
    beat.join()
    cluster.kubectl("delete", "node", GPU_NODE)


def taints(cluster: Cluster) -> list[dict[str, Any]]:
    node: Any = cluster.get("nodes", "", GPU_NODE)
    return node["spec"].get("taints", [])


def test_training_goes_to_the_gpu_node_and_serving_does_not(
    cluster: Cluster, repos: Any, digits: Repo, gpu_node: str, registry, facts
):
    digits.pull()
    digits.change("mlops.yaml", "gpu: 0", "gpu: 1")
    sha = digits.commit(message="On a GPU")
    digits.push()
    assert phase(cluster.ended(pipeline="ci", sha=sha)) == "Succeeded"

    def training() -> Any:
        found = cluster.list("pods", "mlops", "trainyard/code=user")
        return next((p for p in found if "-train-gpu-" in p["metadata"]["name"] and p["spec"].get("nodeName")), None)

    pod = until(training, "the training pod to be placed")
    assert pod["spec"]["nodeName"] == gpu_node
    # serving pods that have to find a new place, with the GPU node free
    old = {p["metadata"]["name"] for p in serving(cluster)}
    cluster.kubectl("-n", "digits-dev", "delete", "pod", *sorted(old))
    until(
        lambda: len([p for p in serving(cluster) if ready(p) and p["metadata"]["name"] not in old]) == 2,
        "new serving pods",
    )
    assert gpu_node not in {p["spec"]["nodeName"] for p in serving(cluster)}
    assert ask(cluster, "digits", golden_rows(registry, "digits")["inputs"])["outputs"]
    facts["placement"] = {"training": gpu_node, "serving": sorted({p["spec"]["nodeName"] for p in serving(cluster)})}

    run = cluster.runs(pipeline="ct", sha=sha)[0]
    patch = {"spec": {"shutdown": "Terminate"}}
    path = f"apis/argoproj.io/v1alpha1/namespaces/mlops/workflows/{run['metadata']['name']}"
    cluster.call(path, patch, "PATCH", {"Content-Type": "application/merge-patch+json"})
    cluster.kubectl("-n", "mlops", "delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    assert phase(cluster.ended(pipeline="ct", sha=sha)) == "Failed"
    digits.change("mlops.yaml", "gpu: 1", "gpu: 0")
    digits.commit(message="On a CPU again")


def serving(cluster: Cluster) -> list[dict[str, Any]]:
    return cluster.list("pods", "digits-dev", "app.kubernetes.io/name=digits")


def ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
