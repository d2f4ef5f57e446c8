"""`yard trace`: a commit's way, link by link, and the first link that stopped.

delivery → event → sensor → ci → image → training → metrics → model version → release → serving
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipelines.cli.addresses import Addresses, settings
from pipelines.cli.argo import Argo
from pipelines.cli.logs import tail
from pipelines.cli.runs import BAD, Run, all_runs, full_sha
from pipelines.cli.show import duration, first_push, numbers
from pipelines.cli.watch import reasons, verdicts
from pipelines.errors import Exit, YardError
from pipelines.gate import Decision

MARKS = {"ok": "✓", "stopped": "✗", "waiting": "…"}


class Link(NamedTuple):
    """One link: whether it held, what is known of it, and lines for a reader who wants to know why."""

    name: str
    state: str
    told: str
    more: tuple[str, ...] = ()


def trace(addresses: Addresses, text: str) -> None:
    """Raises YardError(NOT_FOUND) if nobody knows the commit."""
    argo = Argo(addresses)
    sha = full_sha(argo, text)
    runs = all_runs(argo, sha=sha)
    newest = max((run.attempt for run in runs), default=1)
    chain = {run.pipeline: run for run in reversed(runs) if run.attempt == newest and not run.elsewhere()}
    released = chain["release"].output("release", "commit") if "release" in chain else ""
    if released:
        chain |= {run.pipeline: run for run in all_runs(argo, sha=released) if run.pipeline == "verify"}
    events = verdicts(argo, sha)
    links = [] if chain else _from_git(addresses, sha)
    if not links and not chain and not events:
        todo = "was it pushed? Runs are kept for a week, what Sensors refuse is not kept at all on a cluster"
        if not all_runs(argo):
            todo = f"nothing has run yet: {first_push(addresses)}"
        raise YardError(f"nothing is known of {sha[:12]}", todo=todo, code=Exit.NOT_FOUND)
    links = links or list(_links(argo, sha, chain, events))
    for link in links:
        print(f"{MARKS[link.state]} {link.name:<9} {link.told}".rstrip())
        for line in link.more:
            print(f"{'':12}{line}")
    last = links[-1]
    if last.state == "stopped":
        print(f"stopped at: {last.name}")


def _links(argo: Argo, sha: str, chain: dict[str, Run], events: list[dict[str, Any]]) -> Iterator[Link]:
    """The chain up to and including the first link that did not hold."""
    for link in (*_arrival(chain.get("ci"), events), *_pipeline(argo, sha, chain), *_serving(argo, chain)):
        yield link
        if link.state != "ok":
            return


def _arrival(ci: Run | None, events: list[dict[str, Any]]) -> Iterator[Link]:
    made = ci.delivery if ci else ""
    # the delivery's id goes along with the later stages' events: the first event of it is the push
    oldest = events[::-1]
    entry = next((one for one in oldest if made and one.get("delivery") == made), oldest[0] if oldest else {})
    if entry.get("refused"):
        yield Link("delivery", "stopped", f"{entry.get('delivery', '')} {entry.get('time', '')}", tuple(reasons(entry)))
        return
    rerun = made.startswith("rerun-")
    when = "" if rerun else entry.get("time", "")
    yield Link("delivery", "ok", f"{made or entry.get('delivery') or '(no id)'} {when}".strip())
    if rerun:
        yield Link("event", "ok", "none: `yard rerun` started it")
    elif entry:
        yield Link(
            "event", "ok", f"{entry.get('source')}/{entry.get('event')} {entry.get('repository')} {entry.get('ref')}"
        )
    if ci:
        sensor = ci.labels.get("events.argoproj.io/sensor")
        if sensor:
            yield Link("sensor", "ok", f"{sensor}, trigger {ci.labels.get('events.argoproj.io/trigger', '')}")
    elif entry.get("state") == "waiting":
        yield Link("sensor", "waiting", "the event is on the bus")
    elif made := next((one["created"] for one in entry.get("sensors", []) if one.get("created")), ""):
        yield Link("sensor", "stopped", f"made {made}, which is gone: runs are kept for a week")
    else:
        yield Link("sensor", "stopped", "no Sensor took it", tuple(reasons(entry)))


def _pipeline(argo: Argo, sha: str, chain: dict[str, Run]) -> Iterator[Link]:
    ci, ct, release = (chain.get(name) for name in ("ci", "ct", "release"))
    yield _run_link(argo, "ci", ci)
    yield Link(
        "image", "ok" if ci and ci.output("build", "image") else "waiting", ci.output("build", "image") if ci else ""
    )
    yield from _training(argo, ct)
    versions = ct.output("register", "versions") if ct else ""
    if not versions and ct and ct.failed():
        yield _run_link(argo, "version", ct)
    yield Link("version", "ok" if versions else "waiting", versions.strip("{}").replace('"', ""))
    outcome, commit = (release.output("release", key) if release else "" for key in ("outcome", "commit"))
    if outcome == "superseded":
        yield Link("release", "stopped", "superseded: a newer commit of this branch is out already")
    elif outcome:
        yield Link("release", "ok", f"{outcome} by commit {commit}")
    else:
        yield _run_link(argo, "release", release)


def _training(argo: Argo, ct: Run | None) -> Iterator[Link]:
    if ct is None:
        yield Link("training", "waiting", "ct has not begun")
        return
    gate = ct.step("gate")
    decision = gate.decision() if gate else None
    train = next((step for step in ct.steps if step.name.startswith("train")), None)
    if decision is None:
        yield _run_link(argo, "training", ct)
    else:
        yield Link("training", "ok", f"{ct.name}, train took {duration(train.seconds) if train else '?'}")
        lines = tuple(numbers(decision, every=True))
        if decision.accepted:
            yield Link("metrics", "ok", "accepted", lines)
        else:
            yield Link("metrics", "stopped", "refused", (*lines, *decision.summary[1:]))


def _run_link(argo: Argo, name: str, run: Run | None) -> Link:
    """A link that stands for a whole run: its failed step and what that said last."""
    if run is None:
        return Link(name, "waiting", "not begun")
    failed = run.failed()
    if failed:
        more = (*(line[:300] for line in tail(argo, run, failed)[-2:]), f"yard logs {run.name} --step {failed.name}")
        return Link(name, "stopped", f"{run.name}: step {failed.name} failed: {failed.message}", more)
    if run.phase in BAD:
        return Link(name, "stopped", f"{run.name}: {run.message or run.phase}")
    if run.phase != "Succeeded":
        active = ", ".join(step.name for step in run.steps if step.finished is None)
        return Link(name, "waiting", f"{run.name}: {run.phase} {active}".rstrip())
    took = duration((run.finished - run.created).total_seconds()) if run.finished and run.created else ""
    return Link(name, "ok", f"{run.name} {took}")


def _serving(argo: Argo, chain: dict[str, Run]) -> Iterator[Link]:
    release, verify = chain.get("release"), chain.get("verify")
    if verify is None:
        yield Link("serving", "waiting", "verify has not begun")
        return
    if verify.failed() or verify.phase != "Succeeded":
        link = _run_link(argo, "serving", verify)
        taken_back = verify.output("revert", "commit")
        yield link._replace(more=(*link.more, f"taken back by {taken_back}")) if taken_back else link
        return
    if verify.output("wait", "outcome") == "superseded":
        yield Link("serving", "stopped", "superseded: a newer release replaced it")
        return
    service = release.service if release else ""
    now = _application(argo, f"{service}-dev", verify.sha)
    yield Link("serving", "ok", verify.output("wait", "address"), (now,))


def _application(argo: Argo, name: str, commit: str) -> str:
    """What Argo CD says of the deployed service at this moment."""
    try:
        found = argo.kubernetes(f"/apis/argoproj.io/v1alpha1/namespaces/argocd/applications/{name}")
    except YardError as error:
        return f"now: unknown ({error.where}: {error.what}; is KUBERNETES_URL right?)"
    status = found.get("status") or {}
    sync, health = status.get("sync") or {}, status.get("health") or {}
    revision = str(sync.get("revision", ""))
    same = "this release" if revision == commit else f"releases at {revision[:12] or '-'}"
    return f"now: {name} is {sync.get('status', 'Unknown')} and {health.get('status', 'Unknown')}, {same}"


def _from_git(addresses: Addresses, sha: str) -> list[Link]:
    """What the release record says, for a commit whose runs are gone: Git forgets nothing."""
    found = _release_record(addresses, sha)
    if found is None:
        return []
    commit, record = found
    decision = Decision.model_validate_json(record["decision"])
    return [
        Link("image", "ok", record["image"]),
        Link("metrics", "ok", "accepted", tuple(numbers(decision))),
        Link("version", "ok", record["versions"].strip("{}").replace('"', "")),
        Link("release", "ok", f"commit {commit}, {record['released-at']}, by {record['workflow']} (no longer kept)"),
    ]


def _release_record(addresses: Addresses, sha: str) -> tuple[str, dict[str, str]] | None:
    known = settings()
    if known is None:
        return None
    url = f"{addresses.environment['GIT_URL']}/{known.releases}.git"
    with tempfile.TemporaryDirectory() as directory:
        clone = Path(directory) / "releases"
        # without GIT_*: in a hook they point at another repository
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        environment["GIT_TERMINAL_PROMPT"] = "0"

        def git(*args: str) -> str:
            done = subprocess.run(["git", *args], env=environment, capture_output=True, text=True, check=False)
            return done.stdout if done.returncode == 0 else ""

        git("clone", "--quiet", "--bare", url, str(clone))
        trailer = f"--grep=^Trainyard-Sha: {sha}$"
        commit = git("-C", str(clone), "log", "-1", "--format=%H", trailer).strip()
        files = git("-C", str(clone), "show", "--format=", "--name-only", commit).split() if commit else []
        name = next((file for file in files if file.endswith("/release.yaml")), "")
        if not name:
            return None
        return commit, dict(yaml.safe_load(git("-C", str(clone), "show", f"{commit}:{name}"))["data"])
