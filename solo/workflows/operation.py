"""One call of the controller on one Workflow: what it knows, and the changes that it collects.

The Workflow given is not touched. Everything that may change is copied one level deep, and deeper values are
replaced, never edited in place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from solo.store import Object
from solo.workflows import times
from solo.workflows.locks import LockView, release
from solo.workflows.names import node_id

FULFILLED = ("Succeeded", "Failed", "Error", "Skipped", "Omitted")
COMPLETED = ("Succeeded", "Failed", "Error")
UNSUCCESSFUL = ("Failed", "Error")
GOOD = ("Succeeded", "Skipped", "Omitted")
LABEL = "workflows.argoproj.io/"


class WorkflowError(Exception):
    """A user's mistake that shows while a Workflow runs; becomes the message of the node it concerns."""


class WaitError(Exception):
    """Not now: a limit of parallelism is reached. The next change of the Workflow tries again."""


class TimeoutReached(Exception):
    """A node was pending for longer than its template's `timeout`."""


class Scope(NamedTuple):
    """Where template names are looked up: the Workflow itself ("local"), or a WorkflowTemplate ("namespaced")."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True)
class Settings:
    """What a cluster has in its controller's ConfigMap: where artifacts go."""

    bucket: str = "scratch"
    key_format: str = "{{workflow.name}}/{{pod.name}}"


