"""What several chapters ask of a push: how it went, how long it took, what the deployed model says."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from e2e_cluster import Cluster, Object, nodes, output, phase
from push_harness import CONTRACT

# pods take a while to start on a busy cluster; the harness's steps themselves take no time
PATIENT = "5m"
USER_STEPS = ("build", "test", "ingest", "process", "train")  # what takes as long as the user's code takes


def contract(name: str) -> str:
    """mlops.yaml of a service whose steps take no time."""
    text = CONTRACT.replace("service: digits", f"service: {name}").replace("name: digits", f"name: {name}")
    text = text.replace("timeout: 30s", f"timeout: {PATIENT}, resources: {{cpu: 100m, memory: 256Mi}}")
    # four services on one small node, beside a training that wants a whole processor
    return text.replace("dev: {replicas: 2}", "dev: {replicas: 2, resources: {cpu: 20m}}")


def seconds(earlier: str | float, later: str | float) -> float:
    one, two = (t if isinstance(t, float) else datetime.fromisoformat(t).timestamp() for t in (earlier, later))
    return round(two - one, 1)


def steps(run: Object) -> dict[str, float]:
    """Seconds of each pod of a run."""
    return {
        n["displayName"]: seconds(n["startedAt"], n["finishedAt"])
        for n in nodes(run)
        if n["type"] == "Pod" and n.get("finishedAt")
    }


def ask(cluster: Cluster, service: str, rows: list[list[float]]) -> dict[str, Any]:
    """What the deployed model says, through its Service."""
    url = f"{cluster.service(f'{service}-dev', service, 8080)}/v2/models/{service}"
    tensor = json.loads(cluster.call(url))["inputs"][0]
    shape = [len(rows), len(rows[0])]
    body = {"inputs": [{"name": tensor["name"], "datatype": tensor["datatype"], "shape": shape, "data": rows}]}
    return json.loads(cluster.call(f"{url}/infer", body))


def released(cluster: Cluster, repos: Any, sha: str) -> tuple[Object, str]:
    """The release run of a commit, once it ended well, and the commit that it made."""
    run = cluster.ended(pipeline="release", sha=sha)
    assert phase(run) == "Succeeded", run["status"].get("message")
    return run, output(run, "release", "commit")


def deployed(cluster: Cluster, repos: Any, sha: str) -> list[Object]:
    """ci, ct, release and verify of a commit, all of which ended well."""
    runs = []
    for pipeline in ("ci", "ct"):
        run = cluster.ended(pipeline=pipeline, sha=sha)
        assert phase(run) == "Succeeded", run["status"].get("message")
        runs.append(run)
    release, commit = released(cluster, repos, sha)
    verify = cluster.ended(pipeline="verify", sha=commit)
    assert phase(verify) == "Succeeded", verify["status"].get("message")
    return [*runs, release, verify]


def timing(pushed: float, runs: list[Object]) -> dict[str, Any]:
    """Seconds from the push to deployed, and what of them was not the user's code or the build."""
    found = {run["metadata"]["labels"]["trainyard/pipeline"]: steps(run) for run in runs}
    healthy = next(n for n in nodes(runs[-1]) if n["displayName"].startswith("wait"))["finishedAt"]
    total = seconds(pushed, healthy)
    theirs = sum(
        t for run in found.values() for step, t in run.items() if step.partition("(")[0].startswith(USER_STEPS)
    )
    return {
        "total": total,
        "kept": seconds(pushed, runs[-1]["status"]["finishedAt"]),
        "platform": round(total - theirs, 1),
        "first step": seconds(pushed, runs[0]["status"]["startedAt"]),
        "steps": found,
    }


def golden_rows(registry: Any, service: str) -> dict[str, Any]:
    lock = registry.get_lock(registry.get_alias(service, "serving").lock)
    return json.loads(registry.tree_file(lock.versions["model"].digest, "bundle.json"))["golden"]
