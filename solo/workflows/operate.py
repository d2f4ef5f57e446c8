"""The controller as a pure function: a Workflow, its Pods and the time go in, its next state and what to do come out.

Called again with nothing new it changes nothing, so a crash between two calls is just one more call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from solo.expressions import ExpressionError, evaluate, nest, substitute
from solo.store import Object
from solo.workflows import locks, times
from solo.workflows.execute import Call, execute
from solo.workflows.locks import LockView
from solo.workflows.merge import merge
from solo.workflows.names import on_exit, pod_name
from solo.workflows.operation import (
    FULFILLED,
    LABEL,
    UNSUCCESSFUL,
    Operation,
    Scope,
    Settings,
    TimeoutReached,
    WaitError,
    WorkflowError,
    dump,
)
from solo.workflows.pods import assess
from solo.workflows.resolve import find, template_name, text_of
from solo.workflows.validate import ValidationError, validate

LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?")
# `strftime` letters that `workflow.creationTimestamp.<letter>` offers
_LETTERS = "aAbBcdHIjmMpSUwWxXyYZ"


@dataclass(frozen=True)
class Result:
    """`create`: Pods to make. `stop`: names of Pods to stop. `wake_at`: when to call again though nothing changed."""

    workflow: Object
    create: list[Object] = field(default_factory=list)
    stop: list[str] = field(default_factory=list)
    wake_at: datetime | None = None


def operate(
    workflow: Object,
    templates: Callable[[str], Object | None],
    pods: Mapping[str, Object],
    now: datetime,
    *,
    view: LockView | None = None,
    settings: Settings | None = None,
) -> Result:
    """One step of a Workflow.

    `templates` finds a WorkflowTemplate of its namespace, `pods` are its Pods by name, `view` says what other
    Workflows lock.
    """
    if (workflow.get("status") or {}).get("phase") in ("Succeeded", "Failed", "Error"):
        return Result(workflow)
    by_node = {pod["metadata"]["annotations"][LABEL + "node-id"]: pod for pod in pods.values()}
    op = Operation(workflow, by_node, templates, now, view or LockView(), settings or Settings())
    _operate(op)
    finished = op.status.get("phase") in ("Succeeded", "Failed", "Error")
    if finished:
        op.status.pop("synchronization", None)
        op.stop |= {key for key, pod in by_node.items() if _alive(pod)}
        op.create.clear()
    op.finish_status()
    stop = [by_node[key]["metadata"]["name"] for key in by_node if key in op.stop]
    return Result(op.workflow, list(op.create.values()), stop, None if finished else op.wake_at)


def fail(workflow: Object, message: str, now: datetime) -> Object:
    """The Workflow ended as Error, whatever it was doing."""
    op = Operation(workflow, {}, lambda _: None, now, LockView(), Settings())
    _finish(op, "Error", message)
    op.status.pop("synchronization", None)
    op.finish_status()
    return op.workflow


def _alive(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def _operate(op: Operation) -> None:
    new = not op.status.get("phase")
    try:
        if new:
            validate(op.workflow, op.templates)
        _set_spec(op)
        _set_variables(op)
        if new:
            _set_metadata(op)
    except ValidationError as error:
        return _finish(op, "Failed", f"invalid spec: {error}")
    except (WorkflowError, ExpressionError, ValueError) as error:
        return _finish(op, "Error", str(error))
    if not _lock(op):
        return None
    if op.status.get("phase") != "Running":
        _mark(op, "Running")
        meta = op.workflow["metadata"]
        meta["annotations"] = {**(meta.get("annotations") or {}), LABEL + "pod-name-format": "v2"}
    _set_deadline(op)
    _look_at_pods(op)
    _fail_without_pods(op)
    if op.spec.get("suspend"):
        return None
    op.again = True
    while op.again:
        op.again = False
        _advance(op)
    return None


# what is to run


def _set_spec(op: Operation) -> None:
    """`op.spec`: the Workflow's own, over that of its WorkflowTemplate as it was when the Workflow began."""
    spec = op.workflow["spec"]
    ref = spec.get("workflowTemplateRef")
    if ref:
        stored = op.status.get("storedWorkflowTemplateSpec")
        if stored is None:
            source = op.templates(ref["name"])
            if source is None:
                raise WorkflowError(f"workflow template {ref['name']} not found")
            stored = _joined(spec, source["spec"])
            op.label(**{"workflow-template": ref["name"]})
        # these two are how a user stops or pauses what already runs
        control = {key: spec[key] for key in ("shutdown", "suspend") if key in spec}
        stored = {key: value for key, value in stored.items() if key not in ("shutdown", "suspend")} | control
        if stored != op.status.get("storedWorkflowTemplateSpec"):
            op.status["storedWorkflowTemplateSpec"] = stored
        spec = stored
    op.spec = spec


