"""`yard` against the cluster as against solo, and the same Workflows on both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from e2e_cluster import YARD, Cluster
from e2e_repo import Repo

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


def test_yard_models_lists_versions_and_which_serves(cluster: Cluster, tmp_path: Path):
    import base64

    secret: Any = cluster.get("secrets", "digits-dev", "registry-read")
    token = tmp_path / "token"
    token.write_bytes(base64.b64decode(secret["data"]["credentials"]))
    with cluster.forward("storage", "service/storage", 4443) as url:
        said = cluster.yard("models", STORAGE_URL=url, REGISTRY_CREDENTIALS=str(token)).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("digits/") and "serving" in line]
    assert "accuracy=" in line


@pytest.fixture
def solo(tmp_path: Path):
    """A solo of this checkout, on free ports."""
    environment = {**os.environ, "TRAINYARD_HOME": str(tmp_path / "solo")}
    up = [YARD, "solo", "up", "--any-port"]
    subprocess.run(up, env=environment, check=True, capture_output=True)
    yield environment["TRAINYARD_HOME"]
    subprocess.run([YARD, "solo", "down"], env=environment, check=True, capture_output=True)


def test_the_same_workflows_do_the_same_on_both_runtimes(cluster: Cluster, solo: str, facts):
    done = cluster.yard("parity", "--markdown", str(HERE / "parity"), check=False, TRAINYARD_HOME=solo)
    facts["parity"] = done.stdout
    print(done.stdout, file=sys.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
