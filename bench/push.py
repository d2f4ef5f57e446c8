"""From `git push` to deployed, in all and per step, and the platform's part of it.

The platform's part is the time in which none of the user's own steps ran (build, test, ingest, process, train). Two
pushes: a cold one (nothing built) and one that changes a line of code (the packages' layer is cached).
"""

from __future__ import annotations

import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.machine import ROOT, Machine

USER = ("build", "test", "ingest", "process", "train-cpu", "train-gpu")


def run(machine: Machine, folder: Path) -> None:
    """Print both pushes."""
    work = folder / "digits"
    _git(folder, "clone", "--quiet", f"{machine.endpoints['GIT_URL']}/acme/digits.git", str(work))
    archive = subprocess.run(
        ["git", "ls-files", "examples/digits"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in archive.stdout.splitlines():
        target = work / Path(name).relative_to("examples/digits")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    print(f"\nsolo started in {machine.start:.2f} s")
    _push(machine, work, "cold", 1)
    code = work / "digits/train.py"
    code.write_text(code.read_text() + "# a change\n")
    _push(machine, work, "cached", 2)


def _push(machine: Machine, work: Path, title: str, count: int) -> None:
    _git(work, "add", "--all")
    _git(work, "-c", "user.name=b", "-c", "user.email=b@b", "commit", "--quiet", "-m", title)
    sha = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=work, capture_output=True, text=True, check=True
    ).stdout.strip()
    begun = time.time()
    _git(work, "push", "--quiet", "origin", "HEAD:main")
    verify = machine.ended("trainyard/pipeline=verify", count)
    runs = [*machine.ended(f"trainyard/sha={sha}", 3), max(verify, key=lambda item: str(item["status"]["startedAt"]))]
    pods = sorted(
        (_seconds(node["startedAt"]), _seconds(node["finishedAt"]), node)
        for item in runs
        for node in item["status"]["nodes"].values()
        if node["type"] == "Pod" and not node["displayName"].startswith("status")
    ) if runs else []  # fmt: skip
    user = _covered([(start, end) for start, end, node in pods if _task(node) in USER])
    deployed = max(end for _, end, node in pods if _task(node) == "wait") - begun
    verified = max(end for _, end, _ in pods) - begun
    print(f"\n{title}: the user's own steps {user:.2f} s")
    print(f"  push → deployed and healthy {deployed:6.2f} s, the platform's part {deployed - user:5.2f} s")
    print(f"  push → verified and kept    {verified:6.2f} s, the platform's part {verified - user:5.2f} s")
    for start, end, node in pods:
        mine = "user" if _task(node) in USER else ""
        print(f"  {start - begun:7.2f} s  {node['displayName']:<16}{end - start:7.2f} s  {mine}")


def _task(node: dict[str, Any]) -> str:
    return str(node["displayName"]).split("(")[0]


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)
