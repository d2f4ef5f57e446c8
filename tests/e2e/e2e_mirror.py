"""Upstream's repositories on the Git host, as a site without internet has them, made from the pinned Go modules."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from e2e_cluster import Cluster

# repository → Go module, and what of it a kustomization may name
REPOSITORIES = {
    "argoproj/argo-cd": "github.com/argoproj/argo-cd/v3",
    "argoproj/argo-workflows": "github.com/argoproj/argo-workflows/v4",
    "argoproj/argo-events": "github.com/argoproj/argo-events",
}
BIG = shutil.ignore_patterns("quick-start*", "dev-tilt")


def fill(cluster: Cluster, components: dict[str, str], folder: Path) -> None:
    """Push each repository's manifests under the tag of its version in versions.yaml."""
    folder.mkdir()
    for name, module in REPOSITORIES.items():
        version = f"v{components[name.rpartition('/')[2]]}"
        said = subprocess.run(
            ["go", "mod", "download", "-json", f"{module}@{version}"], capture_output=True, text=True, cwd=folder
        )
        found = json.loads(said.stdout)
        assert not found.get("Error"), found["Error"]
        clone = folder / name
        shutil.copytree(Path(found["Dir"], "manifests"), clone / "manifests", ignore=BIG, copy_function=shutil.copyfile)
        push(cluster, clone, name, version)


def push(cluster: Cluster, folder: Path, name: str, tag: str) -> None:
    """A folder as the only commit of a repository; its message is a tag where it may be one."""
    _git(folder, "init", "--quiet", "--initial-branch=main")
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "-m", tag)
    names = ["main"]
    if tag.startswith("v"):
        _git(folder, "tag", tag)
        names.append(tag)
    _git(folder, "push", "--quiet", f"{cluster.service('e2e', 'githost', 80)}/{name}.git", *names)


def _git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=mirror", "-c", "user.email=mirror@example.com", "-c", "http.postBuffer=134217728"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
