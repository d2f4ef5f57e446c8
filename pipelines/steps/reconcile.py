"""reconcile: compare the branches' heads with the claims, and send the event that was missed.

GitHub does not deliver a webhook again, and a box behind a firewall gets none: this finds both.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TypedDict

from pipelines.errors import Exit, YardError
from pipelines.registry import Registry, open_registry
from pipelines.steps._git import git, url
from pipelines.steps._releases import BRANCH
from pipelines.steps._step import StepFailedError, step
from pipelines.steps.emit import emit


class Reconciled(TypedDict):
    missed: str


@step
def reconcile() -> Reconciled:
    """Sends `push` for each head without a claim; a second event for a run in flight is stopped by its name and its
    claim.

    A repository that does not answer keeps no other from being looked at. Raises YardError(UNAVAILABLE) for it after
    that.
    """
    registry = open_registry()
    missed: list[str] = []
    failed: list[YardError] = []
    heads = [(entry["repo"], entry["branch"], f"ci/{entry['name']}") for entry in json.loads(os.environ["SERVICES"])]
    heads.append((os.environ["RELEASES_REPO"], BRANCH, "verify/releases"))
    for repo, branch, kind in heads:
        try:
            missed += _look(registry, repo, branch, kind)
        except YardError as error:
            print(f"{repo} {branch}: {error}")
            failed.append(error)
    if failed:
        code = Exit.UNAVAILABLE if any(error.code == Exit.UNAVAILABLE for error in failed) else failed[0].code
        what = f"{len(failed)} of {len(heads)} branches could not be looked at: {failed[0].what}"
        raise StepFailedError(what, where=failed[0].where, results={"missed": json.dumps(missed)}, code=code)
    return {"missed": json.dumps(missed)}


def _look(registry: Registry, repo: str, branch: str, kind: str) -> list[str]:
    """Send the event for this branch if its head was missed; what was sent, for a person."""
    listed = git("ls-remote", url(repo), f"refs/heads/{branch}").split()
    if not listed:
        print(f"{repo} {branch}: no such branch yet")
        return []
    sha = listed[0]
    if registry.claimed(f"{kind}/{sha}-1"):
        print(f"{repo} {branch} {sha[:12]}: known")
        return []
    print(f"{repo} {branch} {sha[:12]}: missed, sending the event")
    delivery = f"reconcile-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    event = {"ref": f"refs/heads/{branch}", "before": "", "after": sha, "deleted": False, "delivery": delivery}
    emit("push", {**event, "repository": {"full_name": repo}})
    return [f"{repo}@{sha}"]
