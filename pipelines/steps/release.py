"""release: one commit to the releases repository. The pipeline's only way to production."""

from __future__ import annotations

import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

from pipelines.config import Config
from pipelines.errors import Exit, YardError
from pipelines.manifests import FILES, release_files
from pipelines.registry import Lock, Registry, open_registry
from pipelines.steps import _releases as repository
from pipelines.steps._git import git, url
from pipelines.steps._step import step


class Released(TypedDict):
    outcome: str
    commit: str


@step
def release(
    *, service: str, repo: str, branch: str, sha: str, environment: str, lock: str, workflow: str, owner: str
) -> Released:
    """`outcome` is released, unchanged (this lock is out already) or superseded (a newer commit of the branch is out).

    Raises YardError: UNAVAILABLE if Git does not answer or every push lost its race, INVALID for another service's
    lock or an environment that mlops.yaml does not have, NOT_FOUND if the branch is gone.
    """
    registry = open_registry()
    locked = locked_for(registry, lock, service, repo, sha)
    app = json.loads(registry.get_blob(locked.versions["app"].digest))
    config = Config.model_validate(app["config"])
    if environment not in config.deploy:
        raise YardError(f"no environment {environment!r}", where="mlops.yaml: deploy", code=Exit.INVALID)
    images = {"pipelines": os.environ["PIPELINES_IMAGE"], "serving": os.environ["SERVING_IMAGE"]}
    with repository.releases() as clone:
        for _ in range(repository.PUSH_TRIES):
            path = repository.folder(clone, service, environment)
            old = repository.record(path)
            if old.get("lock") == lock and old.get("workflow-uid") != owner:
                return _done("unchanged", repository.last_commit(clone, path), f"{lock} is out already")
            if old.get("workflow-uid") == owner:  # this run pushed, then died before it could say so
                return _done("released", repository.last_commit(clone, path), "pushed by an earlier try of this run")
            if old and _newer(repo, branch, old, locked):
                later = f"{old['sha'][:12]}, attempt {old.get('attempt', '1')},"
                return _done("superseded", "", f"{later} is newer than {sha[:12]} and is out already")
            data = _record(locked, lock, environment, workflow, owner, old)
            path.mkdir(parents=True, exist_ok=True)
            files = release_files(locked, lock, config, environment, images=images, record=data)
            for name in FILES:
                if name in files:
                    (path / name).write_text(files[name])
                else:
                    (path / name).unlink(missing_ok=True)
            model = locked.versions["model"]
            made = repository.commit(
                clone,
                f"{service} {environment}: model v{model.number} from {repo}@{sha[:12]}",
                {"Trainyard-Service": f"{service}/{environment}", "Trainyard-Sha": sha, "Trainyard-Lock": lock},
            )
            if made and repository.push(clone):
                return _done("released", made, f"{service} {environment} → model v{model.number}")
            repository.update(clone)
    raise YardError("every push lost its race", where=os.environ["RELEASES_REPO"], code=Exit.UNAVAILABLE)


def locked_for(registry: Registry, lock: str, service: str, repo: str, sha: str) -> Lock:
    """The lock, if it is of this commit. Raises YardError: INVALID if it is not, UNAVAILABLE, NOT_FOUND."""
    locked = registry.get_lock(lock)
    if (locked.service, locked.repo, locked.sha) != (service, repo, sha):
        what = f"{lock} is of {locked.service} at {locked.repo}@{locked.sha[:12]}, not of {service} at {sha[:12]}"
        raise YardError(what, where="parameter lock")
    return locked


def _done(outcome: str, commit: str, why: str) -> Released:
    print(f"{outcome}: {why} {commit}".rstrip())
    return {"outcome": outcome, "commit": commit}


def _newer(repo: str, branch: str, old: dict[str, str], lock: Lock) -> bool:
    """Whether what is out supersedes mine: a later attempt of the same commit, a descendant of it, or a commit that is
    still on the branch when mine was rewritten away.
    """
    released, mine = old["sha"], lock.sha
    if released == mine:
        attempt = old.get("attempt", "")
        return attempt.isdecimal() and int(attempt) > lock.attempt
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        clone = Path(directory)
        git("init", "--quiet", "--template=", "--bare", str(clone))
        head = f"refs/heads/{branch}"
        try:
            git("-C", str(clone), "fetch", "--quiet", "--no-tags", url(repo), f"{head}:{head}")
        except YardError as error:
            if "find remote ref" in error.what:  # git's words for a branch that the host does not have
                todo = "nothing is released from a branch that was deleted: push it again"
                raise YardError(f"no branch {branch!r}", where=url(repo), todo=todo, code=Exit.NOT_FOUND) from None
            raise

        def on_branch(sha: str) -> bool:
            return bool(git("-C", str(clone), "branch", "--contains", sha, check=False).strip())

        if not on_branch(mine):
            return on_branch(released)
        ahead = git("-C", str(clone), "rev-list", "--ancestry-path", f"{mine}..{released}", check=False)
        return bool(ahead.strip())


def _record(
    lock: Lock, digest: str, environment: str, workflow: str, owner: str, old: dict[str, str]
) -> dict[str, str]:
    """The release record: what explains this Deployment, in Git, in the cluster and in Argo CD's view alike."""
    return {
        "service": lock.service,
        "environment": environment,
        "repo": lock.repo,
        "sha": lock.sha,
        "attempt": str(lock.attempt),
        "image": lock.image,
        "lock": digest,
        "versions": json.dumps({axis: f"{v.name}/v{v.number}" for axis, v in lock.versions.items()}, sort_keys=True),
        "seed": str(lock.seed),
        "params-digest": lock.params_digest,
        "metrics": json.dumps(lock.metrics, sort_keys=True),
        "thresholds": json.dumps(lock.thresholds, sort_keys=True),
        "decision": json.dumps(lock.decision, sort_keys=True),
        "workflow": workflow,
        "workflow-uid": owner,
        "released-at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "released-by": os.environ["BOT_NAME"],
        "previous": old.get("lock", ""),
    }
