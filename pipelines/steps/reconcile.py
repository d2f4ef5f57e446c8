"""reconcile: compare the branches' heads with the claims, and send the event that was missed.

GitHub does not deliver a webhook again, and a box behind a firewall gets none: this finds both.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TypedDict

from pipelines.registry import open_registry
from pipelines.steps._git import git, url
from pipelines.steps._releases import BRANCH
from pipelines.steps._step import step
from pipelines.steps.emit import emit


class Reconciled(TypedDict):
    missed: str


@step
def reconcile() -> Reconciled:
    """Sends `push` for each head without a claim; a second event for a run in flight is stopped by its name and its
    claim.
    """
    registry = open_registry()
    missed = []
    heads = [(entry["repo"], entry["branch"], f"ci/{entry['name']}") for entry in json.loads(os.environ["SERVICES"])]
    heads.append((os.environ["RELEASES_REPO"], BRANCH, "verify/releases"))
    for repo, branch, kind in heads:
        listed = git("ls-remote", url(repo), f"refs/heads/{branch}").split()
        if not listed:
            print(f"{repo} {branch}: no such branch yet")
            continue
        sha = listed[0]
        if registry.claimed(f"{kind}/{sha}-1"):
            print(f"{repo} {branch} {sha[:12]}: known")
            continue
        print(f"{repo} {branch} {sha[:12]}: missed, sending the event")
        delivery = f"reconcile-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        event = {"ref": f"refs/heads/{branch}", "before": "", "after": sha, "deleted": False, "delivery": delivery}
        emit("push", {**event, "repository": {"full_name": repo}})
        missed.append(f"{repo}@{sha}")
    return {"missed": json.dumps(missed)}