def _joined(spec: dict[str, Any], template: dict[str, Any]) -> dict[str, Any]:
    joined = merge(template, spec)
    arguments = joined.get("arguments") or {}
    if arguments.get("parameters"):
        own = (spec.get("arguments") or {}).get("parameters")
        # a parameter given with the Workflow replaces the template's, it does not mix with it
        arguments = {**arguments, "parameters": [find(own, item["name"]) or item for item in arguments["parameters"]]}
        joined["arguments"] = arguments
    return joined


def _set_variables(op: Operation) -> None:
    meta, spec = op.workflow["metadata"], op.spec
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    parameters = (spec.get("arguments") or {}).get("parameters") or []
    variables = {
        "workflow.name": op.name,
        "workflow.namespace": op.namespace,
        "workflow.uid": meta.get("uid", ""),
        "workflow.mainEntrypoint": spec.get("entrypoint", ""),
        "workflow.serviceAccountName": spec.get("serviceAccountName", ""),
        "workflow.parameters": dump(parameters),
        "workflow.parameters.json": dump(parameters),
        "workflow.labels": dump(labels),
        "workflow.labels.json": dump(labels),
        "workflow.annotations": dump(annotations),
        "workflow.annotations.json": dump(annotations),
    }
    variables |= _creation_variables(meta["creationTimestamp"])
    variables |= {f"workflow.labels.{key}": value for key, value in labels.items()}
    variables |= {f"workflow.annotations.{key}": value for key, value in annotations.items()}
    scheduled = annotations.get(LABEL + "scheduled-time")
    if scheduled:
        variables["workflow.scheduledTime"] = scheduled
    for item in parameters:
        if item.get("value") is None:
            raise WorkflowError(
                "failed to set global parameters: either value or valueFrom must be specified in order to set "
                f"global parameter {item['name']}"
            )
        variables[f"workflow.parameters.{item['name']}"] = text_of(item["value"])
    rest = dump({key: value for key, value in spec.items() if key != "templates"})
    if "{{" in rest:
        op.spec = {**json.loads(substitute(rest, variables)), "templates": spec.get("templates")}
    variables["workflow.status"] = op.status.get("phase", "")
    began = op.status.get("startedAt")
    seconds = (op.now - times.read(began)) / timedelta(seconds=1) if began else 0.0
    variables["workflow.duration"] = f"{seconds:f}"
    op.variables = variables


@lru_cache(maxsize=256)
def _creation_variables(text: str) -> dict[str, str]:
    created = times.read(text)
    variables = {f"workflow.creationTimestamp.{letter}": created.strftime(f"%{letter}") for letter in _LETTERS}
    return variables | {
        "workflow.creationTimestamp": times.write_seconds(created),
        "workflow.creationTimestamp.RFC3339": times.write_seconds(created),
        "workflow.creationTimestamp.s": str(int(created.timestamp())),
    }


def _set_metadata(op: Operation) -> None:
    wanted = op.spec.get("workflowMetadata") or {}
    meta = op.workflow["metadata"]
    labels = dict(wanted.get("labels") or {})
    for name, source in (wanted.get("labelsFrom") or {}).items():
        value = evaluate(source["expression"], nest(op.variables))
        if not isinstance(value, str):
            raise WorkflowError(
                f'failed to evaluate label "{name}" expression "{source["expression"]}": the result must be a string'
            )
        labels[name] = value
    for name, value in labels.items():
        if not LABEL_VALUE.fullmatch(str(value)):
            raise WorkflowError(
                f'invalid label value "{value}" for label "{name}": at most 63 letters, digits, -, _ and ., '
                "the first and the last a letter or digit"
            )
    for kind, added in (("labels", labels), ("annotations", wanted.get("annotations") or {})):
        if added:
            meta[kind] = {**(meta.get(kind) or {}), **added}
            op.variables.update({f"workflow.{kind}.{key}": value for key, value in added.items()})


# what happened


def _lock(op: Operation) -> bool:
    """The Workflow's own mutexes. False if it has to wait."""
    synchronization = op.spec.get("synchronization")
    if not synchronization:
        return True
    if op.shutdown and op.status.get("phase") in (None, "Pending"):
        _finish(op, "Failed", op.stopped_message())
        return False
    wanted = locks.lock_names(synchronization, op.namespace)
    attempt = locks.acquire(op.status, f"{op.namespace}/{op.name}", wanted, op.locks)
    if not attempt.acquired:
        _mark(op, op.status.get("phase") or "Pending", attempt.message)
    return attempt.acquired


def _set_deadline(op: Operation) -> None:
    limit = op.spec.get("activeDeadlineSeconds")
    if limit is not None:
        op.deadline = times.read(op.status["startedAt"]) + timedelta(seconds=float(limit))
        if not op.deadline_passed():
            op.wake(op.deadline + timedelta(microseconds=1))


