"""Brings one template one step further: the node it has, or gets, and for a pod template its Pod."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from solo.expressions.golang import to_text
from solo.workflows import locks
from solo.workflows.dag import run_dag
from solo.workflows.names import node_id, pod_name
from solo.workflows.operation import (
    FULFILLED,
    UNSUCCESSFUL,
    Operation,
    Scope,
    TimeoutReached,
    WaitError,
    WorkflowError,
    duration,
)
from solo.workflows.pods import create_pod
from solo.workflows.resolve import fill, kind_of, node_template, replace_tags, template_of
from solo.workflows.retry import policy, review

NODE_TYPES = {"container": "Pod", "script": "Pod", "dag": "DAG", "suspend": "Suspend"}
# Argo's own limit for templates that call templates
DEEPEST = 100
FAIL_FAST = "template has failed or errored children and failFast enabled"


@dataclass(frozen=True)
class Call:
    """Who asks for a template: the node name it gets, the holder that names it, and where from."""

    name: str
    holder: Mapping[str, Any]
    scope: Scope
    arguments: Mapping[str, Any]
    boundary: str = ""
    exit_handler: bool = False
    flag: Mapping[str, bool] | None = None
    depth: int = 0
    before: datetime | None = None


def execute(op: Operation, call: Call) -> dict[str, Any]:
    """The node of the call. Raises WaitError, TimeoutReached; WorkflowError after the node has been marked as Error."""
    node = op.node(call.name)
    with _marking(op, call):
        if call.depth >= DEEPEST:
            raise WorkflowError(f"Maximum recursion depth exceeded: {DEEPEST} templates call each other")
        inner, template = template_of(op, call.holder, call.scope)
        if node is not None and node["type"] == "Pod" and _in_hand(op, node, template):
            return node
        local = {"node.name": call.name}
        if "name" in call.holder:
            local["tasks.name"] = call.holder["name"]
        if NODE_TYPES.get(kind_of(template)) == "Pod" and not template.get("retryStrategy"):
            local["pod.name"] = pod_name(op.name, call.name, template["name"])
        template = fill(template, call.arguments, op.variables, local)
    if node is not None and node["phase"] in FULFILLED:
        return node
    with _marking(op, call):
        _check_timeout(op, template, node)
    _check_parallelism(op, template, node, call.boundary)
    if template.get("synchronization"):
        node, acquired = _lock(op, call, template, node)
        if not acquired:
            assert node is not None
            return node
    if template.get("retryStrategy"):
        return _retried(op, call, template, inner, node)
    return _dispatch(op, call, template, inner)


def _in_hand(op: Operation, node: Mapping[str, Any], template: Mapping[str, Any]) -> bool:
    """A Pod that exists and has no time limit while pending needs nothing of us; the usual case by far."""
    return node["phase"] in ("Pending", "Running") and op.has_pod(node) and not template.get("timeout")


@contextmanager
def _marking(op: Operation, call: Call) -> Any:
    """Whatever the user got wrong inside becomes the message of the call's node."""
    try:
        yield
    except WorkflowError as error:
        node = op.node(call.name)
        if node is not None:
            op.mark(node, "Error", str(error))
        else:
            op.add_node(
                call.name,
                "Skipped",
                call.holder,
                call.scope,
                "Error",
                boundary=call.boundary,
                message=str(error),
                flag=call.flag,
            )
        raise


def _new_node(
    op: Operation, call: Call, kind: str, template: Mapping[str, Any], phase: str, message: str = ""
) -> dict[str, Any]:
    return op.add_node(
        call.name,
        kind,
        call.holder,
        call.scope,
        phase,
        boundary=call.boundary,
        message=message,
        flag=call.flag,
        inputs=template.get("inputs"),
    )


def _dispatch(op: Operation, call: Call, template: Mapping[str, Any], inner: Scope) -> dict[str, Any]:
    kind = kind_of(template)
    with _marking(op, call):
        if not kind:
            raise WorkflowError(f"Template '{template['name']}' missing specification")
        node = op.node(call.name)
        if node is None:
            phase = "Running" if kind == "dag" else "Pending"
            node = _new_node(op, call, NODE_TYPES[kind], template, phase)
        if kind == "dag":
            run_dag(op, node, template, inner, call, execute)
        elif kind == "suspend":
            _suspend(op, node, template)
        else:
            create_pod(op, node, template, exit_handler=call.exit_handler, before=call.before)
    return node


def _suspend(op: Operation, node: dict[str, Any], template: Mapping[str, Any]) -> None:
    limit = (template["suspend"] or {}).get("duration")
    if limit:
        end = op.started(node) + duration(limit, "suspend.duration")
        if op.now >= end:
            op.mark(node, "Succeeded")
            return
        op.wake(end)
    op.mark(node, "Running")


