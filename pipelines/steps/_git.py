"""Git for the steps: the real `git`, quiet, never asking, with the token handed over by environment only."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from pathlib import Path

from pipelines.errors import Exit, YardError
from pipelines.steps._http import secret


def url(repo: str) -> str:
    """The address of "owner/name" on the Git host of ConfigMap `endpoints`."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or ".." in repo:
        raise YardError(f"not an owner/name: {repo!r}", where="parameter repo")
    return f"{os.environ['GIT_URL'].rstrip('/')}/{repo}.git"


def git(*args: str, cwd: Path | None = None, check: bool = True) -> str:
    """Run git and return what it printed.

    Raises YardError(UNAVAILABLE) if it failed (the host did not answer, most often).
    """
    env = {
        **os.environ,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "LC_ALL": "C",
        # a host that goes silent is one that does not answer
        "GIT_HTTP_LOW_SPEED_LIMIT": "1000",
        "GIT_HTTP_LOW_SPEED_TIME": "60",
        **_authorization(),
    }
    done = subprocess.run(["git", *args], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith(("fatal:", "error:", "remote: error"))]
        verb = next((word for word in args if not word.startswith(("-", "/")) and "=" not in word), "")
        raise YardError(
            f"git {verb}: {lines[0] if lines else f'exit code {done.returncode}: {done.stderr.strip()}'}",
            where=url_of(args),
            todo="does the repository exist, and may this token read it?",
            code=Exit.UNAVAILABLE,
        )
    return done.stdout


def url_of(args: tuple[str, ...]) -> str:
    return next((arg for arg in args if "://" in arg), "")


def _authorization() -> dict[str, str]:
    """The token as a header set by environment: neither the command line nor any file shows it."""
    token = secret(os.environ.get("GIT_TOKEN_FILE", ""))
    if not token or not os.environ["GIT_URL"].startswith("https://"):
        return {}
    basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{os.environ['GIT_URL'].rstrip('/')}/.extraHeader",
        "GIT_CONFIG_VALUE_0": f"Authorization: Basic {basic}",
    }