def _look_at_pods(op: Operation) -> None:
    running = False
    for node in list(op.nodes.values()):
        if node["type"] != "Pod" or node["phase"] in FULFILLED:
            continue
        pod = op.pods.get(node["id"])
        if pod is None:
            if node["phase"] == "Running":
                op.mark(node, "Error", "pod deleted")
            continue
        try:
            assess(op, node, pod)
        except WorkflowError as error:
            op.mark(node, "Error", str(error))
        if node["phase"] in FULFILLED:
            continue
        exit_handler = LABEL + "on-exit" in pod["metadata"]["labels"]
        if not op.may_run(exit_handler):
            op.stop.add(node["id"])
            op.mark(node, "Failed", f"workflow shutdown with strategy:  {op.shutdown}")
        elif op.deadline_passed() and not exit_handler:
            op.stop.add(node["id"])
            op.mark(node, "Failed", "Step exceeded its deadline")
        running = running or node["phase"] == "Running"
    op.condition("PodRunning", "True" if running else "False")


def _fail_without_pods(op: Operation) -> None:
    """Apply shutdown and deadline to nodes that have no Pod to stop."""
    for node in list(op.nodes.values()):
        if node["phase"] in FULFILLED:
            continue
        exit_handler = op.in_exit_handler(node)
        suspended = node["type"] == "Suspend" and node["phase"] == "Running"
        locked = bool(node.get("synchronizationStatus"))
        if not op.may_run(exit_handler):
            tried = op.attempts(node) if node["type"] == "Retry" else []
            if suspended or locked or (tried and all(child["phase"] in FULFILLED for child in tried)):
                op.mark(node, "Failed", op.stopped_message())
                node.pop("synchronizationStatus", None)
        elif op.deadline_passed() and not exit_handler and (suspended or node["phase"] == "Pending"):
            op.mark(node, "Failed", "Step exceeded its deadline")
            node.pop("synchronizationStatus", None)


# what follows


def _advance(op: Operation) -> None:
    # a spec that comes from a WorkflowTemplate has no name of its own. Source: setExecWorkflow, controller/operator.go
    name = "" if op.workflow["spec"].get("workflowTemplateRef") else op.name
    scope, arguments = Scope("local", name), op.spec.get("arguments") or {}
    try:
        node = execute(op, Call(op.name, {"template": op.spec["entrypoint"]}, scope, arguments))
    except WaitError:
        return None
    except (WorkflowError, TimeoutReached) as error:
        return _finish(op, "Error", f"error in entry template execution: {error}")
    if node["phase"] not in FULFILLED:
        return None
    outcome = node["phase"] if node["phase"] in UNSUCCESSFUL else "Succeeded"
    message = op.stopped_message() if outcome != "Succeeded" and op.shutdown else node.get("message", "")
    handler = op.spec.get("onExit")
    after = op.node(on_exit(op.name))
    if handler and (after is not None or op.may_run(True)):
        op.variables["workflow.status"] = outcome
        op.variables["workflow.failures"] = dump(dump(_failures(op)))
        call = Call(on_exit(op.name), {"template": handler}, scope, arguments, exit_handler=True, flag={"hooked": True})
        try:
            after = execute(op, call)
        except WaitError:
            return None
        except (WorkflowError, TimeoutReached) as error:
            return _finish(op, "Error", f"error in exit template execution : {error}")
        if after["phase"] not in FULFILLED:
            return None
        if outcome == "Succeeded" and after["phase"] in UNSUCCESSFUL:
            return _finish(op, after["phase"], after.get("message", ""))
    return _finish(op, outcome, "" if outcome == "Succeeded" else message)


def _failures(op: Operation) -> list[dict[str, Any]]:
    return [
        {
            "displayName": node["displayName"],
            "message": node.get("message", ""),
            "templateName": template_name(node),
            "phase": node["phase"],
            "podName": pod_name(op.name, node["name"], template_name(node)),
            "finishedAt": times.to_seconds(node["finishedAt"]),
        }
        for node in op.nodes.values()
        if node["phase"] in UNSUCCESSFUL
    ]


def _mark(op: Operation, phase: str, message: str = "") -> None:
    if op.status.get("phase") != phase:
        op.status["phase"] = phase
        op.label(phase=phase, completed="false")
    if "startedAt" not in op.status and phase != "Pending":
        op.status["startedAt"] = op.stamp()
    op.status.pop("message", None)
    if message:
        op.status["message"] = message


def _finish(op: Operation, phase: str, message: str) -> None:
    _mark(op, phase, message)
    root = op.node(op.name)
    if phase == "Error" and root is not None and root["phase"] == "Running":
        op.mark(root, "Error", "Workflow operation error")
    op.status["finishedAt"] = op.stamp()
    op.label(completed="true")
    op.condition("Completed", "True")