def _retried(
    op: Operation, call: Call, template: Mapping[str, Any], inner: Scope, node: dict[str, Any] | None
) -> dict[str, Any]:
    """The Retry node around the tries of a template."""
    parent = node if node is not None else _new_node(op, call, "Retry", template, "Running")
    try:
        verdict = review(op, parent, template["retryStrategy"])
    except WorkflowError as error:
        op.mark(parent, "Error", str(error))
        raise
    if verdict.wait:
        return parent
    tries = op.attempts(parent)
    last = tries[-1] if tries else None
    if parent["phase"] in FULFILLED and _all_fulfilled(op, parent):
        if last is not None and "outputs" in last:
            parent["outputs"] = last["outputs"]
        return parent
    if last is not None and last["phase"] not in FULFILLED:
        name, number = last["name"], len(tries) - 1
    else:
        name, number = f"{call.name}({len(tries)})", len(tries)
        op.add_child(parent, name)
    child = replace(call, name=name, flag={**(call.flag or {}), "retried": True}, before=verdict.before)
    local = {
        "retries": str(number),
        "lastRetry.exitCode": str(((last or {}).get("outputs") or {}).get("exitCode", "0")),
        "lastRetry.status": last["phase"] if last else "",
        "lastRetry.duration": to_text(op.seconds(last)) if last else "0",
        "lastRetry.message": last.get("message", "") if last else "",
    }
    if NODE_TYPES.get(kind_of(template)) == "Pod":
        local["pod.name"] = pod_name(op.name, name, template["name"])
    try:
        with _marking(op, child):
            filled = replace_tags(template, op.variables, local)
        result = _dispatch(op, child, filled, inner)
    except WorkflowError:
        if policy(template["retryStrategy"]) not in ("Always", "OnError", "OnTransientError"):
            raise
        found = op.node(name)
        assert found is not None
        result = found
    if result["phase"] in FULFILLED and parent["phase"] not in FULFILLED:
        return execute(op, replace(call, depth=call.depth + 1))
    return parent


def _all_fulfilled(op: Operation, node: Mapping[str, Any]) -> bool:
    seen: set[str] = set()

    def visit(current: Mapping[str, Any]) -> bool:
        if current["id"] in seen:
            return True
        seen.add(current["id"])
        children = op.children(current)
        return all(map(visit, children)) if children else current["phase"] in FULFILLED

    return visit(node)


def _check_timeout(op: Operation, template: Mapping[str, Any], node: dict[str, Any] | None) -> None:
    if node is None or not template.get("timeout") or node["phase"] != "Pending":
        return
    end = op.started(node) + duration(template["timeout"], "timeout")
    if op.now >= end:
        if op.has_pod(node):
            op.stop.add(node["id"])
        op.mark(node, "Failed", "timeout")
        raise TimeoutReached("timeout")
    op.wake(end)


def _check_parallelism(op: Operation, template: Mapping[str, Any], node: dict[str, Any] | None, boundary: str) -> None:
    limit = op.spec.get("parallelism")
    if limit is not None and op.active_pods() >= limit:
        raise WaitError
    if node is not None and kind_of(template) == "dag":
        _check_children(op, template, node, op.active_pods(node["id"]))
    if boundary and (node is None or node["phase"] not in ("Pending", "Running")):
        around = op.nodes[boundary]
        active = sum(
            child.get("boundaryID") == boundary
            and child["type"] in ("Pod", "DAG")
            and child["phase"] in ("Pending", "Running")
            for child in op.nodes.values()
        )
        _check_children(op, node_template(op, around), around, active)


def _check_children(op: Operation, template: Mapping[str, Any], node: dict[str, Any], active: int) -> None:
    if template.get("failFast") and any(
        child.get("boundaryID") == node["id"] and child["type"] in ("Pod", "DAG") and child["phase"] in UNSUCCESSFUL
        for child in op.nodes.values()
    ):
        if op.active_pods(node["id"]) == 0:
            op.mark(node, "Failed", FAIL_FAST)
            op.again = True
        raise WaitError
    if template.get("parallelism") is not None and active >= template["parallelism"]:
        raise WaitError


def _lock(
    op: Operation, call: Call, template: Mapping[str, Any], node: dict[str, Any] | None
) -> tuple[dict[str, Any] | None, bool]:
    holder = op.lock_holder(node_id(op.name, call.name))
    wanted = locks.lock_names(template["synchronization"], op.namespace)
    attempt = locks.acquire(op.status, holder, wanted, op.locks)
    if attempt.acquired:
        if node is not None and "synchronizationStatus" in node:
            del node["synchronizationStatus"]
            node.pop("message", None)
            if node["type"] != "Pod":
                op.mark(node, "Running")
        return node, True
    if node is None:
        kind = "Retry" if template.get("retryStrategy") else NODE_TYPES[kind_of(template)]
        node = _new_node(op, call, kind, template, "Pending", attempt.message)
    node["synchronizationStatus"] = {"waiting": attempt.lock}
    node["message"] = attempt.message
    return node, False
