"""claim: the create-once marker that makes a run the only one for its commit."""

from __future__ import annotations

from typing import TypedDict

from pipelines.registry import open_registry
from pipelines.steps._step import step


class Claimed(TypedDict):
    claimed: str


@step
def claim(*, pipeline: str, service: str, sha: str, attempt: str, owner: str) -> Claimed:
    """`claimed` is "true" for the first owner (a Workflow's uid) of this commit and attempt, and again for the same
    owner.
    """
    mine = open_registry().claim(f"{pipeline}/{service}/{sha}-{attempt}", owner)
    outcome = "claimed" if mine else "already done by another run"
    print(f"{pipeline} of {service} at {sha[:12]}, attempt {attempt}: {outcome}")
    return {"claimed": "true" if mine else "false"}
