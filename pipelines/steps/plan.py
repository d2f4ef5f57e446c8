"""plan: what a `ct` run is to do, as Argo parameters: the user's commands, their limits, and what serves today."""

from __future__ import annotations

import json
import os
from typing import TypedDict

from pipelines import config as contract
from pipelines.registry import open_registry
from pipelines.steps._step import step


class Plan(TypedDict):
    claimed: str
    params: str
    ingest_command: str
    ingest_timeout: str
    process_command: str
    process_timeout: str
    train_command: str
    train_timeout: str
    train_patch: str
    gpu: str
    serving: str


@step
def plan(*, service: str, sha: str, attempt: str, owner: str, config: str) -> Plan:
    """Claim the run and unfold `config` (mlops.yaml, validated, as JSON). `serving` is the lock that serves, or ""."""
    found = contract.Config.model_validate_json(config)
    registry = open_registry()
    mine = registry.claim(f"ct/{service}/{sha}-{attempt}", owner)
    serving = registry.get_alias(service, "serving")
    resources = found.train.resources
    print(f"ct of {service} at {sha[:12]}, attempt {attempt}: {'claimed' if mine else 'already done by another run'}")
    print(f"serving now: {serving.lock if serving else 'nothing'}")
    return {
        "claimed": "true" if mine else "false",
        "params": json.dumps({"seed": found.seed, "params": found.params}, sort_keys=True),
        "ingest_command": found.data.command,
        "ingest_timeout": str(found.data.seconds),
        "process_command": found.process.command,
        "process_timeout": str(found.process.seconds),
        "train_command": found.train.command,
        "train_timeout": str(found.train.seconds),
        "train_patch": _patch(resources.cpu, resources.memory, resources.gpu),
        "gpu": str(resources.gpu),
        "serving": serving.lock if serving else "",
    }


def _patch(cpu: str, memory: str, gpu: int) -> str:
    """A strategic-merge patch of the pod: Argo resolves no `{{…}}` inside `resources`."""
    runtime = os.environ.get("GPU_RUNTIME", "") if gpu else ""
    limits = {"cpu": cpu, "memory": memory, **({"nvidia.com/gpu": str(gpu)} if gpu else {})}
    requests = {"cpu": cpu, "memory": memory}
    containers = [{"name": "main", "resources": {"limits": limits, "requests": requests}}]
    return json.dumps({"containers": containers, **({"runtimeClassName": runtime} if runtime else {})})
