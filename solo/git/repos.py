"""Bare repositories under `home/git/<owner>/<name>.git`, and the hook that turns pushes into deliveries.

As at GitHub, branches may be forced and deleted (not the default one), and any commit may be fetched by its sha.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from solo.git import hook

_NAME = re.compile(r"(?!.*\.(git|lock)$)[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_SETTINGS = {
    "receive.denyNonFastForwards": "false",
    "receive.denyDeletes": "false",
    "uploadpack.allowAnySHA1InWant": "true",
    "uploadpack.allowFilter": "true",
}


def create_repo(home: Path, full_name: str, *, progress: Sequence[str] = ()) -> Path:
    """Make `owner/name`, or bring an existing one's hook up to date; returns its directory. Raises ValueError.

    `progress` is what a push shows afterwards: a command in whose arguments {repo} {ref} {before} {after} {delivery}
    are replaced.
    """
    path = path_of(home, full_name)
    if not (path / "HEAD").exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _git("init", "--quiet", "--bare", "--initial-branch=main", "--template=", str(path))
    hooks = path / "hooks"
    hooks.mkdir(exist_ok=True)
    # named outright: a user's own core.hooksPath would win over the directory and no push would be delivered
    for key, value in {**_SETTINGS, "core.hooksPath": str(hooks)}.items():
        _git("--git-dir", str(path), "config", key, value)
    _replace(path / hook.CONFIG, json.dumps({"repository": full_name, "url": str(path), "progress": list(progress)}))
    # the signals of a Ctrl-C are ignored from the first instant on, so that no push is lost between ref and outbox
    command = shlex.join([sys.executable, "-I", "-S", str(Path(hook.__file__).resolve())])
    _replace(hooks / "post-receive", f"#!/bin/sh\ntrap '' INT TERM HUP\nexec {command}\n", mode=0o755)
    return path


def repos(home: Path) -> list[str]:
    """`owner/name` of all repositories."""
    found = (home / "git").glob("*/*.git")
    return sorted(f"{path.parent.name}/{path.name.removesuffix('.git')}" for path in found)


def path_of(home: Path, full_name: str) -> Path:
    """Where a repository is or would be. Raises ValueError for a name that could be none."""
    owner, _, name = full_name.partition("/")
    if not (_NAME.fullmatch(owner) and _NAME.fullmatch(name)):
        raise ValueError(f"'{full_name}' is no repository name: write OWNER/NAME with letters, digits and -_.")
    return home.resolve() / "git" / owner / f"{name}.git"


def clone_url(home: Path, full_name: str) -> str:
    """What `git clone` takes."""
    return str(path_of(home, full_name))


def _replace(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that a push that reads it now sees the old one or the new one."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)


def _git(*args: str) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    subprocess.run(["git", *args], check=True, env=env, stdin=subprocess.DEVNULL)
