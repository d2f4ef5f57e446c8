"""verify: does what was released really serve? Keep it, or take it back once.

Started by any push to the releases repository, so a hand-made revert is verified as well. Steps: inspect ▸ wait ▸
smoke ▸ keep | revert.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
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
POLL, SLOWEST_POLL = 0.1, 2.0  # seconds between two looks at an Application: the longer it takes, the fewer
LAG = 10.0  # seconds that a Service may go on sending to a pod that is on its way out
NOTHING = "0" * 40


class Inspected(TypedDict):
    claimed: str
    targets: str
    reverts: str


@step
def inspect(*, before: str, commit: str, owner: str) -> Inspected:
    """Which services this push changed. `targets` is JSON: [{service, environment, lock, sha, removed, back}].

    `back` is the commit to go back to: the newest with the lock marked serving, else what was before the push.
    Without `before` (a push that reconcile found, or one that rewrote the branch) the targets are all services whose
    lock is not the one marked serving. `reverts` is "true" if the commit itself takes a release back.
    """
    registry = open_registry()
    mine = registry.claim(f"verify/releases/{commit}-1", owner)
    with repository.releases() as clone:
        if not repository.resolve(clone, commit):
            raise YardError(f"no commit {commit}", where=os.environ["RELEASES_REPO"], code=Exit.NOT_FOUND)
        known = before == NOTHING or bool(before and repository.resolve(clone, before))
        base = before if known and before != NOTHING else git("hash-object", "-t", "tree", os.devnull).strip()
        changed = git("-C", str(clone), "diff", "--name-only", base, commit, "--", "services").splitlines()
        git("-C", str(clone), "checkout", "--quiet", "--detach", commit)
        folders = sorted({tuple(path.split("/")[1:3]) for path in changed if path.count("/") >= 3})
        targets: list[dict[str, Any]] = []
        for service, environment in folders:
            found = repository.record(repository.folder(clone, service, environment))
            alias = registry.get_alias(service, "serving")
            proven = alias.lock if alias else ""
            if not known and found and proven == found["lock"]:
                continue
            path = f"services/{service}/{environment}"
            targets.append(
                {
                    "service": service,
                    "environment": environment,
                    "lock": found.get("lock", ""),
                    "sha": found.get("sha", ""),
                    "removed": not found,
                    "back": _back(clone, path, before if known else "", commit, proven),
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


def _back(clone: Path, path: str, before: str, commit: str, proven: str) -> str:
    """The commit whose `path` should be put back if `commit` does not prove itself; "" if there was nothing before."""
    if before == NOTHING:
        return ""
    if not before:
        before = f"{git('-C', str(clone), 'log', '-1', '--format=%H', commit, '--', path).strip()}^"
        if not repository.resolve(clone, before):
            return ""
    return _newest(clone, path, before, proven) or repository.resolve(clone, before)


def _newest(clone: Path, path: str, revisions: str, lock: str) -> str:
    """The newest of these commits (a revision or a range, as `git log` takes them) that left this lock in `path`; "" if
    none did.
    """
    for commit in git("-C", str(clone), "log", "--format=%H", revisions, "--", path).split() if lock else []:
        text = git("-C", str(clone), "show", f"{commit}:{path}/release.yaml", check=False)
        with suppress(YardError):  # a record that people broke was not proven
            if repository.parse(text, commit)["lock"] == lock:
                return commit
    return ""


class Waited(TypedDict):
    outcome: str
    address: str
    targets: str


@step
def wait(*, targets: str, commit: str, sync_timeout: str, timeout: str) -> Waited:
    """Wait until Argo CD has synced each target to this commit and it is healthy, both at the same look.

    `targets` is what is left of them: without those that a later commit replaced meanwhile. `outcome` is healthy, or
    superseded if nothing is left. Raises YardError(FAILED) when a target is Degraded, `sync_timeout` (seconds) is over
    before Argo CD synced, or `timeout` (seconds) after it did.
    """
    deadline = time.monotonic() + float(sync_timeout)
    wanted: list[dict[str, Any]] = json.loads(targets)
    left, addresses = [], []
    for target in wanted:
        if target["removed"]:
            print(f"{target['service']}-{target['environment']}: removed, nothing to wait for")
        elif _settled(target, commit, deadline, float(timeout)) == "superseded":
            continue
        else:
            addresses.append(_address(target))
        left.append(target)
    outcome = "superseded" if wanted and not left else "healthy"
    return {"outcome": outcome, "address": " ".join(addresses), "targets": json.dumps(left)}


def _settled(target: dict[str, Any], commit: str, deadline: float, timeout: float) -> str:
    name = f"{target['service']}-{target['environment']}"
    url = f"{os.environ['KUBERNETES_URL']}/apis/argoproj.io/v1alpha1/namespaces/argocd/applications/{name}"
    said, revision, place = "", "", ""
    synced = False
    begun = time.monotonic()
    while True:
        try:
            answer = request("GET", url, token=secret(str(TOKEN)), ca=AUTHORITY if AUTHORITY.exists() else None)
        except YardError as error:
            # Kubernetes being away says nothing about the release
            if error.code != Exit.UNAVAILABLE or time.monotonic() > deadline:
                raise
            if error.what != said:
                print(f"{name}: {error.what}", flush=True)
                said = error.what
            continue
        if answer.status == 404:
            raise YardError(
                f"Argo CD has no Application {name!r}", todo="is the service in platform.yaml?", code=Exit.NOT_FOUND
            )
        if answer.status != 200:
            raise YardError(f"HTTP {answer.status}", where=f"GET {url}", code=Exit.UNAVAILABLE)
        status = answer.json().get("status", {})
        sync, health = status.get("sync", {}), status.get("health", {})
        if sync.get("revision", "") != revision:
            revision = sync.get("revision", "")
            place = _place(target, commit, revision)
        state = f"{sync.get('status', 'Unknown')} at {revision[:12] or '-'}, {health.get('status', 'Unknown')}"
        if state != said:
            print(f"{name}: {state}", flush=True)
            said = state
        if place == "replaced":
            return "superseded"
        # before the sync is done, the health is that of what ran before
        there = place == "there" and sync.get("status") == "Synced"
        if there and not synced:
            synced, deadline = True, time.monotonic() + timeout
        if there and health.get("status") == "Healthy":
            return "healthy"
        if there and health.get("status") == "Degraded":
            raise YardError(
                f"{name} is Degraded: {health.get('message', '')}", where=f"commit {commit[:12]}", code=Exit.FAILED
            )
        if time.monotonic() > deadline:
            conditions = "; ".join(c.get("message", "") for c in status.get("conditions", []))
            raise YardError(f"{name} is {state} {conditions}".strip(), where=f"commit {commit[:12]}", code=Exit.FAILED)
        time.sleep(min(SLOWEST_POLL, POLL + (time.monotonic() - begun) / 20))


def _place(target: dict[str, Any], commit: str, revision: str) -> str:
    """Where `revision` is, seen from this release: "there", "replaced" (by a later release of the same target), or
    "elsewhere".

    Argo CD moves every Application to the head of the branch, so another service's release does not end this one.
    """
    if revision in ("", commit):
        return "there" if revision else "elsewhere"
    with repository.releases() as clone:
        if not git("-C", str(clone), "rev-list", "--ancestry-path", f"{commit}..{revision}", check=False).strip():
            return "elsewhere"
        folder = f"services/{target['service']}/{target['environment']}"
        changed = git("-C", str(clone), "diff", "--name-only", commit, revision, "--", folder).strip()
        return "replaced" if changed else "there"


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

    Raises YardError(FAILED) if another lock answers and goes on answering, or the answer is not the golden one.
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
    golden, tensor = bundle["golden"], bundle["inputs"][0]
    rows = golden["inputs"]
    if tensor["datatype"] == "INT64":  # the bundle keeps all golden rows as floats, the protocol is strict
        rows = [[int(value) for value in row] for row in rows]
    shape = [len(rows), len(rows[0])]
    body = {"inputs": [{"name": tensor["name"], "datatype": tensor["datatype"], "shape": shape, "data": rows}]}
    url = f"{_address(target)}/v2/models/{target['service']}/infer"
    deadline = time.monotonic() + LAG
    while True:
        lock, outputs = _answer(url, body)
        if lock == target["lock"]:
            break
        if time.monotonic() > deadline:
            raise _wrong(url, f"lock {lock} answers, {target['lock']} was released")
        time.sleep(POLL)
    told, wanted = outputs["label"], golden["outputs"]["label"]
    if [str(label) for label in told] != [str(label) for label in wanted]:
        raise _wrong(url, f"it says {told}, the golden answer is {wanted}")
    flat = [value for row in golden["outputs"]["probabilities"] for value in row]
    given = outputs["probabilities"]
    if len(given) != len(flat):
        raise _wrong(url, f"{len(given)} probabilities, the golden answer has {len(flat)}")
    # one by one: the largest of several differences can hide a NaN
    off = [abs(a - b) for a, b in zip(given, flat, strict=True) if not abs(a - b) <= golden["tolerance"]]
    if off:
        raise _wrong(url, f"{len(off)} probabilities are off, one by {off[0]:.2g}")
    return f"{url}: {len(rows)} golden rows agree"


def _answer(url: str, body: dict[str, Any]) -> tuple[str, dict[str, list[Any]]]:
    """The lock that answers, and its outputs by name: labels, and probabilities that are numbers."""
    answer = request("POST", url, body)
    text = answer.body[:200].decode(errors="replace")
    if answer.status != 200:
        raise _wrong(url, f"HTTP {answer.status} {text}")
    try:
        said = answer.json()
        outputs = {output["name"]: list(output["data"]) for output in said["outputs"]}
        outputs["probabilities"] = [float(value) for value in outputs["probabilities"]]
        return said["parameters"]["lock"], {name: outputs[name] for name in ("label", "probabilities")}
    except (ValueError, KeyError, TypeError):
        raise _wrong(url, f"not an answer of a model server: {text}") from None


def _wrong(url: str, what: str) -> YardError:
    return YardError(what, where=f"POST {url}", code=Exit.FAILED)


@step
def keep(*, targets: str, commit: str) -> None:
    """Mark each target's lock as the one that serves, unless that of a later release is marked already: on a busy
    machine the pod of an earlier release's `keep` may start last.
    """
    registry = open_registry()
    with repository.releases() as clone:
        for target in json.loads(targets):
            if target["removed"]:
                continue
            now = registry.get_alias(target["service"], "serving")
            path = f"services/{target['service']}/{target['environment']}"
            if now and now.lock != target["lock"] and _newest(clone, path, f"{commit}..HEAD", now.lock):
                print(f"{target['service']}: serving stays {now.lock}, which was released later")
                continue
            registry.move_alias(target["service"], "serving", target["lock"])
            print(f"{target['service']}: serving is {target['lock']}")


class Reverted(TypedDict):
    commit: str


@step
def revert(*, targets: str, commit: str) -> Reverted:
    """Take this release back: the targets' files as they were at `back`, as one new commit, once for each release.

    Ends with REVERTED when it is taken back (the run is red: somebody should look), well when a newer release is out
    already. Raises YardError(FAILED) if there is nothing else to go back to.
    """
    with repository.releases() as clone:
        for _ in range(repository.PUSH_TRIES):
            trailer = f"--grep=^{repository.REVERTS}: {commit}$"
            done = git("-C", str(clone), "log", "--format=%H", trailer, "HEAD").split()
            if done:
                raise _taken(commit, done[0])
            touched = _take_back(clone, json.loads(targets), commit)
            if not touched:
                print("a newer release is out already: nothing to take back")
                return {"commit": ""}
            title = f"Take back {', '.join(touched)}: {commit[:12]} did not prove itself"
            made = repository.commit(clone, title, {repository.REVERTS: commit})
            if made is None:
                what = f"{commit[:12]} did not prove itself, and it is what has served: there is nothing to go back to"
                raise YardError(what, where=os.environ["RELEASES_REPO"], code=Exit.FAILED)
            if repository.push(clone):
                raise _taken(commit, made)
            repository.update(clone)
    raise YardError("every push lost its race", where=os.environ["RELEASES_REPO"], code=Exit.UNAVAILABLE)


def _taken(commit: str, by: str) -> StepFailedError:
    return StepFailedError(f"{commit[:12]} is taken back by {by[:12]}", results={"commit": by}, code=Exit.REVERTED)


def _take_back(clone: Path, targets: list[dict[str, Any]], commit: str) -> list[str]:
    """Put the folders that still look as `commit` left them back to what they were; the names of those."""
    touched = []
    for target in targets:
        path, back = f"services/{target['service']}/{target['environment']}", target["back"]
        if git("-C", str(clone), "diff", "--name-only", commit, "HEAD", "--", path).strip():
            continue
        git("-C", str(clone), "rm", "-r", "--quiet", "--ignore-unmatch", "--", path)
        if back and git("-C", str(clone), "ls-tree", back, "--", path).strip():
            git("-C", str(clone), "checkout", "--quiet", back, "--", path)
        touched.append(f"{target['service']} {target['environment']}")
    return touched
