"""The cluster that KUBECONFIG names, as the end-to-end test sees it: `kubectl` to change things, its API to look.

All of it goes through one `kubectl proxy` on loopback: objects, logs, and the services in the cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[2]
YARD = str(Path(sys.executable).with_name("yard"))
END = ("Succeeded", "Failed", "Error")
PATIENCE = 300.0  # seconds for anything to happen
GROUPS = {
    "workflows": "apis/argoproj.io/v1alpha1",
    "workflowtemplates": "apis/argoproj.io/v1alpha1",
    "applications": "apis/argoproj.io/v1alpha1",
    "eventbus": "apis/argoproj.io/v1alpha1",
    "eventsources": "apis/argoproj.io/v1alpha1",
    "sensors": "apis/argoproj.io/v1alpha1",
    "customresourcedefinitions": "apis/apiextensions.k8s.io/v1",
    "deployments": "apis/apps/v1",
    "statefulsets": "apis/apps/v1",
}

T = TypeVar("T")
Object = dict[str, Any]


def until(look: Callable[[], T], why: str, patience: float = PATIENCE, pause: float = 0.5) -> T:
    """Call `look` until it returns something true, and return that."""
    deadline = time.monotonic() + patience
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {patience:.0f} s for {why}"
        time.sleep(pause)


class Cluster:
    def __init__(self) -> None:
        self.proxy = subprocess.Popen(
            ["kubectl", "proxy", "--port=0", "--address=127.0.0.1"],  # without --accept-hosts it answers loopback only
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.proxy.stdout is not None
        line = self.proxy.stdout.readline()
        found = re.search(r"127\.0\.0\.1:\d+", line)
        assert found, f"kubectl proxy: {line}"
        self.url = f"http://{found[0]}"

    def close(self) -> None:
        self.proxy.terminate()
        self.proxy.wait(10)

    # -- change

    def kubectl(self, *args: str, given: str | None = None, check: bool = True) -> str:
        done = subprocess.run(["kubectl", *args], input=given, capture_output=True, text=True, check=False, timeout=600)
        assert not check or done.returncode == 0, f"kubectl {' '.join(args)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, *what: str | Path | Object) -> None:
        """Server-side: YAML files and folders (a kustomization as one), or objects."""
        flags = ("--server-side", "--force-conflicts", "--field-manager=trainyard-e2e")
        objects = [entry for entry in what if isinstance(entry, dict)]
        if objects:
            self.kubectl(
                "apply", *flags, "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
            )
        for path in (Path(entry) for entry in what if not isinstance(entry, dict)):
            kind = ["-k", str(path)] if (path / "kustomization.yaml").exists() else ["-R", "-f", str(path)]
            self.kubectl("apply", *flags, *kind)

    def rollout(self, namespace: str, *names: str, patience: int = 180) -> None:
        for name in names:
            self.kubectl("-n", namespace, "rollout", "status", name, f"--timeout={patience}s")

    def kill_pods(self, namespace: str, selector: str) -> list[str]:
        """As a node that dies would: at once."""
        names = [pod["metadata"]["name"] for pod in self.list("pods", namespace, selector)]
        assert names, f"no pod {selector} in {namespace}"
        self.kubectl("-n", namespace, "delete", "pod", *names, "--grace-period=0", "--force", "--wait=false")
        return names

    def run(
        self,
        namespace: str,
        name: str,
        image: str,
        command: list[str],
        *,
        labels: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
        files: dict[str, str] | None = None,
    ) -> tuple[bool, str]:
        """A pod that runs one command, with `files` in /given; whether it ended well, and what it printed."""
        meta = {"name": name, "namespace": namespace, "labels": labels or {}}
        container = {
            "name": "main",
            "image": image,
            "command": command,
            "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
            "volumeMounts": [{"name": "given", "mountPath": "/given"}],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {  # as namespaces that are `restricted` want it
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "given", "configMap": {"name": name}}],
        }
        self.kubectl("-n", namespace, "delete", "pod", name, "--ignore-not-found")
        self.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": files or {}})
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})

        def look() -> str:
            found = (self.get("pods", namespace, name) or {}).get("status", {}).get("phase", "")
            return found if found in ("Succeeded", "Failed") else ""

        end = until(look, f"pod {name} in {namespace}", 120)
        said = self.kubectl("-n", namespace, "logs", name)
        self.kubectl("-n", namespace, "delete", "pod,configmap", name)
        return end == "Succeeded", said

    # -- look

    def call(self, path: str, body: Any = None, method: str = "", headers: dict[str, str] | None = None) -> bytes:
        """One request to the API server (a path) or anywhere (a URL). Raises urllib.error.HTTPError."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            path if "://" in path else f"{self.url}/{path.lstrip('/')}",
            data,
            {"Content-Type": "application/json", **(headers or {})},
            method=method or ("GET" if data is None else "POST"),
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    def get(self, plural: str, namespace: str, name: str) -> Object | None:
        """An object, None if it is not there."""
        try:
            return json.loads(self.call(self._path(plural, namespace, name)))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def list(self, plural: str, namespace: str = "", selector: str = "") -> list[Object]:
        query = f"?labelSelector={urllib.request.quote(selector)}" if selector else ""
        try:
            return json.loads(self.call(self._path(plural, namespace) + query))["items"]
        except urllib.error.HTTPError as error:
            if error.code == 404:  # a kind that the cluster does not have
                return []
            raise

    def _path(self, plural: str, namespace: str, name: str = "") -> str:
        place = f"namespaces/{namespace}/" if namespace else ""
        return f"{GROUPS.get(plural, 'api/v1')}/{place}{plural}" + (f"/{name}" if name else "")

    def service(self, namespace: str, name: str, port: int, *, pod: bool = False) -> str:
        """The address of a Service (or a pod), through the API server."""
        kind = "pods" if pod else "services"
        return f"{self.url}/api/v1/namespaces/{namespace}/{kind}/{name}:{port}/proxy"

    @contextlib.contextmanager
    def forward(self, namespace: str, target: str, port: int) -> Iterator[str]:
        """The address of a port-forward: for requests whose Authorization the API server would keep for itself."""
        process = subprocess.Popen(
            ["kubectl", "-n", namespace, "port-forward", "--address=127.0.0.1", target, f":{port}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"127\.0\.0\.1:\d+", line)
            assert found, f"kubectl port-forward {target}: {line}"
            yield f"http://{found[0]}"
        finally:
            process.terminate()
            process.wait(10)

    # -- runs

    def runs(self, **labels: str) -> list[Object]:
        """Workflows with these labels (`pipeline`, `service`, `sha`) in all namespaces, oldest first."""
        selector = ",".join(f"trainyard/{key}={value}" for key, value in labels.items())
        found = self.list("workflows", "", selector)
        return sorted(found, key=lambda run: run["metadata"]["creationTimestamp"])

    def ended(self, patience: float = 900, **labels: str) -> Object:
        """The first Workflow with these labels, once it has ended."""

        def look() -> Object | None:
            return next((run for run in self.runs(**labels) if phase(run) in END), None)

        return until(look, f"the end of {labels}", patience)

    def yard(
        self, *words: str, check: bool = True, who: str = "argo:admin", **env: str
    ) -> subprocess.CompletedProcess[str]:
        """The command as a user runs it against this cluster: `who` is one of the accounts of the Argo Server."""
        namespace, _, name = who.partition(":")
        token = self.kubectl("-n", namespace, "create", "token", name, "--duration=1h").strip()
        with self.forward("argo", "service/argo-server", 2746) as server:
            variables = {
                **os.environ,
                "ARGO_SERVER": server,
                "ARGO_TOKEN": f"Bearer {token}",
                "KUBERNETES_URL": self.url,
                "TRAINYARD_PLATFORM": str(ROOT / "tests/e2e/platform.yaml"),
                **env,
            }
            done = subprocess.run(
                [YARD, *words], env=variables, capture_output=True, text=True, check=False, timeout=600
            )
        assert not check or done.returncode == 0, f"yard {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done

    # -- what a person would ask for next

    def explain(self) -> str:
        """The newest runs that did not end well with the log of the node that failed, pods that are not well, Argo
        CD's view, the last warnings.
        """
        told = [self.kubectl("get", "workflows", "-A", "--sort-by=.metadata.creationTimestamp", check=False)]
        told.append(self.kubectl("get", "pods", "-A", "--field-selector=status.phase!=Succeeded", check=False))
        told.append(self.kubectl("get", "applications", "-A", check=False))
        for run in [run for run in self.runs() if phase(run) not in ("Succeeded", "")][-3:]:
            told.append(self._explain_run(run))
        events = self.kubectl(
            "get", "events", "-A", "--sort-by=.lastTimestamp", "--field-selector=type=Warning", check=False
        )
        told.append("\n".join(events.splitlines()[-15:]))
        return "\n\n".join(text.strip() for text in told)

    def _explain_run(self, run: Object) -> str:
        meta, lines = run["metadata"], []
        lines.append(f"== {meta['namespace']}/{meta['name']}: {phase(run)} {run['status'].get('message', '')}")
        for entry in nodes(run):
            if entry["type"] == "Pod":
                lines.append(f"   {entry['displayName']:<14} {entry['phase']:<10} {entry.get('message', '')}")
        for entry in nodes(run):
            if entry["type"] == "Pod" and entry["phase"] in ("Failed", "Error", "Pending", "Running"):
                said = self.yard("logs", meta["name"], "--step", entry["displayName"].partition("(")[0], check=False)
                lines.append(
                    f"-- log of {entry['displayName']}\n" + "\n".join((said.stdout + said.stderr).splitlines()[-20:])
                )
        return "\n".join(lines)


def phase(run: Object) -> str:
    return str(run.get("status", {}).get("phase", ""))


def nodes(run: Object) -> list[Object]:
    """A Workflow's nodes in the order in which they started."""
    found = run.get("status", {}).get("nodes") or {}
    return sorted(found.values(), key=lambda node: node.get("startedAt") or "")


def node(run: Object, name: str) -> Object:
    """The node of a task (the one that stands for its tries, if it was tried more than once)."""
    found = [entry for entry in nodes(run) if entry["displayName"] == name]
    assert found, f"{run['metadata']['name']} has no node {name}: {[entry['displayName'] for entry in nodes(run)]}"
    return found[0]


def output(run: Object, task: str, name: str) -> str:
    """An output parameter of a task."""
    parameters = node(run, task).get("outputs", {}).get("parameters", [])
    return next(str(entry["value"]) for entry in parameters if entry["name"] == name)


def require() -> None:
    """SystemExit with what lacks: a cluster, `kubectl`."""
    if not shutil.which("kubectl"):
        sys.exit("make e2e: no kubectl on PATH")
    if not os.environ.get("KUBECONFIG") and not (Path.home() / ".kube/config").exists():
        sys.exit("make e2e: set KUBECONFIG to a cluster that may be written to")