@dataclass
class Operation:
    """The state of one call. `nodes` is the Workflow's `status.nodes`."""

    workflow: Object
    pods: Mapping[str, Object]
    templates: Callable[[str], Object | None]
    now: datetime
    locks: LockView
    settings: Settings
    spec: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    create: dict[str, Object] = field(default_factory=dict)
    stop: set[str] = field(default_factory=set)
    wake_at: datetime | None = None
    deadline: datetime | None = None
    # something changed that nodes looked at earlier depend on: look once more
    again: bool = False

    def __post_init__(self) -> None:
        self.workflow = {**self.workflow, "metadata": dict(self.workflow["metadata"])}
        self.status: dict[str, Any] = dict(self.workflow.get("status") or {})
        self.workflow["status"] = self.status
        nodes: dict[str, Any] = self.status.get("nodes") or {}
        self.nodes: dict[str, dict[str, Any]] = {key: dict(node) for key, node in nodes.items()}
        if "storedTemplates" in self.status:
            self.status["storedTemplates"] = dict(self.status["storedTemplates"])
        self.name: str = self.workflow["metadata"]["name"]
        self.namespace: str = self.workflow["metadata"]["namespace"]

    # time

    def stamp(self) -> str:
        return times.write(self.now)

    def wake(self, at: datetime) -> None:
        if self.wake_at is None or at < self.wake_at:
            self.wake_at = at

    def deadline_passed(self) -> bool:
        return self.deadline is not None and self.now > self.deadline

    def started(self, node: Mapping[str, Any]) -> datetime:
        return times.read(node["startedAt"])

    def seconds(self, node: Mapping[str, Any]) -> float:
        end = times.read(node["finishedAt"]) if node.get("finishedAt") else self.now
        return max((end - self.started(node)) / timedelta(seconds=1), 0.0)

    # shutdown

    @property
    def shutdown(self) -> str:
        return str(self.spec.get("shutdown") or "")

    def may_run(self, exit_handler: bool) -> bool:
        return self.shutdown == "" or (self.shutdown == "Stop" and exit_handler)

    def stopped_message(self) -> str:
        return f"Stopped with strategy '{self.shutdown}'"

    # nodes

    def node(self, name: str) -> dict[str, Any] | None:
        return self.nodes.get(node_id(self.name, name))

    def add_node(
        self,
        name: str,
        kind: str,
        holder: Mapping[str, Any],
        scope: Scope,
        phase: str,
        *,
        boundary: str = "",
        message: str = "",
        flag: Mapping[str, bool] | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A new node; `holder` is what names its template (a DAG task, or `{"template": …}`)."""
        node: dict[str, Any] = {
            "id": node_id(self.name, name),
            "name": name,
            "displayName": self._display_name(name, boundary),
            "type": kind,
        }
        if holder.get("templateRef"):
            node["templateRef"] = holder["templateRef"]
        else:
            node["templateName"] = holder["template"]
        node |= {"templateScope": str(scope), "phase": phase, "startedAt": self.stamp(), "finishedAt": None}
        if boundary:
            node["boundaryID"] = boundary
        if message:
            node["message"] = message
        if flag:
            node["nodeFlag"] = dict(flag)
        if phase in FULFILLED:
            node["finishedAt"] = node["startedAt"]
        if inputs and (inputs.get("parameters") or inputs.get("artifacts")):
            node["inputs"] = inputs
        self.nodes[node["id"]] = node
        return node

    def _display_name(self, name: str, boundary: str) -> str:
        if boundary not in self.nodes:
            return name
        return re.sub(r"^\.", "", name.removeprefix(self.nodes[boundary]["name"]))

    def mark(self, node: dict[str, Any], phase: str, message: str | None = None) -> dict[str, Any]:
        node["phase"] = phase
        if message is not None:
            _set(node, "message", message)
        if phase in FULFILLED and not node.get("finishedAt"):
            node["finishedAt"] = self.stamp()
        if phase in FULFILLED and release(self.status, self.lock_holder(node["id"])):
            # whoever waits for the lock may have been passed over already
            self.again = True
        return node

    def lock_holder(self, node: str) -> str:
        return f"{self.namespace}/{self.name}/{node}"

    def add_child(self, parent: dict[str, Any], child: str) -> None:
        children = parent.get("children", [])
        child_id = node_id(self.name, child)
        if child_id not in children:
            parent["children"] = [*children, child_id]

    def children(self, node: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [self.nodes[child] for child in node.get("children", []) if child in self.nodes]

    def attempts(self, node: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The tries of a Retry node, oldest first."""
        return [child for child in self.children(node) if child.get("nodeFlag", {}).get("retried")]

    def in_exit_handler(self, node: Mapping[str, Any]) -> bool:
        while not node["displayName"].endswith(".onExit"):
            boundary = node.get("boundaryID")
            if not boundary:
                return False
            node = self.nodes[boundary]
        return True

    def outbound(self, node: Mapping[str, Any]) -> list[str]:
        """The ids of the nodes that whatever follows `node` hangs on."""
        kind = node["type"]
        children: list[str] = node.get("children", [])
        if kind == "Retry":
            return children[-1:]
        if kind == "TaskGroup":
            below = self.children(node)
            return [end for child in below for end in self.outbound(child)] if below else [node["id"]]
        if kind == "DAG":
            ends: Iterable[str] = node.get("outboundNodes", [])
            return [last for end in ends for last in self.outbound(self.nodes[end])]
        return [node["id"]]

    def active_pods(self, boundary: str | None = None) -> int:
        """Pods that are there and not finished, in the whole Workflow or directly in one DAG."""
        return sum(
            node["type"] == "Pod"
            and node["phase"] in ("Pending", "Running")
            and (boundary is None or node.get("boundaryID") == boundary)
            and not node.get("synchronizationStatus")
            and self.has_pod(node)
            for node in self.nodes.values()
        )

    def has_pod(self, node: Mapping[str, Any]) -> bool:
        return node["id"] in self.pods or node["id"] in self.create

    # the result

    def condition(self, kind: str, status: str) -> None:
        others = [item for item in self.status.get("conditions", []) if item["type"] != kind]
        self.status["conditions"] = [*others, {"type": kind, "status": status}]

    def label(self, **labels: str) -> None:
        meta = self.workflow["metadata"]
        meta["labels"] = {**(meta.get("labels") or {}), **{LABEL + name: value for name, value in labels.items()}}

    def finish_status(self) -> None:
        """Put the nodes and the counts back into the status."""
        if self.nodes:
            self.status["nodes"] = self.nodes
        if not self.nodes:
            return
        leaves = {key: node["phase"] in GOOD for key, node in self.nodes.items() if node["type"] in ("Pod", "Suspend")}
        self.status["progress"] = f"{sum(leaves.values())}/{len(leaves)}"
        for key, node in self.nodes.items():
            below = [leaves[one] for one in self._below(node) if one in leaves] if key not in leaves else [leaves[key]]
            if below:
                node["progress"] = f"{sum(below)}/{len(below)}"

    def _below(self, node: Mapping[str, Any]) -> set[str]:
        """The ids of all that hangs on a node: what comes after it counts too. Source: workflow/progress/updater.go"""
        found: set[str] = set()
        ahead = [*node.get("children", [])]
        while ahead:
            key = ahead.pop()
            if key not in found and key in self.nodes:
                found.add(key)
                ahead += self.nodes[key].get("children", [])
        return found


def _set(target: dict[str, Any], key: str, value: Any) -> None:
    if value in ("", None):
        target.pop(key, None)
    else:
        target[key] = value


def duration(text: str, field: str) -> timedelta:
    """Raises WorkflowError with the field's name."""
    try:
        return times.duration(text)
    except ValueError as error:
        raise WorkflowError(f"{field}: {error}") from None


def dump(value: Any) -> str:
    """JSON as `substitute` reads it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
