"""What people and sensors do with Workflows: submit, stop, terminate, suspend, resume, delete. One transaction each."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import UTC, datetime

from solo.store import NotFoundError, Object, Store
from solo.support import refused
from solo.workflows import times
from solo.workflows.operation import COMPLETED, LABEL
from solo.workflows.validate import ValidationError, validate, validate_template

API_VERSION = "argoproj.io/v1alpha1"
KINDS = {
    "workflowtemplate": "WorkflowTemplate",
    "workflowtemplates": "WorkflowTemplate",
    "wftmpl": "WorkflowTemplate",
    "cronworkflow": "CronWorkflow",
    "cronworkflows": "CronWorkflow",
    "cwf": "CronWorkflow",
}


def submit(store: Store, workflow: Object) -> Object:
    """Create a Workflow that has passed all checks. Raises ValidationError, AlreadyExistsError."""
    meta = {key: value for key, value in workflow["metadata"].items() if key not in ("uid", "creationTimestamp")}
    wanted: Object = {
        "apiVersion": API_VERSION,
        "kind": "Workflow",
        "metadata": meta,
        "spec": workflow.get("spec") or {},
    }
    namespace = meta["namespace"]
    if not meta.get("name") and not meta.get("generateName"):
        raise ValidationError("metadata.name or metadata.generateName is required")
    _supported(wanted)
    validate(wanted, lambda name: store.find("WorkflowTemplate", namespace, name))
    return store.create(copy.deepcopy(wanted))


def create_template(store: Store, template: Object) -> Object:
    """Create a WorkflowTemplate that has passed all checks. Raises ValidationError, AlreadyExistsError."""
    kept = ("name", "generateName", "namespace", "labels", "annotations")
    meta = {key: template["metadata"][key] for key in kept if key in template["metadata"]}
    if not meta.get("name") and not meta.get("generateName"):
        raise ValidationError("metadata.name or metadata.generateName is required")
    wanted: Object = {
        "apiVersion": API_VERSION,
        "kind": "WorkflowTemplate",
        "metadata": meta,
        "spec": template.get("spec") or {},
    }
    _supported(wanted)
    validate_template(wanted, lambda name: store.find("WorkflowTemplate", meta["namespace"], name))
    return store.create(copy.deepcopy(wanted))


def _supported(obj: Object) -> None:
    problems = [f"{verdict.name()}: {verdict.why}" for verdict in refused(obj)]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValidationError("; ".join(problems[:3]) + more)


def submit_from(
    store: Store,
    kind: str,
    namespace: str,
    resource: str,
    *,
    parameters: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    name: str | None = None,
    generate_name: str | None = None,
) -> Object:
    """Submit a WorkflowTemplate or CronWorkflow as Argo Server's `/submit` does. Raises as `submit`; NotFoundError."""
    kind = KINDS.get(kind.lower(), kind)
    if kind == "CronWorkflow":
        now = times.write_seconds(datetime.now(UTC))
        workflow = from_cron(store.get(kind, namespace, resource), now)
    elif kind == "WorkflowTemplate":
        store.get(kind, namespace, resource)
        spec = {"workflowTemplateRef": {"name": resource}}
        workflow = {"metadata": {"labels": {LABEL + "workflow-template": resource}, "annotations": {}}, "spec": spec}
    else:
        raise ValidationError(f"Resource kind '{kind}' is not supported for submitting")
    meta = workflow["metadata"]
    meta["namespace"] = namespace
    meta["labels"] |= labels or {}
    meta["annotations"] |= annotations or {}
    meta |= {"name": name} if name else {"generateName": generate_name or f"{resource}-"}
    if parameters:
        spec = workflow["spec"]
        arguments = spec.get("arguments") or {}
        kept = [item for item in arguments.get("parameters") or [] if item["name"] not in parameters]
        given = [{"name": key, "value": value} for key, value in parameters.items()]
        workflow["spec"] = {**spec, "arguments": {**arguments, "parameters": given + kept}}
    return submit(store, workflow)


def from_cron(cron: Object, scheduled: str) -> Object:
    """The Workflow of one run of a CronWorkflow; without a name."""
    meta, spec = cron["metadata"], cron["spec"]
    extra = spec.get("workflowMetadata") or {}
    return {
        "metadata": {
            "namespace": meta["namespace"],
            "labels": {**(extra.get("labels") or {}), LABEL + "cron-workflow": meta["name"]},
            "annotations": {**(extra.get("annotations") or {}), LABEL + "scheduled-time": scheduled},
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": "CronWorkflow",
                    "name": meta["name"],
                    "uid": meta["uid"],
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": spec["workflowSpec"],
    }


def stop(store: Store, namespace: str, name: str) -> Object:
    """End a Workflow; its exit handler still runs. Raises NotFoundError; ValueError if it is finished."""
    return _shut_down(store, namespace, name, "Stop")


def terminate(store: Store, namespace: str, name: str) -> Object:
    """End a Workflow at once, without its exit handler. Raises NotFoundError; ValueError if it is finished."""
    return _shut_down(store, namespace, name, "Terminate")


def _shut_down(store: Store, namespace: str, name: str, strategy: str) -> Object:
    with store.transaction():
        workflow = store.get("Workflow", namespace, name)
        if finished(workflow):
            raise ValueError(f'cannot shutdown a completed workflow: workflow: "{name}", namespace: "{namespace}"')
        workflow["spec"]["shutdown"] = strategy
        return store.update(workflow)


def suspend(store: Store, namespace: str, name: str) -> Object:
    """Start nothing new in a Workflow; what runs goes on. Raises NotFoundError; ValueError if it is finished."""
    with store.transaction():
        workflow = store.get("Workflow", namespace, name)
        if finished(workflow):
            raise ValueError("cannot suspend completed workflows")
        workflow["spec"]["suspend"] = True
        return store.update(workflow)


def resume(store: Store, namespace: str, name: str) -> Object:
    """Let a suspended Workflow, and its suspended nodes, go on. Raises NotFoundError."""
    with store.transaction():
        workflow = store.get("Workflow", namespace, name)
        workflow["spec"].pop("suspend", None)
        for node in (workflow.get("status", {}).get("nodes") or {}).values():
            if node["type"] == "Suspend" and node["phase"] == "Running":
                node |= {"phase": "Succeeded", "finishedAt": times.write(datetime.now(UTC))}
        return store.update(workflow)


def delete(store: Store, namespace: str, name: str) -> None:
    """Remove a Workflow and its Pods, running or not. Raises NotFoundError."""
    with store.transaction():
        store.delete("Workflow", namespace, name)
        for pod in store.list("Pod", namespace, {LABEL + "workflow": name}):
            try:
                store.delete("Pod", namespace, pod["metadata"]["name"])
            except NotFoundError:  # pragma: no cover - listed in the same transaction
                continue


def delete_template(store: Store, namespace: str, name: str) -> None:
    """Remove a WorkflowTemplate; Workflows that began keep their copy of it. Raises NotFoundError."""
    store.delete("WorkflowTemplate", namespace, name)


def finished(workflow: Object) -> bool:
    return (workflow.get("status") or {}).get("phase") in COMPLETED
