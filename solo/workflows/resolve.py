"""Templates: finding the one that is meant, and filling in its arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from solo.expressions import AbsentError, ExpressionError, UnresolvedError, substitute
from solo.workflows.operation import Operation, Scope, WorkflowError, dump

TYPES = ("container", "script", "dag", "suspend")
# put in place of an argument that names the output of a skipped task; the input's own default applies then
ABSENT = "\0absent"


def template_of(op: Operation, holder: Mapping[str, Any], scope: Scope) -> tuple[Scope, dict[str, Any]]:
    """The template that a task (or `{"template": …}`) names, seen from `scope`, and the scope of what it names in turn.

    A template of another object is stored in the status at first use: what runs does not change under a Workflow.
    """
    ref = holder.get("templateRef")
    if ref:
        scope, name = Scope("namespaced", ref["name"]), ref["template"]
    else:
        name = holder["template"]
    if scope.kind == "local":
        template = find(op.spec.get("templates"), name)
        if template is None:
            raise WorkflowError(f"template {name} not found")
        return scope, _with_pod_metadata(template, op.spec.get("podMetadata"))
    key = f"{scope}/{name}"
    stored = op.status.get("storedTemplates") or {}
    if key not in stored:
        source = op.templates(scope.name)
        if source is None:
            raise WorkflowError(f"workflow template {scope.name} not found")
        template = find(source["spec"].get("templates"), name)
        if template is None:
            raise WorkflowError(f"template {name} not found in workflow template {scope.name}")
        template = _with_pod_metadata(template, source["spec"].get("podMetadata"))
        op.status["storedTemplates"] = stored = {**stored, key: template}
    found: dict[str, Any] = stored[key]
    return scope, found


def find(items: Any, name: str) -> dict[str, Any] | None:
    """The element of a list that is called `name`."""
    return next((item for item in items or [] if item["name"] == name), None)


def scope_of(node: Mapping[str, Any]) -> Scope:
    kind, _, name = node["templateScope"].partition("/")
    return Scope(kind, name)


def node_template(op: Operation, node: Mapping[str, Any]) -> dict[str, Any]:
    """The template of a node, arguments not filled in."""
    holder = {"templateRef": node["templateRef"]} if "templateRef" in node else {"template": node["templateName"]}
    return template_of(op, holder, scope_of(node))[1]


def template_name(node: Mapping[str, Any]) -> str:
    return str(node["templateRef"]["template"] if "templateRef" in node else node["templateName"])


def kind_of(template: Mapping[str, Any]) -> str:
    return next((kind for kind in TYPES if kind in template), "")


def fill(
    template: Mapping[str, Any], arguments: Mapping[str, Any], globals_: Mapping[str, str], local: Mapping[str, str]
) -> dict[str, Any]:
    """A copy of the template with its inputs set from `arguments` or defaults and all tags replaced. WorkflowError."""
    inputs = template.get("inputs") or {}
    filled: dict[str, Any] = {}
    if inputs.get("parameters"):
        filled["parameters"] = [_parameter(item, arguments) for item in inputs["parameters"]]
    if inputs.get("artifacts"):
        filled["artifacts"] = [_artifact(item, arguments) for item in inputs["artifacts"]]
    return replace_tags({**template, "inputs": {**inputs, **filled}}, globals_, local)


def replace_tags(template: Mapping[str, Any], globals_: Mapping[str, str], local: Mapping[str, str]) -> dict[str, Any]:
    """Workflow-wide and local tags first, because inputs may name them, then the inputs' own. Without `metrics`, whose
    tags stand for how the node ends.
    """
    template = {key: value for key, value in template.items() if key != "metrics"}
    variables = {**globals_, **local}
    try:
        result: dict[str, Any] = json.loads(substitute(dump(template), variables))
        inputs, outputs = result.get("inputs") or {}, result.get("outputs") or {}
        for item in inputs.get("parameters") or []:
            variables[f"inputs.parameters.{item['name']}"] = text_of(item["value"])
        variables["inputs.parameters"] = dump(inputs.get("parameters") or [])
        for prefix, artifacts in (("inputs", inputs.get("artifacts")), ("outputs", outputs.get("artifacts"))):
            for item in artifacts or []:
                if item.get("path"):
                    variables[f"{prefix}.artifacts.{item['name']}.path"] = item["path"]
        for item in outputs.get("parameters") or []:
            path = (item.get("valueFrom") or {}).get("path")
            if path:
                variables[f"outputs.parameters.{item['name']}.path"] = path
        result = json.loads(substitute(dump(result), variables))
    except (AbsentError, UnresolvedError, ExpressionError) as error:
        raise WorkflowError(str(error)) from None
    except ValueError as error:
        raise WorkflowError(f"cannot replace the tags of template {template.get('name')}: {error}") from None
    return result


def text_of(value: Any) -> str:
    """A parameter's value: YAML may give a number or a bool, Argo keeps text."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"))


def _parameter(item: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    given = find(arguments.get("parameters"), item["name"])
    value = item.get("value", item.get("default"))
    if given is not None and given.get("value") == ABSENT:
        if value is None:
            raise WorkflowError(
                f"inputs.parameters.{item['name']}: argument references an absent optional "
                "(skipped/omitted node output with no default)"
            )
    elif given is not None:
        value = given.get("value")
    if value is None:
        raise WorkflowError(f"inputs.parameters.{item['name']} was not supplied")
    return {**item, "value": text_of(value)}


def _artifact(item: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    given = find(arguments.get("artifacts"), item["name"])
    if given is None:
        if not item.get("optional") and not has_location(item):
            raise WorkflowError(f"inputs.artifacts.{item['name']} was not supplied")
        return dict(item)
    if not item.get("optional") and not has_location(item) and not has_location(given):
        raise WorkflowError(f"inputs.artifacts.{item['name']} missing location information")
    # where the step before had it is none of this one's business. Source: ProcessArgs, workflow/common/util.go
    own = {key: item[key] for key in ("path", "mode", "optional") if key in item}
    return {**{key: value for key, value in given.items() if key not in ("path", "mode")}, **own}


def has_location(artifact: Mapping[str, Any]) -> bool:
    return "raw" in artifact or "gcs" in artifact


def _with_pod_metadata(template: dict[str, Any], metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    if not metadata:
        return template
    own = template.get("metadata") or {}
    merged = {
        key: {**(metadata.get(key) or {}), **(own.get(key) or {})}
        for key in ("labels", "annotations")
        if metadata.get(key) or own.get(key)
    }
    return {**template, "metadata": merged}
