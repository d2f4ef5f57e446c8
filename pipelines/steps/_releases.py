"""The releases repository: `services/<service>/<environment>/*.yaml`, one commit a release, trailers that say what it
is.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import Exit, YardError
from pipelines.steps._git import git, url

BRANCH = "main"
REVERTS = "Trainyard-Reverts"  # trailer of a commit that takes a release back; such a commit is never taken back itself
PUSH_TRIES = 10  # lost races with other services' releases; each try starts from the new head


@contextmanager
def releases() -> Iterator[Path]:
    """A clone with history, on its branch (empty for a new repository), removed afterwards."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        clone = Path(directory) / "releases"
        git("init", "--quiet", "--template=", f"--initial-branch={BRANCH}", str(clone))
        git("-C", str(clone), "remote", "add", "origin", url(os.environ["RELEASES_REPO"]))
        update(clone)
        yield clone


def update(clone: Path) -> None:
    """Reset the clone to the head of the branch as it is now."""
    git("-C", str(clone), "fetch", "--quiet", "origin")
    if git("-C", str(clone), "branch", "--remotes", "--list", f"origin/{BRANCH}").strip():
        git("-C", str(clone), "reset", "--quiet", "--hard", f"origin/{BRANCH}")


def commit(clone: Path, title: str, trailers: dict[str, str]) -> str | None:
    """Commit everything as the bot; None if nothing changed."""
    git("-C", str(clone), "add", "--all")
    if not git("-C", str(clone), "status", "--porcelain").strip():
        return None
    message = title + "\n\n" + "\n".join(f"{key}: {value}" for key, value in trailers.items())
    identity = ["-c", f"user.name={os.environ['BOT_NAME']}", "-c", f"user.email={os.environ['BOT_EMAIL']}"]
    git("-C", str(clone), *identity, "-c", "commit.gpgSign=false", "commit", "--quiet", "--message", message)
    return git("-C", str(clone), "rev-parse", "HEAD").strip()


def push(clone: Path) -> bool:
    """Push the branch. False if somebody else was first; YardError(UNAVAILABLE) for any other failure."""
    before = resolve(clone, f"origin/{BRANCH}")
    try:
        git("-C", str(clone), "push", "--quiet", "origin", f"HEAD:refs/heads/{BRANCH}")
    except YardError:
        git("-C", str(clone), "fetch", "--quiet", "origin")
        after = resolve(clone, f"origin/{BRANCH}")
        if before == after:
            raise
        return after == resolve(clone, "HEAD")  # pushed, and only the answer was lost
    return True


def folder(clone: Path, service: str, environment: str) -> Path:
    for word in (service, environment):
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", word):
            raise YardError(f"not a name: {word!r}", code=Exit.INVALID)
    return clone / "services" / service / environment


def record(path: Path) -> dict[str, str]:
    """The data of the release record in a service's folder; {} if there is none."""
    try:
        text = (path / "release.yaml").read_text()
    except FileNotFoundError:
        return {}
    return parse(text, str(path / "release.yaml"))


def parse(text: str, where: str) -> dict[str, str]:
    """The data of a release record. Raises YardError(INVALID): people write to this repository too."""
    try:
        body: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise YardError(f"not YAML: {error}", where=where) from None
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, dict) or not data.get("lock") or not data.get("sha"):
        what = "not a release record: a ConfigMap with `lock` and `sha`"
        raise YardError(what, where=where, todo="repair it, or remove the folder, in the releases repository")
    return {str(key): str(value) for key, value in data.items()}


def last_commit(clone: Path, path: Path) -> str:
    return git("-C", str(clone), "log", "-1", "--format=%H", "--", str(path.relative_to(clone))).strip()


def resolve(clone: Path, revision: str) -> str:
    """The commit that a revision names, "" if the clone has none."""
    return git("-C", str(clone), "rev-parse", "--quiet", "--verify", f"{revision}^{{commit}}", check=False).strip()
