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
    host = cluster.service("e2e", "githost", 80)
    for name, module in REPOSITORIES.items():
        version = f"v{components[name.rpartition('/')[2]]}"
        said = subprocess.run(
            ["go", "mod", "download", "-json", f"{module}@{version}"], capture_output=True, text=True, cwd=folder
        )
        found = json.loads(said.stdout)
        assert not found.get("Error"), found["Error"]
        clone = folder / name
        shutil.copytree(Path(found["Dir"], "manifests"), clone / "manifests", ignore=BIG, copy_function=shutil.copyfile)
        _git(clone, "init", "--quiet", "--initial-branch=main")
        _git(clone, "add", "--all")
        _git(clone, "commit", "--quiet", "-m", version)
        _git(clone, "tag", version)
        _git(clone, "push", "--quiet", f"{host}/{name}.git", "main", version)


def _git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=mirror", "-c", "user.email=mirror@example.com", "-c", "http.postBuffer=134217728"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
