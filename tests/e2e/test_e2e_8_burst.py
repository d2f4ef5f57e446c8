"""Twenty pushes to several services at once: all finish, none is lost; and what the controllers take meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from datetime import datetime
from typing import Any

from e2e_cluster import END, Cluster, Object, phase, until
from e2e_story import contract
from push_harness import service

PUSHES = 20
SERVICES = ("plums", "pears", "figs")
CONTROLLERS = ("argo/workflow-controller", "argo/argo-server", "argo-events/", "argocd/", "storage/storage")


def test_a_burst_of_pushes_finishes_and_loses_none(cluster: Cluster, repos: Any, facts):
    used = Usage(cluster)
    begun = time.time()
    pushed: list[tuple[str, str, float]] = []
    for index in range(PUSHES):
        name = SERVICES[index % len(SERVICES)]
        files = {**service(contract(name)), "note": f"{begun} {index}"}
        sha = repos(name).commit(files, f"Burst {index}")
        pushed.append((name, sha, repos(name).push()))

    def open_runs() -> list[str]:
        left = []
        for _, sha, _ in pushed:
            runs = cluster.runs(sha=sha)
            found = {run["metadata"]["labels"]["trainyard/pipeline"]: phase(run) for run in runs}
            if found.get("release") not in END and not any(p in ("Failed", "Error") for p in found.values()):
                left.append(sha)
        return left

    until(lambda: not open_runs(), "every release to end", 3600, 5)
    took = []
    for name, sha, at in pushed:
        runs = cluster.runs(sha=sha)
        count = Counter(run["metadata"]["labels"]["trainyard/pipeline"] for run in runs)
        assert count == {"ci": 1, "ct": 1, "release": 1}, f"{name} {sha}: {count}"
        assert {phase(run) for run in runs} == {"Succeeded"}
        end = max(datetime.fromisoformat(run["status"]["finishedAt"]).timestamp() for run in runs)
        took.append(end - at)
    last = {name: sha for name, sha, _ in pushed}
    for name, sha in last.items():

        def serves(name: str = name, sha: str = sha) -> bool:
            record = cluster.get("configmaps", f"{name}-dev", f"{name}-release")
            status = (cluster.get("applications", "argocd", f"{name}-dev") or {}).get("status", {})
            return bool(record) and record["data"]["sha"] == sha and status["health"]["status"] == "Healthy"

        until(serves, f"{name} to serve the last push")
    took.sort()
    total = time.time() - begun
    facts["burst"] = {
        "pushes": PUSHES,
        "services": len(SERVICES),
        "seconds": round(total),
        "per push": round(total / PUSHES, 1),
        "median": round(took[len(took) // 2]),
        "slowest": round(took[-1]),
    }
    facts["controllers"] = used.stop()


class Usage:
    """Memory and CPU of the controllers' pods while it runs, as their kubelets see them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.ending = cluster, threading.Event()
        self.memory: dict[str, int] = {}
        self.first: dict[str, int] = {}
        self.last: dict[str, int] = {}
        self.begun = time.time()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.ending.wait(5):
            for node in self.cluster.list("nodes"):
                for pod in self._pods(node["metadata"]["name"]):
                    self._note(pod)

    def _pods(self, node: str) -> list[Object]:
        found: list[Object] = json.loads(self.cluster.call(f"api/v1/nodes/{node}/proxy/stats/summary"))["pods"]
        return found

    def _note(self, pod: Object) -> None:
        ref = pod["podRef"]
        name = f"{ref['namespace']}/{ref['name']}"
        if not name.startswith(CONTROLLERS):
            return
        self.memory[name] = max(self.memory.get(name, 0), pod.get("memory", {}).get("workingSetBytes", 0))
        used = pod.get("cpu", {}).get("usageCoreNanoSeconds", 0)
        self.first.setdefault(name, used)
        self.last[name] = used

    def stop(self) -> dict[str, Any]:
        """Pod → MiB at most, and cores on average."""
        self.ending.set()
        self.thread.join()
        took = time.time() - self.begun
        return {
            name: {"MiB": self.memory[name] >> 20, "cores": round((self.last[name] - self.first[name]) / 1e9 / took, 3)}
            for name in sorted(self.memory)
        }
