"""register: give the accepted data, features, model and application their versions, and write the lock that names
them.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from datetime import UTC, datetime
from typing import TypedDict

from pipelines import config as contract
from pipelines.gate import Decision
from pipelines.registry import AXES, Lock, LockedVersion, open_registry
from pipelines.steps._step import InputPath, step


class Registered(TypedDict):
    lock: str
    versions: str


@step
def register(
    *,
    service: str,
    repo: str,
    branch: str,
    sha: str,
    attempt: str,
    workflow: str,
    owner: str,
    image: str,
    config: str,
    decision: str,
    metrics: str,
    data: InputPath,
    features: InputPath,
    bundle: InputPath,
    analysis: InputPath,
) -> Registered:
    """Upload by content, create the next free version of each axis (or find the one with the same content), then the
    lock.

    Every write is create-once, so a retry after a crash ends with the same versions and the same lock.
    """
    found = contract.Config.model_validate_json(config)
    registry = open_registry()
    app = json.dumps({"repo": repo, "image": image, "config": json.loads(config)}, sort_keys=True).encode()
    digests = {
        "data": registry.put_tree(data),
        "feature": registry.put_tree(features),
        "model": registry.put_tree(bundle),
        "app": registry.put_blob(app),
    }
    names = {axis: found.data.name if axis == "data" else service for axis in AXES}
    versions = {}
    for axis in AXES:
        info = {
            "sha": sha,
            "workflow": workflow,
            **({"metrics": json.loads(metrics)["metrics"]} if axis == "model" else {}),
        }
        version = registry.add_version(axis, names[axis], digests[axis], info)
        versions[axis] = LockedVersion(name=names[axis], number=version.number, digest=digests[axis])
    params = json.dumps({"seed": found.seed, "params": found.params}, sort_keys=True)
    accepted = Decision.model_validate_json(decision)
    lock = registry.put_lock(
        Lock(
            service=service,
            repo=repo,
            branch=branch,
            sha=sha,
            attempt=int(attempt),
            image=image,
            versions=versions,
            platform={
                "version": os.environ["PLATFORM_VERSION"],
                "templates": os.environ["TEMPLATES_DIGEST"],
                "image": os.environ["PIPELINES_IMAGE"],
                "architecture": platform.machine(),
            },
            seed=found.seed,
            params=found.params,
            params_digest="sha256:" + hashlib.sha256(params.encode()).hexdigest(),
            metrics=json.loads(metrics)["metrics"],
            thresholds=found.gate.model_dump(mode="json"),
            decision=accepted.model_dump(mode="json"),
            workflows={"ct": {"name": workflow, "uid": owner}},
        )
    )
    named = {axis: f"{version.name}/v{version.number}" for axis, version in versions.items()}
    evidence = {"decision.json": decision, "metrics.json": metrics, "config.json": config}
    files = {name: text.encode() for name, text in evidence.items()}
    files |= {path.name: path.read_bytes() for path in sorted(analysis.iterdir())}
    registry.write_run(
        workflow,
        files,
        {
            "service": service,
            "sha": sha,
            "workflow": workflow,
            "uid": owner,
            "outcome": "accepted",
            "lock": lock,
            **named,
        },
        datetime.now(UTC),
    )
    for axis, version_name in named.items():
        print(f"{axis:8}{version_name}  {digests[axis]}")
    print(f"lock    {lock}")
    return {"lock": lock, "versions": json.dumps(named)}
