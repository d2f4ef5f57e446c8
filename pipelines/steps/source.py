"""checkout and validate: the exact commit, and the contract file it carries."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TypedDict

from pipelines.errors import Exit, YardError
from pipelines.steps._git import git, url
from pipelines.steps._step import InputPath, OutputPath, step


@step
def checkout(*, repo: str, sha: str, source: OutputPath) -> None:
    """Put the tree of exactly this commit into `source`, without `.git`.

    Raises YardError(NOT_FOUND) if the host no longer has the commit.
    """
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", sha):
        raise YardError(f"not a full commit id: {sha!r}", where="parameter sha")
    source.mkdir(parents=True)
    git("init", "--quiet", "--template=", str(source))
    try:
        git("-C", str(source), "fetch", "--quiet", "--depth=1", "--no-tags", url(repo), sha)
    except YardError as error:
        if "not our ref" in error.what:  # git's words for a commit that the host does not have
            raise YardError("the host has no such commit", where=f"{url(repo)} {sha}", code=Exit.NOT_FOUND) from None
        raise
    git("-C", str(source), "checkout", "--quiet", "--detach", "FETCH_HEAD")
    got = git("-C", str(source), "rev-parse", "HEAD").strip()
    if got != sha:
        raise YardError(f"the host answered with commit {got}", where=f"{url(repo)} {sha}", code=Exit.NOT_FOUND)
    shutil.rmtree(source / ".git")
    print(f"{repo} at {sha}: {sum(1 for path in source.rglob('*') if path.is_file())} files")


class Validated(TypedDict):
    config: str
    dockerfile: str
    test_command: str
    test_timeout: str


@step
def validate_config(*, source: InputPath, service: str) -> Validated:
    """Check `mlops.yaml` and what it names. Raises YardError(INVALID) with file, line and field."""
    from pipelines import config  # checkout starts in a third of the time without it

    found = config.load(source / "mlops.yaml")
    if found.service != service:
        raise YardError(
            f"this repository is registered as service {service!r}, the file says {found.service!r}",
            where="mlops.yaml: service",
            todo=f"write `service: {service}`, or change `services:` in the platform's platform.yaml",
        )
    _inside(source, found.dockerfile)
    print(f"mlops.yaml is valid: service {found.service}, data {found.data.name}, seed {found.seed}")
    return {
        "config": found.model_dump_json(),
        "dockerfile": found.dockerfile,
        "test_command": found.test.command,
        "test_timeout": str(found.test.seconds),
    }


def _inside(source: Path, name: str) -> None:
    path = (source / name).resolve()
    if not path.is_relative_to(source.resolve()):
        raise YardError(f"{name!r} is outside the repository", where="mlops.yaml: dockerfile")
    if not path.is_file():
        raise YardError(f"there is no file {name!r}", where="mlops.yaml: dockerfile", todo="add it to the repository")
