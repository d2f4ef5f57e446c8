"""`make e2e-report`: what the runs of `make e2e` left in .e2e/ as the page docs/e2e.md. NOTE="…" adds what a reader
must know of these runs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
Facts = dict[str, Any]


def page(runs: list[Facts]) -> str:
    """The last run in full, and how long each of them took."""
    last = runs[-1]
    return "\n".join(
        [
            *_head(runs),
            *_versions(last),
            *_install(last),
            *_times(last),
            *_faults(last),
            *_load(last),
            *_parity(last),
            "",
        ]
    )


def _head(runs: list[Facts]) -> Iterator[str]:
    yield "# The same push on the real Argo"
    yield ""
    yield "Made by `make e2e-report` from what `make e2e` measured; to do it again: `KUBECONFIG=… make e2e e2e-report`."
    nodes = ", ".join(f"{node['cpu']} cores and {node['memory']}" for node in runs[-1]["nodes"])
    yield f"Everything below is of the last run; the cluster's nodes: {nodes}."
    yield ""
    yield from _table(
        ("run", "passed", "failed", "took"),
        ((run["started"], run["passed"], run["failed"], f"{run['seconds'] // 60} min") for run in runs),
    )


def _versions(facts: Facts) -> Iterator[str]:
    wanted = yaml.safe_load((ROOT / "versions.yaml").read_text())
    pins = {**wanted["components"], "kaniko": wanted["images"]["kaniko"].rpartition(":")[2]}
    if os.environ.get("NOTE"):
        yield from ("", os.environ["NOTE"])
    yield from ("", "## Components", "")
    rows = []
    for name, found in facts["versions"].items():
        pin = str(pins.get(name, ""))
        same = not pin or found.lstrip("v").startswith(pin.lstrip("v"))
        rows.append((name, found, pin, "" if same else "differs"))
    yield from _table(("component", "here", "versions.yaml", ""), rows)


def _install(facts: Facts) -> Iterator[str]:
    yield from ("", "## From nothing", "")
    times, killed = facts["install"], " and ".join(facts["killed half way"])
    yield (
        f"No Argo, no platform: `yard secrets`, then `yard up --cluster` from the platform's own repository took"
        f" {facts['yard up']} s until Argo CD had everything Healthy, though {killed} were killed half way; again,"
        f" {facts['yard up, again']} s and nothing was changed. With the Git host, upstream's repositories and volumes"
        f" {times['install']} s; the images before {times['images']} s."
    )
    yield f"Argo CD's Applications: {', '.join(facts['applications'])}."


def _times(facts: Facts) -> Iterator[str]:
    columns = {name: facts[name] for name in ("cold", "cached", "solo") if name in facts}
    yield from ("", "## From push to deployed, in seconds", "")
    rows: list[tuple[Any, ...]] = []
    for key, text in (
        ("first step", "push → first step runs"),
        ("total", "push → deployed and healthy"),
        ("kept", "push → verified and kept"),
        ("platform", "of deployed, the platform's part"),
    ):
        rows.append((text, *(column[key] for column in columns.values())))
    pipelines = ("ci", "ct", "release", "verify")
    for pipeline in pipelines:
        names = dict.fromkeys(n.partition("(")[0] for c in columns.values() for n in c["steps"].get(pipeline, {}))
        for name in names:
            found = (_step(column["steps"].get(pipeline, {}), name) for column in columns.values())
            rows.append((f"{pipeline}: {name}", *found))
    titles = {"cold": "cluster, first push", "cached": "cluster, second push", "solo": "solo, first push"}
    yield from _table(("", *(titles[name] for name in columns)), rows)
    yield ""
    yield f"{facts['answer']}."
    yield f"Kaniko's second build, with cached layers, took 1/{facts.get('cache ratio', '?')} of the first one's time."
    yield "On the cluster a step's time includes its pod's: pulled, scheduled, its artifacts fetched and stored."
    yield "Kubernetes cuts times to whole seconds, so that a first step may seem to begin before its push."


def _step(steps: dict[str, float], name: str) -> str:
    found = [seconds for step, seconds in steps.items() if step.partition("(")[0] == name]
    return f"{sum(found):.1f}" if found else ""


def _faults(facts: Facts) -> Iterator[str]:
    yield from ("", "## Faults", "")
    for name, told in facts.get("taken back", {}).items():
        yield (
            f"- Taken back ({name}): {told['seconds']} s from the bad release to the good one verified again;"
            f" of {told['requests']} requests {told['failed']} failed, the slowest took {told['slowest ms']} ms."
        )
    yield f"- Killed in the middle of a push, nothing lost, nothing twice: {', '.join(facts.get('killed', []))}."
    yield f"- A push whose webhook was dead was found by reconcile after {facts['reconcile']['found after']} s."
    yield f"- Network policies: {facts['network policies']}."
    gpu = facts["gpu"]
    yield f"- Training ran on {gpu['node']} once that was labelled as a GPU node; before: {gpu['unschedulable']}"


def _load(facts: Facts) -> Iterator[str]:
    yield from ("", "## A burst", "")
    burst = facts.get("burst")
    if burst is None:
        yield "The run ended before all pushes of the burst did: nothing was measured."
        return
    yield (
        f"{burst['pushes']} pushes to {burst['services']} services at once: all finished after {burst['seconds']} s,"
        f" {burst['per push']} s a push; median {burst['median']} s, slowest {burst['slowest']} s. Meanwhile:"
    )
    yield ""
    rows = ((name, use["MiB"], use["cores"]) for name, use in facts["controllers"].items())
    yield from _table(("pod", "MiB at most", "cores on average"), rows)


def _parity(facts: Facts) -> Iterator[str]:
    yield from ("", "## Parity: the same Workflows on solo and on this cluster", "")
    yield "By `yard parity tests/e2e/parity` (docs/solo.md); counted are fields of the Workflow and of its nodes."
    yield from ("", facts["parity"].strip())


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    head = list(head)
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"


if __name__ == "__main__":
    print(page([json.loads(Path(name).read_text()) for name in sys.argv[1:]]), end="")
