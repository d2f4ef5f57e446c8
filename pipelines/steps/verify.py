"""verify: does what was released really serve? Keep it, or take it back once.

Started by any push to the releases repository, so a hand-made revert is verified as well. Steps: inspect ▸ wait ▸
smoke ▸ keep | revert.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any, TypedDict

from pipelines.errors import Exit, YardError
from pipelines.registry import open_registry
from pipelines.steps import _releases as repository
from pipelines.steps._git import git
from pipelines.steps._http import request, secret
from pipelines.steps._step import StepFailedError, step

TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
AUTHORITY = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
POLL = 0.1  # seconds between two looks at an Application
GRACE = 60.0  # seconds that an Application may look Degraded before its sync has begun
NOTHING = "0" * 40


class Inspected(TypedDict):
    claimed: str
    targets: str
    reverts: str


@step
def inspect(*, before: str, commit: str, owner: str) -> Inspected:
    """Which services this push changed. `targets` is JSON: [{service, environment, lock, sha, removed}].

    Without `before` (a push that reconcile found) the targets are all services whose lock is not the one marked
    serving.
    `reverts` is "true" if the commit itself takes a release back.
    """
    registry = open_registry()
    mine = registry.claim(f"verify/releases/{commit}-1", owner)
    with repository.releases() as clone:
        base = before if before not in ("", NOTHING) else git("hash-object", "-t", "tree", os.devnull).strip()
        changed = git("-C", str(clone), "diff", "--name-only", base, commit, "--", "services").splitlines()
        git("-C", str(clone), "checkout", "--quiet", "--detach", commit)
        folders = sorted({tuple(path.split("/")[1:3]) for path in changed if path.count("/") >= 3})
        targets: list[dict[str, Any]] = []
        for service, environment in folders:
            found = repository.record(repository.folder(clone, service, environment))
            alias = registry.get_alias(service, "serving")
            if not before and found and alias and alias.lock == found["lock"]:
                continue
            targets.append(
                {
                    "service": service,
                    "environment": environment,
                    "lock": found.get("lock", ""),
                    "sha": found.get("sha", ""),
                    "removed": not found,
                }
            )
        trailer = git("-C", str(clone), "log", "-1", f"--format=%(trailers:key={repository.REVERTS},valueonly)", commit)
    names = [f"{target['service']}-{target['environment']}" for target in targets]
    print(f"{commit[:12]} changes {', '.join(names) or 'no service'}")
    return {
        "claimed": "true" if mine else "false",
        "targets": json.dumps(targets),
        "reverts": "true" if trailer.strip() else "false",
    }


class Waited(TypedDict):
    outcome: str
    address: str


@step
def wait(*, targets: str, commit: str, timeout: str) -> Waited:
    """Wait until Argo CD has synced each target to this commit and it is healthy, both at the same look.

    `outcome` is healthy, or superseded if a later commit replaced the target meanwhile. Raises YardError(FAILED) when
    a target is Degraded
    or the `timeout` (seconds) is over.
    """
    deadline = time.monotonic() + float(timeout)
    outcome, addresses = "healthy", []
    for target in json.loads(targets):
        if target["removed"]:
            print(f"{target['service']}-{target['environment']}: removed, nothing to wait for")
            continue
        if _settled(target, commit, deadline) == "superseded":
            outcome = "superseded"
        addresses.append(_address(target))
    return {"outcome": outcome, "address": " ".join(addresses)}


def _settled(target: dict[str, Any], commit: str, deadline: float) -> str:
    name = f"{target['service']}-{target['environment']}"
    url = f"{os.environ['KUBERNETES_URL']}/apis/argoproj.io/v1alpha1/namespaces/argocd/applications/{name}"
    said = ""
    while True:
        answer = request("GET", url, token=secret(str(TOKEN)), ca=AUTHORITY if AUTHORITY.exists() else None)
        if answer.status == 404:
            raise YardError(
                f"Argo CD has no Application {name!r}", todo="is the service in platform.yaml?", code=Exit.NOT_FOUND
            )
        if answer.status != 200:
            raise YardError(f"HTTP {answer.status}", where=f"GET {url}", code=Exit.UNAVAILABLE)
        status = answer.json().get("status", {})
        sync, health = status.get("sync", {}), status.get("health", {})
        revision = sync.get("revision", "")
        state = f"{sync.get('status', 'Unknown')} at {revision[:12] or '-'}, {health.get('status', 'Unknown')}"
        if state != said:
            print(f"{name}: {state}", flush=True)
            said = state
        there = revision == commit
        if not there and revision and _replaced(target, commit, revision):
            return "superseded"
        if there and sync.get("status") == "Synced" and health.get("status") == "Healthy":
            return "healthy"
        if there and health.get("status") == "Degraded":
            raise YardError(
                f"{name} is Degraded: {health.get('message', '')}", where=f"commit {commit[:12]}", code=Exit.FAILED
            )
        if time.monotonic() > deadline:
            conditions = "; ".join(c.get("message", "") for c in status.get("conditions", []))
            raise YardError(f"{name} is {state} {conditions}".strip(), where=f"commit {commit[:12]}", code=Exit.FAILED)
        time.sleep(POLL)


def _replaced(target: dict[str, Any], commit: str, revision: str) -> bool:
    """Whether `revision` is a later commit with another release of this target."""
    with repository.releases() as clone:
        later = git("-C", str(clone), "rev-list", "--ancestry-path", f"{commit}..{revision}", check=False).strip()
        folder = f"services/{target['service']}/{target['environment']}"
        return bool(later) and bool(
            git("-C", str(clone), "diff", "--name-only", commit, revision, "--", folder).strip()
        )


def _address(target: dict[str, Any]) -> str:
    """Where the service answers, after redirects: "http://host:port"."""
    base = os.environ["SERVING_URL"].format(
        service=target["service"], namespace=f"{target['service']}-{target['environment']}"
    )
    answer = request("GET", f"{base}/v2")
    return answer.url.removesuffix("/v2")


class Smoked(TypedDict):
    smoke: str


@step
def smoke(*, targets: str) -> Smoked:
    """Ask each target the golden question of its own bundle, through the Service, as a client would.

    Raises YardError(FAILED) if another lock answers, or the answer is not the golden one.
    """
    registry = open_registry()
    told = []
    for target in json.loads(targets):
        if target["removed"]:
            continue
        model = registry.get_lock(target["lock"]).versions["model"]
        golden = registry.tree_file(model.digest, "bundle.json")
        told.append(_ask(target, json.loads(golden)))
        print(told[-1])
    return {"smoke": "; ".join(told)}


def _ask(target: dict[str, Any], bundle: dict[str, Any]) -> str:
    golden = bundle["golden"]
    tensor = bundle["inputs"][0]
    rows = golden["inputs"]
    body = {
        "inputs": [
            {"name": tensor["name"], "datatype": tensor["datatype"], "shape": [len(rows), len(rows[0])], "data": rows}
        ]
    }
    url = f"{_address(target)}/v2/models/{target['service']}/infer"
    answer = request("POST", url, body)
    if answer.status != 200:
        raise YardError(
            f"HTTP {answer.status} {answer.body[:200].decode(errors='replace')}", where=f"POST {url}", code=Exit.FAILED
        )
    said = answer.json()
    lock = said.get("parameters", {}).get("lock")
    if lock != target["lock"]:
        raise YardError(f"lock {lock} answers, {target['lock']} was released", where=f"POST {url}", code=Exit.FAILED)
    outputs = {output["name"]: output["data"] for output in said["outputs"]}
    if [str(label) for label in outputs["label"]] != [str(label) for label in golden["outputs"]["label"]]:
        raise YardError(
            f"it says {outputs['label']}, the golden answer is {golden['outputs']['label']}",
            where=f"POST {url}",
            code=Exit.FAILED,
        )
    flat = [value for row in golden["outputs"]["probabilities"] for value in row]
    worst = max((abs(a - b) for a, b in zip(outputs["probabilities"], flat, strict=True)), default=math.nan)
    if not worst <= golden["tolerance"]:
        raise YardError(f"probabilities are off by {worst}", where=f"POST {url}", code=Exit.FAILED)
    return f"{url}: {len(rows)} golden rows agree"


@step
def keep(*, targets: str) -> None:
    """Mark each target's lock as the one that serves (compare-and-swap on the alias)."""
    registry = open_registry()
    for target in json.loads(targets):
        if target["removed"]:
            continue
        registry.move_alias(target["service"], "serving", target["lock"])
        print(f"{target['service']}: serving is {target['lock']}")


