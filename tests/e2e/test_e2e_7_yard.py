"""`yard` against the cluster as against solo, and the same Workflows on both."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e_cluster import END, YARD, Cluster, output, phase, until
from e2e_repo import Repo
from e2e_story import timing

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def newest(cluster: Cluster) -> Any:
    """The newest ci of digits whose commit serves."""
    record: Any = cluster.get("configmaps", "digits-dev", "digits-release")
    return cluster.runs(pipeline="ci", sha=record["data"]["sha"])[0]


def test_yard_runs_lists_what_ran(cluster: Cluster, newest: Any):
    said = cluster.yard("runs", "--limit", "200").stdout
    line = next(line for line in said.splitlines() if line.startswith(newest["metadata"]["name"]))
    assert "Succeeded" in line


def test_yard_logs_prints_every_step_although_the_pods_are_gone(cluster: Cluster, newest: Any):
    name = newest["metadata"]["name"]
    assert not cluster.list("pods", "mlops", f"workflows.argoproj.io/workflow={name}")
    said = cluster.yard("logs", name).stdout
    for text in ("attempt 1: claimed", "mlops.yaml is valid", "passed", "built: "):
        assert text in said


def test_yard_trace_follows_a_commit_to_the_pods_that_serve_it(cluster: Cluster, newest: Any, digits: Repo):
    said = cluster.yard("trace", newest["metadata"]["labels"]["trainyard/sha"]).stdout
    for text in ("✓ delivery", "✓ ci", "✓ image", "✓ training", "✓ metrics", "✓ version", "✓ release", "✓ serving"):
        assert text in said, said
    assert "digits-dev is Synced and Healthy" in said


@pytest.fixture
def registry(cluster: Cluster, tmp_path: Path) -> Any:
    """Where `yard` on this machine finds the registry, and who it says it is."""
    secret: Any = cluster.get("secrets", "digits-dev", "registry-read")
    token = tmp_path / "token"
    token.write_bytes(base64.b64decode(secret["data"]["credentials"]))
    with cluster.forward("storage", "service/storage", 4443) as url:
        yield {"STORAGE_URL": url, "REGISTRY_CREDENTIALS": str(token)}


def test_yard_models_lists_versions_and_which_serves(cluster: Cluster, registry: Any):
    said = cluster.yard("models", **registry).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("digits/") and "serving" in line]
    assert "accuracy=" in line


def test_yard_rerun_makes_a_new_attempt_of_a_commit_that_has_run(cluster: Cluster, newest: Any, registry: Any):
    sha = newest["metadata"]["labels"]["trainyard/sha"]
    said = cluster.yard("rerun", sha[:12], **registry).stdout
    name, attempt = re.match(r"(\S+): attempt (\d+) of acme/digits@", said).groups()
    assert int(attempt) > 1
    for pipeline, wanted in (("ci", name), ("ct", f"ct{name.removeprefix('ci')}")):
        run = until(lambda p=pipeline, n=wanted: _named(cluster, p, sha, n), f"{wanted} to end", 900)
        assert phase(run) == "Succeeded", cluster.explain()


def _named(cluster: Cluster, pipeline: str, sha: str, name: str) -> Any:
    runs = cluster.runs(pipeline=pipeline, sha=sha)
    return next((run for run in runs if run["metadata"]["name"] == name and phase(run) in END), None)


@pytest.fixture
def solo(tmp_path: Path):
    """A solo of this checkout, on free ports."""
    environment = {**os.environ, "TRAINYARD_HOME": str(tmp_path / "solo")}
    up = [YARD, "solo", "up", "--any-port"]
    subprocess.run(up, env=environment, check=True, capture_output=True)
    yield environment["TRAINYARD_HOME"]
    subprocess.run([YARD, "solo", "down"], env=environment, check=True, capture_output=True)


def test_the_same_push_on_solo_for_comparison(solo: str, tmp_path: Path, facts):
    """The push of chapter 2 on this machine without a cluster, timed the same way."""
    state = json.loads(Path(solo, "solo.json").read_text())
    folder = tmp_path / "digits"
    example = HERE.parents[1] / "examples/digits"
    clone = ["git", "clone", "--quiet", f"{state['endpoints']['GIT_URL']}/acme/digits.git", str(folder)]
    subprocess.run(clone, check=True, capture_output=True)
    shutil.copytree(example, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".*cache"))
    identity = ["git", "-C", str(folder), "-c", "user.name=ann", "-c", "user.email=ann@example.com"]
    subprocess.run([*identity, "add", "--all"], check=True)
    subprocess.run([*identity, "commit", "--quiet", "-m", "Digits"], check=True)
    sha = subprocess.run([*identity, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    at = time.time()
    subprocess.run([*identity, "push", "--quiet", "origin", "HEAD:main"], check=True, capture_output=True)
    runs = {}
    wanted = {"ci": sha, "ct": sha, "release": sha}
    for pipeline in ("ci", "ct", "release", "verify"):
        runs[pipeline] = until(lambda name=pipeline: _ended(state, name, wanted[name]), f"{pipeline} on solo")
        if pipeline == "release":
            wanted["verify"] = output(runs[pipeline], "release", "commit")
    facts["solo"] = timing(at, list(runs.values()))
    assert facts["solo"]["total"] > 0


def _ended(state: Any, pipeline: str, sha: str) -> Any:
    selector = f"trainyard/pipeline={pipeline},trainyard/sha={sha}"
    url = f"{state['endpoints']['ARGO_URL']}/api/v1/workflows/?listOptions.labelSelector={selector}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        items = json.load(answer)["items"] or []
    return next((run for run in items if phase(run) in END), None)


def test_the_same_workflows_do_the_same_on_both_runtimes(cluster: Cluster, solo: str, facts):
    cluster.apply(*yaml.safe_load_all((HERE / "fixtures/parity.yaml").read_text()))
    done = cluster.yard(
        "parity", "--markdown", str(HERE / "parity"), check=False, who="e2e:parity", TRAINYARD_HOME=solo
    )
    facts["parity"] = done.stdout
    print(done.stdout, file=sys.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
