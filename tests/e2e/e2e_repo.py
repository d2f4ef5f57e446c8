"""A clone of a repository on the Git host, to commit and push from as its owner would."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from e2e_cluster import ROOT, Cluster, until


class Repo:
    def __init__(self, cluster: Cluster, name: str, folder: Path) -> None:
        self.cluster, self.name, self.folder = cluster, name, folder
        self.host = cluster.service("e2e", "githost", 80)
        self.git("clone", "--quiet", f"{self.host}/{name}.git", str(folder), cwd=folder.parent)

    def git(self, *words: str, cwd: Path | None = None, check: bool = True) -> str:
        identity = ["-c", "user.name=ann", "-c", "user.email=ann@example.com", "-c", "init.defaultBranch=main"]
        # one body, not chunks: the API server passes it on as it comes
        command = ["git", *identity, "-c", "http.postBuffer=67108864", *words]
        done = subprocess.run(command, cwd=cwd or self.folder, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def example(self, name: str) -> None:
        """The tracked files of an example, as they are."""
        source = ROOT / "examples" / name
        listed = subprocess.run(["git", "ls-files"], cwd=source, capture_output=True, text=True, check=True).stdout
        for path in listed.split():
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / path, target)

    def commit(self, files: dict[str, str | bytes] | None = None, message: str = "Change") -> str:
        """Write the files, commit everything, and return the commit."""
        for name, content in (files or {}).items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def change(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        text = path.read_text()
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new))

    def push(self) -> float:
        """Push what is committed; the time of it."""
        at = time.time()
        self.git("push", "--quiet", "origin", "HEAD:main")
        return at

    def pull(self) -> str:
        """The newest commit of the branch, and the clone is at it."""
        self.git("fetch", "--quiet", "origin")
        self.git("reset", "--quiet", "--hard", "origin/main")
        return self.git("rev-parse", "HEAD")

    def statuses(self, sha: str) -> dict[str, str]:
        """Context → state of the newest commit status of each context."""
        found = json.loads(self.cluster.call(f"{self.host}/repos/{self.name}/commits/{sha}/statuses"))
        return {entry["context"]: entry["state"] for entry in reversed(found)}

    def status(self, sha: str, context: str, patience: float = 120) -> str:
        return until(lambda: self.statuses(sha).get(context, ""), f"status {context} of {sha[:12]}", patience)

    def deliveries(self, sha: str) -> list[dict[str, Any]]:
        """Webhooks that were sent for this commit."""
        found = json.loads(self.cluster.call(f"{self.host}/deliveries"))
        return [entry for entry in found if entry["repo"] == self.name and entry["after"] == sha]

    def hooks(self, *, on: bool) -> None:
        self.cluster.call(f"{self.host}/hooks/{'on' if on else 'off'}", b"")
