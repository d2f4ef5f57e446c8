"""The controllers run our configuration: steps, an artifact between them, logs that outlive the pods."""

from __future__ import annotations

import json
import urllib.error

import pytest
from e2e_cluster import END, Cluster, node, phase, until


def hello(cluster: Cluster):
    body = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"generateName": "hello-", "namespace": "mlops"},
        "spec": {"workflowTemplateRef": {"name": "hello"}},
    }
    made = json.loads(cluster.call("apis/argoproj.io/v1alpha1/namespaces/mlops/workflows", body))
    name = made["metadata"]["name"]
    return until(lambda: ended(cluster, name), f"{name} to end", 300)


def ended(cluster: Cluster, name: str):
    run = cluster.get("workflows", "mlops", name)
    return run if run and phase(run) in END else None


def test_hello_runs_and_its_log_is_there_when_its_pods_are_gone(cluster: Cluster):
    run = hello(cluster)
    assert phase(run) == "Succeeded", run["status"].get("message")
    assert node(run, "hear")["phase"] == "Succeeded"
    name = run["metadata"]["name"]
    selector = f"workflows.argoproj.io/workflow={name}"
    until(lambda: not cluster.list("pods", "mlops", selector), "the pods to go", 120)
    said = cluster.yard("logs", name).stdout
    assert "heard: hello from a step" in said


def test_a_webhook_with_a_wrong_signature_is_refused(cluster: Cluster):
    url = f"{cluster.service('argo-events', 'github-eventsource-svc', 12000)}/push"
    headers = {"X-GitHub-Event": "push", "X-GitHub-Delivery": "1", "X-Hub-Signature-256": "sha256=" + "0" * 64}
    with pytest.raises(urllib.error.HTTPError) as refused:
        cluster.call(url, {"ref": "refs/heads/main"}, headers=headers)
    assert refused.value.code == 400


def test_a_stage_without_its_token_is_refused(cluster: Cluster):
    url = f"{cluster.service('argo-events', 'stages-eventsource-svc', 12001)}/accepted"
    with pytest.raises(urllib.error.HTTPError) as refused:
        cluster.call(url, {"service": "digits"})
    assert refused.value.code in (400, 401, 403)
