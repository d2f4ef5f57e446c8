"""`kubectl`, as much of it as `yard up`, `verify` and `down` need. It finds the cluster and its credentials by itself.

On the box it is k3s' own; elsewhere the one on PATH, with the cluster that KUBECONFIG names.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipelines.cli.k3s import Machine
from pipelines.errors import Exit, YardError

Object = dict[str, Any]
# not the manager of `yard secrets`: it would take away what that puts into the same Secret
SERVER_SIDE = ("--server-side", "--force-conflicts", "--field-manager=yard-up")


class Kubectl:
    """Methods raise YardError(UNAVAILABLE) with what kubectl said last, unless they say otherwise."""

    def __init__(self, command: list[str], kubeconfig: Path | None = None) -> None:
        self.command = command
        self.environment = {**os.environ, **({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})}

    def ask(self, *args: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Whatever becomes of it."""
        return subprocess.run(
            [*self.command, *args], input=given, capture_output=True, text=True, check=False, env=self.environment
        )

    def run(self, *args: str, given: str | None = None) -> str:
        done = self.ask(*args, given=given)
        if done.returncode:
            raise YardError(last(done.stderr), where=f"kubectl {' '.join(args[:6])}", code=Exit.UNAVAILABLE)
        return done.stdout

    def list(self, *args: str) -> list[Object]:
        """The objects of `kubectl get ARGS`; none of a kind that the cluster does not have."""
        done = self.ask("get", *args, "-o", "json")
        if "the server doesn't have a resource type" in done.stderr:
            return []
        if done.returncode:
            raise YardError(last(done.stderr), where=f"kubectl get {' '.join(args)}", code=Exit.UNAVAILABLE)
        found: list[Object] = json.loads(done.stdout)["items"]
        return found

    def get(self, *args: str) -> Object | None:
        text = self.run("get", *args, "--ignore-not-found", "-o", "json")
        return json.loads(text) if text else None

    def converge(self, manifests: str) -> bool:
        """Apply if anything differs; whether it did. What cannot be compared yet (no namespace, no CRD) is applied."""
        if self.ask("diff", *SERVER_SIDE, "-f", "-", given=manifests).returncode == 0:
            return False
        self.run("apply", *SERVER_SIDE, "-f", "-", given=manifests)
        return True


def find() -> Kubectl:
    """For any machine. Raises YardError(NOT_FOUND) without a kubectl, or without a cluster that it would speak to."""
    machine = Machine()
    on_box = Path(machine.kubectl[0]).exists()
    if not on_box and not shutil.which("kubectl"):
        raise YardError("there is no kubectl", todo="install it, or run this on the box", code=Exit.NOT_FOUND)
    named = os.environ.get("KUBECONFIG") or (Path.home() / ".kube/config").is_file()
    if not named and not on_box:
        raise YardError("no cluster is named", todo="export KUBECONFIG=FILE", code=Exit.NOT_FOUND)
    if not named and not os.access(machine.kubeconfig, os.R_OK):
        raise YardError(
            "may not be read by this user", where=str(machine.kubeconfig), todo="run it as root, or set KUBECONFIG"
        )
    command = ["kubectl"] if shutil.which("kubectl") else machine.kubectl
    return Kubectl(command, None if named else machine.kubeconfig)


def last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if not line.startswith("Warning:")]
    return lines[-1] if lines else "it failed, and said nothing"


def manifests(paths: Iterable[Path]) -> str:
    """Files as one stream."""
    return "\n---\n".join(path.read_text() for path in paths)
