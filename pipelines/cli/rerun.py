"""`yard rerun`: a new attempt for a commit, on purpose. Claims stop second runs; a new number is a new claim."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from datetime import UTC, datetime

from pipelines import platform
from pipelines.cli.addresses import Addresses, settings
from pipelines.cli.argo import Argo
from pipelines.cli.runs import PIPELINES, all_runs, full_sha
from pipelines.errors import Exit, YardError

PATIENCE = 30.0  # seconds for the Git host to say whether it has a commit


def rerun(addresses: Addresses, text: str, service: str) -> None:
    """Start `ci` again with the next attempt. Raises YardError(NOT_FOUND) if no service is known to own the commit."""
    argo = Argo(addresses)
    sha = full_sha(argo, text)
    earlier = [run for run in all_runs(argo, sha=sha) if run.pipeline != "verify" and service in ("", run.service)]
    if earlier:
        known = earlier[0].parameters
        name, repo, branch = known["service"], known["repo"], known["branch"]
    else:
        entry = _registered(service)
        name, repo, branch = entry.name, entry.repo, entry.branch
        _known_to_git(f"{addresses.environment['GIT_URL']}/{repo}.git", sha)
    attempt = _next(addresses, name, sha, max((run.attempt for run in earlier), default=1))
    slug = re.sub(r"[^a-z0-9]+", "-", repo.lower()).strip("-")
    delivery = f"rerun-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    parameters = {"service": name, "repo": repo, "branch": branch, "sha": sha}
    parameters |= {"attempt": str(attempt), "delivery": delivery}
    labels = {"trainyard/pipeline": "ci", "trainyard/service": name, "trainyard/sha": sha}
    made = argo.submit(
        PIPELINES["ci"],
        "ci",
        {
            "name": f"ci-{slug}-{sha[:12]}-{attempt}",
            "parameters": [f"{key}={value}" for key, value in parameters.items()],
            "labels": ",".join(f"{key}={value}" for key, value in labels.items()),
            "annotations": f"trainyard/delivery={delivery},trainyard/repo={repo}",
        },
    )
    print(f"{made['metadata']['name']}: attempt {attempt} of {repo}@{sha[:12]}")
    print(f"  → yard watch {sha[:12]}")


def _known_to_git(url: str, sha: str) -> None:
    """Raises YardError(NOT_FOUND) if the Git host says that it has no such commit; if it says nothing, `ci` will."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(["git", "init", "--quiet", "--bare", folder], env=environment, check=True)
        done = subprocess.run(
            ["git", "-C", folder, "fetch", "--quiet", "--depth=1", "--no-tags", url, sha],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if "not our ref" in done.stderr:
            todo = "was it pushed? `yard runs` shows what ran"
            raise YardError(f"no commit {sha[:12]}", where=url, todo=todo, code=Exit.NOT_FOUND)


def _next(addresses: Addresses, service: str, sha: str, highest: int) -> int:
    """The first attempt that nobody has claimed: claims outlive the runs that are still listed."""
    from pipelines.registry import open_registry

    registry = open_registry(addresses.environment)
    attempt = highest + 1
    while registry.claimed(f"ci/{service}/{sha}-{attempt}"):
        attempt += 1
    return attempt


def _registered(service: str) -> platform.Service:
    found = settings()
    services = found.services if found else []
    chosen = [entry for entry in services if service in ("", entry.name)]
    if len(chosen) != 1:
        names = ", ".join(entry.name for entry in services)
        what = f"no service {service!r}" if service else "no run of this commit is left, so its service is not known"
        raise YardError(what, todo=f"--service, one of {names}", code=Exit.NOT_FOUND)
    return chosen[0]
