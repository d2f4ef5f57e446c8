"""Webhooks delivered several times, pushes that overtake each other, pods killed in the middle, a webhook that is dead:
each commit runs once, nothing is lost.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter
from typing import Any

import pytest
from e2e_cluster import Cluster, nodes, output, phase, until
from e2e_repo import Repo
from e2e_story import contract, deployed, seconds
from push_harness import service

INTERVAL = 300  # seconds between two looks of `reconcile`


@pytest.fixture(scope="module")
def plums(repos: Any) -> Repo:
    return repos("plums")


@pytest.fixture(scope="module", autouse=True)
def missed(repos: Any) -> tuple[str, float]:
    """A push whose webhook is dead, made first: reconcile has all the chapter's time to find it."""
    figs = repos("figs")
    sha = figs.commit(service(contract("figs")), "Figs")
    figs.hooks(on=False)
    try:
        return sha, figs.push()
    finally:
        figs.hooks(on=True)


def runs(cluster: Cluster, sha: str) -> Counter[str]:
    """How many runs of each pipeline this commit has that did their work (and did not end as "already done")."""
    found = [run for run in cluster.runs(sha=sha) if phase(run) != "Error"]
    return Counter(
        run["metadata"]["labels"]["trainyard/pipeline"]
        for run in found
        if not any(n["displayName"] == "claim" and _claimed(n) == "false" for n in nodes(run))
    )


def _claimed(entry: dict[str, Any]) -> str:
    parameters = entry.get("outputs", {}).get("parameters", [])
    return next((p["value"] for p in parameters if p["name"] == "claimed"), "")


def releases_of(repos: Any, sha: str) -> int:
    releases = repos("releases")
    releases.pull()
    return len(releases.git("log", "--format=%H", f"--grep=^Trainyard-Sha: {sha}$").split())


def deliver(cluster: Cluster, secret: bytes, repo: str, before: str, after: str, delivery: str) -> None:
    """The same webhook again, as a host that retries or a person who presses "Redeliver" sends it."""
    payload = {
        "ref": "refs/heads/main",
        "before": before,
        "after": after,
        "deleted": False,
        "repository": {"full_name": repo, "name": repo.split("/")[1], "owner": {"login": repo.split("/")[0]}},
    }
    body = json.dumps(payload).encode()
    headers = {
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest(),
    }
    cluster.call(f"{cluster.service('argo-events', 'github-eventsource-svc', 12000)}/push", body, headers=headers)


def webhook_secret(cluster: Cluster) -> bytes:
    import base64

    secret: Any = cluster.get("secrets", "argo-events", "github-webhook")
    return base64.b64decode(secret["data"]["secret"])


def test_the_same_webhook_five_times_runs_once(cluster: Cluster, repos: Any, plums: Repo):
    sha = plums.commit(service(contract("plums")), "Plums")
    plums.push()
    (first,) = plums.deliveries(sha) if plums.deliveries(sha) else until(lambda: plums.deliveries(sha), "the delivery")
    for _ in range(4):
        deliver(cluster, webhook_secret(cluster), "acme/plums", "0" * 40, sha, first["delivery"])
    deployed(cluster, repos, sha)
    assert runs(cluster, sha) == {"ci": 1, "ct": 1, "release": 1}
    assert releases_of(repos, sha) == 1


def test_of_two_pushes_in_a_second_both_run_once_and_the_later_serves(cluster: Cluster, repos: Any, plums: Repo):
    one = plums.commit({"note": "one"}, "One")
    plums.push()
    two = plums.commit({"note": "two"}, "Two")
    plums.push()
    for sha in (one, two):
        assert phase(cluster.ended(pipeline="release", sha=sha)) == "Succeeded"
    deployed(cluster, repos, two)
    for sha in (one, two):
        assert runs(cluster, sha) == {"ci": 1, "ct": 1, "release": 1}
        assert releases_of(repos, sha) <= 1
    outcome = output(cluster.runs(pipeline="release", sha=one)[0], "release", "outcome")
    assert outcome in ("released", "superseded")
    assert serving_sha(cluster, "plums") == two


def serving_sha(cluster: Cluster, name: str) -> str:
    record: Any = cluster.get("configmaps", f"{name}-dev", f"{name}-release")
    return record["data"]["sha"]


def test_controllers_killed_in_the_middle_lose_and_double_nothing(cluster: Cluster, repos: Any, plums: Repo, facts):
    sha = plums.commit({"note": "three"}, "Three")
    plums.push()
    killed = []

    def kill(namespace: str, selector: str) -> None:
        killed.extend(cluster.kill_pods(namespace, selector))

    # what was accepted is on the bus: the Sensor and the bus itself may die now
    until(lambda: [d for d in plums.deliveries(sha) if d["status"] == 200], "the delivery to be accepted")
    kill("argo-events", "sensor-name=ci")
    kill("argo-events", "controller=eventbus-controller")
    ci = until(lambda: cluster.runs(pipeline="ci", sha=sha), "ci to begin", 600)[0]
    until(lambda: _began(cluster, ci, "build"), "the build to begin")
    kill("argo", "app=workflow-controller")
    until(lambda: cluster.runs(pipeline="ct", sha=sha), "ct to begin", 600)
    kill("argo-events", "eventsource-name=stages")
    kill("argo-events", "sensor-name=release")
    kill("argo", "app=workflow-controller")
    until(lambda: cluster.runs(pipeline="release", sha=sha), "release to begin", 600)
    kill("argocd", "app.kubernetes.io/name=argocd-application-controller")
    kill("argocd", "app.kubernetes.io/name=argocd-repo-server")
    deployed(cluster, repos, sha)
    assert runs(cluster, sha) == {"ci": 1, "ct": 1, "release": 1}
    assert releases_of(repos, sha) == 1
    assert serving_sha(cluster, "plums") == sha
    facts["killed"] = killed


def _began(cluster: Cluster, run: dict[str, Any], step: str) -> bool:
    found = cluster.get("workflows", run["metadata"]["namespace"], run["metadata"]["name"])
    return bool(found) and any(n["displayName"] == step for n in nodes(found))


def test_what_a_dead_webhook_missed_comes_by_reconcile(cluster: Cluster, repos: Any, missed: tuple[str, float], facts):
    sha, at = missed
    run = until(lambda: cluster.runs(pipeline="ci", sha=sha), "reconcile to find the push", INTERVAL + 60)[0]
    assert run["metadata"]["annotations"]["trainyard/delivery"].startswith("reconcile-")
    deployed(cluster, repos, sha)
    assert runs(cluster, sha) == {"ci": 1, "ct": 1, "release": 1}
    found = seconds(at, run["metadata"]["creationTimestamp"])
    assert found < INTERVAL + 30
    facts["reconcile"] = {"found after": found}
