"""What a run tells others: the next stage (an event on the bus), and the Git host (a commit status)."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

from pipelines.errors import Exit, YardError
from pipelines.registry import open_registry
from pipelines.steps._http import request, secret
from pipelines.steps._step import step

STATES = {"Succeeded": "success", "Failed": "failure", "Error": "error"}


def emit(event: str, body: dict[str, Any]) -> None:
    """Post to EventSource `stages`; HTTP 200 means that the event is on the bus.

    Raises YardError(UNAVAILABLE) if it does not answer, INVALID if it refuses the token or the event.
    """
    url = f"{os.environ['EVENTS_URL']}/{event}"
    answer = request("POST", url, body, token=secret(os.environ.get("STAGES_TOKEN_FILE", "")))
    if answer.status != 200:
        code = Exit.UNAVAILABLE if answer.status == 404 else Exit.INVALID
        raise YardError(
            f"HTTP {answer.status}: {answer.body[:200].decode(errors='replace')}",
            where=f"POST {url}",
            todo="is Secret stages-token the same in all namespaces?",
            code=code,
        )


@step
def built(
    *, service: str, repo: str, branch: str, sha: str, attempt: str, delivery: str, image: str, config: str
) -> None:
    """Start `ct`: the image of this commit is built and its tests passed."""
    body = {"service": service, "repo": repo, "branch": branch, "sha": sha, "attempt": attempt, "delivery": delivery}
    emit("built", {**body, "image": image, "config": config})
    print(f"built: {image}")


@step
def accepted(*, service: str, repo: str, branch: str, sha: str, attempt: str, delivery: str, lock: str) -> None:
    """Start `release`: the gate accepted, the lock is registered."""
    body = {"service": service, "repo": repo, "branch": branch, "sha": sha, "attempt": attempt, "delivery": delivery}
    emit("accepted", {**body, "lock": lock})
    print(f"accepted: {lock}")


@step
def status(
    *, pipeline: str, repo: str, sha: str, state: str, namespace: str, workflow: str, claim: str, owner: str
) -> None:
    """Set the commit status `trainyard/<pipeline>`. Never fails a run: a status is a courtesy, the run is the truth.

    A run that another one's claim `<pipeline>/<claim>` stopped (owner: a Workflow's uid) says nothing: it ends well
    without having done anything, and the commit may have been refused. `claim` is "" for a pipeline without claims.
    """
    base = os.environ.get("GIT_API_URL", "")
    if not base:
        print("no GIT_API_URL: no commit status")
        return
    target = f"{os.environ.get('ARGO_URL', '')}/workflows/{namespace}/{workflow}"
    said = {"description": f"{workflow} {state}"[:140], "target_url": target}
    name = f"trainyard/{pipeline}"
    if os.environ.get("GIT_PROVIDER") == "gitlab":
        url = f"{base}/projects/{quote(repo, safe='')}/statuses/{sha}"
        body = {"state": "success" if state == "Succeeded" else "failed", "name": name, **said}
    else:
        url = f"{base}/repos/{repo}/statuses/{sha}"
        body = {"state": STATES.get(state, "error"), "context": name, **said}
    try:
        if claim and (holder := open_registry().claimed(f"{pipeline}/{claim}")) not in (None, owner):
            print(f"no commit status: run {holder} does this, and tells how it ends")
            return
        token = secret(os.environ.get("GIT_TOKEN_FILE", ""))
        answer = request("POST", url, body, token=token, tries=2)
        print(f"commit status {name}={body['state']}: HTTP {answer.status}")
    except YardError as error:
        print(f"commit status not set: {error}")
