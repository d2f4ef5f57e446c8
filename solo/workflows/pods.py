"""From a template to a Pod, and from what became of the Pod back to its node."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

import yaml

from solo.expressions import ExpressionError, substitute
from solo.store import Object
from solo.workflows.merge import merge
from solo.workflows.names import pod_name, task_name
from solo.workflows.operation import LABEL, Operation, WorkflowError, dump, duration
from solo.workflows.resolve import node_template, template_name

SCRIPT = "/argo/staging/script"
# the executor's own failures, as opposed to those of the user's command
_EXECUTOR = re.compile(r"(init|wait): ")
_EXIT = re.compile(r"\w+ \(exit code \d+\)")
_POD_FIELDS = (
    "affinity",
    "automountServiceAccountToken",
    "nodeSelector",
    "securityContext",
    "serviceAccountName",
    "tolerations",
)


def create_pod(
    op: Operation, node: dict[str, Any], template: Mapping[str, Any], *, exit_handler: bool, before: datetime | None
) -> None:
    """The Pod of a node, unless it is there, the Workflow shuts down, or its time is up. Raises WorkflowError."""
    if op.has_pod(node):
        return
    if not op.may_run(exit_handler):
        op.mark(node, "Failed", f"workflow shutdown with strategy: {op.shutdown}")
        return
    limits = [_seconds(template["activeDeadlineSeconds"])] if template.get("activeDeadlineSeconds") else []
    if op.deadline is not None and not exit_handler:
        remaining = (op.deadline - op.now) // timedelta(seconds=1)
        if remaining <= 0:
            return
        limits.append(remaining)
    ends = [before] if before is not None else []
    if template.get("timeout"):
        end = op.started(node) + duration(template["timeout"], "timeout")
        ends.append(end)
        # the Pod may stay pending, and then nobody else ends it
        op.wake(end)
    limits += [max(1, math.ceil((end - op.now) / timedelta(seconds=1))) for end in ends]
    op.create[node["id"]] = _pod(op, node, template, min(limits, default=None), exit_handler)


def _seconds(value: Any) -> int:
    try:
        return int(value)
    except ValueError:
        raise WorkflowError(f"activeDeadlineSeconds: '{value}' is not a number of seconds") from None


def _pod(
    op: Operation, node: Mapping[str, Any], template: Mapping[str, Any], deadline: int | None, exit_handler: bool
) -> Object:
    name = pod_name(op.name, node["name"], template_name(node))
    main = dict(template.get("container") or template["script"])
    inputs = _inputs(template)
    if "script" in template:
        source = main.pop("source", "")
        main["args"] = [*(main.get("args") or []), SCRIPT]
        inputs.append({"name": "script", "path": SCRIPT, "source": {"raw": {"data": source}}, "mode": 0o755})
    main["name"] = "main"
    spec: dict[str, Any] = {field: template[field] for field in _POD_FIELDS if field in template}
    spec = {**{field: op.spec[field] for field in _POD_FIELDS if field in op.spec}, **spec}
    spec |= {"restartPolicy": "Never", "containers": [main]}
    if template.get("initContainers"):
        spec["initContainers"] = template["initContainers"]
    volumes = _volumes(op, template, spec)
    if volumes:
        spec["volumes"] = volumes
    if deadline is not None:
        spec["activeDeadlineSeconds"] = deadline
    metadata = template.get("metadata") or {}
    labels = {**(metadata.get("labels") or {}), LABEL + "workflow": op.name, LABEL + "completed": "false"}
    if exit_handler:
        labels[LABEL + "on-exit"] = "true"
    pod: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": op.namespace,
            "labels": labels,
            "annotations": {
                **(metadata.get("annotations") or {}),
                LABEL + "node-name": node["name"],
                LABEL + "node-id": node["id"],
            },
            "ownerReferences": [
                {
                    "apiVersion": op.workflow.get("apiVersion", "argoproj.io/v1alpha1"),
                    "kind": "Workflow",
                    "name": op.name,
                    "uid": op.workflow["metadata"].get("uid", ""),
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": spec,
        "solo": {
            "inputs": {"artifacts": inputs},
            "outputs": {
                "parameters": [
                    {"name": item["name"], **_known(item["valueFrom"], "path", "default")}
                    for item in (template.get("outputs") or {}).get("parameters") or []
                ],
                "artifacts": _outputs(op, template, name),
                "result": _result_wanted(op, node),
            },
            "stop": False,
        },
    }
    variables = {**op.variables, "pod.name": name}
    for item in (template.get("inputs") or {}).get("parameters") or []:
        variables[f"inputs.parameters.{item['name']}"] = item["value"]
    return _patched(op, template, pod, variables)


def _patched(op: Operation, template: Mapping[str, Any], pod: Object, variables: Mapping[str, str]) -> Object:
    try:
        pod = json.loads(substitute(dump(pod), variables))
        for text in (op.spec.get("podSpecPatch"), template.get("podSpecPatch")):
            if not text:
                continue
            text = json.loads(substitute(dump(text), variables))
            patch = yaml.safe_load(text)
            if not isinstance(patch, dict):
                raise WorkflowError(f"invalid podSpecPatch {dump(text)}: it is not a map")
            pod["spec"] = merge(pod["spec"], patch)
    except (ExpressionError, KeyError, TypeError) as error:
        raise WorkflowError(f"Error applying PodSpecPatch: {error}") from None
    except yaml.YAMLError as error:
        raise WorkflowError(f"Error applying PodSpecPatch: it is neither JSON nor YAML: {error}") from None
    return pod


def _inputs(template: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for item in (template.get("inputs") or {}).get("artifacts") or []:
        if "raw" in item:
            source: dict[str, Any] = {"raw": item["raw"]}
        elif "gcs" in item:
            source = dict(item["gcs"])
        else:
            continue  # optional and not given
        found.append({"name": item["name"], "source": source, **_known(item, "path", "optional", "mode", "archive")})
    return found


def _outputs(op: Operation, template: Mapping[str, Any], pod: str) -> list[dict[str, Any]]:
    prefix = op.settings.key_format.replace("{{workflow.name}}", op.name).replace("{{pod.name}}", pod)
    found = []
    for item in (template.get("outputs") or {}).get("artifacts") or []:
        plain = "none" in (item.get("archive") or {})
        file = PurePosixPath(item["path"]).name if plain else f"{item['name']}.tgz"
        found.append(
            {
                "name": item["name"],
                "path": item["path"],
                "optional": bool(item.get("optional")),
                "archive": "none" if plain else "tar",
                "bucket": op.settings.bucket,
                "key": f"{prefix}/{file}",
            }
        )
    return found


def _volumes(op: Operation, template: Mapping[str, Any], spec: Mapping[str, Any]) -> list[Any]:
    """Only those that are mounted."""
    mounted = {
        mount["name"]
        for container in (*spec["containers"], *spec.get("initContainers", []))
        for mount in container.get("volumeMounts") or []
    }
    known = {volume["name"]: volume for source in (op.spec, template) for volume in source.get("volumes") or []}
    missing = mounted - set(known)
    if missing:
        raise WorkflowError(f"volume '{min(missing)}' not found in workflow spec")
    return [volume for name, volume in known.items() if name in mounted]


def _result_wanted(op: Operation, node: Mapping[str, Any]) -> bool:
    """Whether the DAG around the node speaks of its standard output."""
    boundary = op.nodes.get(node.get("boundaryID", ""))
    if boundary is None:
        return False
    name, text = re.escape(task_name(node["name"])), dump(node_template(op, boundary))
    return re.search(rf"tasks(\.{name}|\[['\\\"]+{name}['\\\"]+\])\.outputs\.result", text) is not None


def _known(source: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    return {field: source[field] for field in fields if field in source}


# what became of it


def assess(op: Operation, node: dict[str, Any], pod: Object) -> None:
    """Bring a node in line with its Pod."""
    if node["phase"] in ("Succeeded", "Failed", "Error"):
        return
    status = pod.get("status") or {}
    phase, message = status.get("phase") or "Pending", status.get("message") or ""
    if phase == "Failed":
        phase, message = _failure(status, message)
    elif phase in ("Running", "Succeeded"):
        message = ""
    if phase in ("Succeeded", "Failed", "Error"):
        outputs = _reported(node_template(op, node), (status.get("solo") or {}).get("outputs") or {})
        if outputs:
            node["outputs"] = outputs
        node["finishedAt"] = status.get("finishTime") or op.stamp()
    if "nodeName" in pod["spec"]:
        node["hostNodeName"] = pod["spec"]["nodeName"]
    op.mark(node, phase, message)


def _failure(status: Mapping[str, Any], message: str) -> tuple[str, str]:
    if status.get("reason") == "Lost" or _EXECUTOR.match(message):
        return "Error", message
    # Kubernetes reports the end of a container, Argo adds whose it was
    return "Failed", f"main: {message}" if _EXIT.match(message) else message


def _reported(template: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    declared = template.get("outputs") or {}
    outputs: dict[str, Any] = {}
    values, artifacts = report.get("parameters") or {}, report.get("artifacts") or {}
    parameters = [
        {"name": item["name"], "value": values[item["name"]], "valueFrom": item["valueFrom"]}
        for item in declared.get("parameters") or []
        if values.get(item["name"]) is not None
    ]
    if parameters:
        outputs["parameters"] = parameters
    stored = [
        {**_known(item, "name", "path", "optional", "archive"), "gcs": artifacts[item["name"]]}
        for item in declared.get("artifacts") or []
        if artifacts.get(item["name"])
    ]
    if stored:
        outputs["artifacts"] = stored
    if report.get("result") is not None:
        outputs["result"] = report["result"]
    if report.get("exitCode") is not None:
        outputs["exitCode"] = str(report["exitCode"])
    return outputs
