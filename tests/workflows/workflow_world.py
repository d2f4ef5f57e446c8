"""A Workflow with a scripted kubelet: tests say what became of each Pod, and see what the controller makes of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

from solo.workflows import Result, operate

START = datetime(2026, 1, 1, tzinfo=UTC)
FINAL = ("Succeeded", "Failed", "Error")


def manifest(text: str) -> list[dict[str, Any]]:
    """The objects in a YAML text, as the Store would have them."""
    objects = [obj for obj in yaml.safe_load_all(text) if obj]
    for obj in objects:
        obj.setdefault("apiVersion", "argoproj.io/v1alpha1")
        obj.setdefault("kind", "Workflow")
        meta = obj.setdefault("metadata", {})
        meta.setdefault("name", "wf")
        meta |= {"namespace": "argo", "uid": f"uid-{meta['name']}", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return json.loads(json.dumps(objects))


class World:
    """One Workflow, the WorkflowTemplates around it, its Pods, and the time."""

    def __init__(self, text: str) -> None:
        *others, self.workflow = manifest(text)
        self.templates = {obj["metadata"]["name"]: obj for obj in others}
        self.pods: dict[str, dict[str, Any]] = {}
        self.now = START
        self.wake_at: datetime | None = None
        self.step()

    def step(self, seconds: float = 0) -> World:
        """Let time pass and the controller look. Looking twice must not change anything."""
        self.now += timedelta(seconds=seconds)
        before = copy.deepcopy((self.workflow, self.pods))
        result = self.operate()
        assert (self.workflow, self.pods) == before, "operate changed what it was given"
        self.workflow = json.loads(json.dumps(result.workflow))
        for pod in result.create:
            assert pod["metadata"]["name"] not in self.pods, "made twice"
            self.pods[pod["metadata"]["name"]] = json.loads(json.dumps(pod))
        for name in result.stop:
            self.pods[name]["solo"]["stop"] = True
        self.wake_at = result.wake_at
        again = self.operate()
        assert (again.create, again.workflow) == ([], self.workflow), "not idempotent"
        return self

    def operate(self) -> Result:
        return operate(self.workflow, self.templates.get, self.pods, self.now)

    def report(
        self, display_name: str, phase: str = "Succeeded", *, code: int | None = None, message: str = "", **outputs: Any
    ) -> World:
        """What the kubelet says of the Pod of a node; then the controller looks."""
        pod = self.pod(display_name)
        if phase == "Failed" and code is None and not message:
            code = 1
        if code and not message:
            message = f"Error (exit code {code})"
        done = {"exitCode": code if code is not None else 0 if phase == "Succeeded" else None, **outputs}
        artifacts = {
            item["name"]: {"bucket": item["bucket"], "key": item["key"]} for item in pod["solo"]["outputs"]["artifacts"]
        }
        pod["status"] = {
            "phase": phase,
            "message": message,
            "reason": "Lost" if message == "pod deleted" else "",
            "solo": {"outputs": {"artifacts": artifacts, **done}},
        }
        return self.step()

    def wait(self) -> World:
        """Until the time at which the controller wants to look again."""
        assert self.wake_at is not None
        return self.step(max((self.wake_at - self.now).total_seconds(), 0))

    def pod(self, display_name: str) -> dict[str, Any]:
        return next(
            pod
            for pod in self.pods.values()
            if pod["metadata"]["annotations"]["workflows.argoproj.io/node-id"] == self.node(display_name)["id"]
        )

    def node(self, display_name: str) -> dict[str, Any]:
        return next(node for node in self.nodes.values() if node["displayName"] == display_name)

    @property
    def nodes(self) -> dict[str, dict[str, Any]]:
        return self.workflow["status"].get("nodes", {})

    @property
    def phase(self) -> str:
        return self.workflow["status"]["phase"]

    @property
    def message(self) -> str:
        return self.workflow["status"].get("message", "")

    def phases(self) -> dict[str, str]:
        """Display name → phase, without the root."""
        return {
            n["displayName"]: n["phase"] for n in self.nodes.values() if n["name"] != self.workflow["metadata"]["name"]
        }

    def running(self) -> list[str]:
        """Display names of nodes with a live Pod, sorted."""
        return sorted(
            self.nodes[pod["metadata"]["annotations"]["workflows.argoproj.io/node-id"]]["displayName"]
            for pod in self.pods.values()
            if pod.get("status", {}).get("phase") not in FINAL
        )

    def finish(self, decide: Callable[[str], str] = lambda name: "Succeeded") -> World:
        """Report Pods one after the other until the Workflow is done."""
        while self.phase not in FINAL:
            alive = self.running()
            if alive:
                self.report(alive[0], decide(alive[0]))
            else:
                self.wait()
        return self