class Reverted(TypedDict):
    commit: str


@step
def revert(*, targets: str, commit: str) -> Reverted:
    """Take this release back: the target's files as they were before it, as one new commit. Never raises twice for
    one release.

    Ends with REVERTED when it is taken back (the run is red: somebody should look), CONFLICT-free when a newer
    release is out already.
    """
    with repository.releases() as clone:
        for _ in range(repository.PUSH_TRIES):
            done = git(
                "-C", str(clone), "log", "--format=%H", f"--grep=^{repository.REVERTS}: {commit}$", "HEAD"
            ).split()
            if done:
                raise StepFailedError(
                    f"{commit[:12]} is taken back by {done[0][:12]}", results={"commit": done[0]}, code=Exit.REVERTED
                )
            touched = _take_back(clone, json.loads(targets), commit)
            title = f"Take back {', '.join(touched)}: {commit[:12]} did not prove itself"
            made = repository.commit(clone, title, {repository.REVERTS: commit}) if touched else None
            if made is None:
                print("a newer release is out already: nothing to take back")
                return {"commit": ""}
            if repository.push(clone):
                raise StepFailedError(
                    f"{commit[:12]} is taken back by {made[:12]}", results={"commit": made}, code=Exit.REVERTED
                )
            repository.update(clone)
    raise YardError("every push lost its race", where=os.environ["RELEASES_REPO"], code=Exit.UNAVAILABLE)


def _take_back(clone: Path, targets: list[dict[str, Any]], commit: str) -> list[str]:
    """Put the folders that still look as `commit` left them back to what they were before it; the names of those."""
    touched = []
    for target in targets:
        path = f"services/{target['service']}/{target['environment']}"
        if git("-C", str(clone), "diff", "--name-only", commit, "HEAD", "--", path).strip():
            continue
        git("-C", str(clone), "rm", "-r", "--quiet", "--ignore-unmatch", "--", path)
        if git("-C", str(clone), "ls-tree", f"{commit}^", "--", path, check=False).strip():
            git("-C", str(clone), "checkout", "--quiet", f"{commit}^", "--", path)
        touched.append(f"{target['service']} {target['environment']}")
    return touched
