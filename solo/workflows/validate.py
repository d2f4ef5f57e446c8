"""What Argo rejects when a Workflow is submitted, and what solo rejects besides: expressions that it cannot read.

Everything is found in the text: which template a task means, whether an input gets a value, whether a tag can ever have
one. Words and order follow Argo's own validation, so that a user meets the same message on both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

from solo.expressions import ExpressionError, parse_expression, tags
from solo.store import Object
from solo.workflows import times
from solo.workflows.dag import depends_of
from solo.workflows.operation import dump
from solo.workflows.resolve import TYPES, find, has_location
from solo.workflows.retry import POLICIES

# only tags below these words are Argo's; any other stays as it is
_OURS = ("item.", "inputs.", "outputs.", "pod.", "workflow.", "tasks.", "steps.")
_LATER = ("outputs.", "workflow.creationTimestamp", "workflow.scheduledTime", "workflow.duration", "tasks.name")
_ALWAYS = {
    "workflow.name",
    "workflow.namespace",
    "workflow.uid",
    "workflow.mainEntrypoint",
    "workflow.serviceAccountName",
    "workflow.status",
    "workflow.parameters",
    "workflow.parameters.json",
    "workflow.labels",
    "workflow.labels.json",
    "workflow.annotations",
    "workflow.annotations.json",
}
_NAME = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9]*")
_ARGUMENT_NAME = re.compile(r"[-a-zA-Z0-9_]+")

Templates = Callable[[str], Object | None]


class ValidationError(Exception):
    """A Workflow that would not be accepted. The message names the template and the field."""


def validate(workflow: Object, templates: Templates) -> None:
    """Raises ValidationError. `templates` finds a WorkflowTemplate of the Workflow's namespace."""
    meta, spec = workflow["metadata"], workflow["spec"]
    name = meta.get("name") or meta.get("generateName", "")
    if len(name) > 63:
        _fail(f'workflow name "{name}" must not be more than 63 characters long (currently {len(name)})')
    ref = spec.get("workflowTemplateRef")
    base: dict[str, Any] = {}
    if ref:
        if spec.get("templates"):
            _fail("Templates is invalid field in spec if workflow referred WorkflowTemplate reference")
        source = templates(ref["name"])
        if source is None:
            _fail(f"workflow template {ref['name']} not found")
        base = source["spec"]
    check = _Validation(spec, base, meta, templates)
    check.run()


def validate_template(template: Object, templates: Templates) -> None:
    """Raises ValidationError for a WorkflowTemplate; entrypoint and arguments may be left to the Workflow."""
    name = template["metadata"].get("name") or template["metadata"].get("generateName", "")
    if len(name) > 63:
        _fail(f'workflow template name "{name}" must not be more than 63 characters long (currently {len(name)})')
    spec = template["spec"]
    _Validation(spec, {}, template["metadata"], templates, whole=False).run()


def _fail(message: str) -> NoReturn:
    raise ValidationError(message)


class _Validation:
    def __init__(
        self,
        spec: Mapping[str, Any],
        base: Mapping[str, Any],
        meta: Mapping[str, Any],
        templates: Templates,
        *,
        whole: bool = True,
    ) -> None:
        self.spec, self.base, self.templates, self.whole = spec, base, templates, whole
        self.local = base.get("templates") or spec.get("templates") or []
        self.arguments = _merged(spec.get("arguments") or {}, base.get("arguments") or {})
        self.handler = spec.get("onExit") or base.get("onExit")
        self.known = set(_ALWAYS)
        self.known |= {f"workflow.parameters.{item['name']}" for item in self.arguments["parameters"]}
        for kind in ("labels", "annotations"):
            names = set(meta.get(kind) or {})
            for source in (spec, base):
                metadata = source.get("workflowMetadata") or {}
                names |= set(metadata.get(kind) or {})
                if kind == "labels":
                    names |= set(metadata.get("labelsFrom") or {})
            self.known |= {f"workflow.{kind}.{key}" for key in names}
        if self.handler:
            self.known.add("workflow.failures")
        self.done: set[tuple[str, str]] = set()

    def run(self) -> None:
        _names(self.local, "spec.templates", _NAME)
        _arguments("spec.arguments.", self.arguments, values=self.whole)
        entrypoint = self.spec.get("entrypoint") or self.base.get("entrypoint")
        if not entrypoint and self.whole:
            _fail("spec.entrypoint is required")
        for source in (self.spec, self.base):
            for key, label in ((source.get("workflowMetadata") or {}).get("labelsFrom") or {}).items():
                _expression(label["expression"], f"spec.workflowMetadata.labelsFrom.{key}.expression")
        if entrypoint:
            self.holder({"template": entrypoint}, "", self.arguments)
        if self.handler:
            self.holder({"template": self.handler}, "", self.arguments)
        for template in self.local:
            try:
                self.holder({"template": template["name"]}, "", None)
            except ValidationError as error:
                _fail(f"templates.{template['name']} {error}")

    def holder(
        self, holder: Mapping[str, Any], owner: str, arguments: Mapping[str, Any] | None
    ) -> dict[str, Any] | None:
        """Check the template that a task names, and what it is given (None: anything). None if the name is a tag."""
        ref, name = holder.get("templateRef"), holder.get("template")
        if ref and name:
            _fail("template name cannot be specified with templateRef")
        if ref:
            if "{{" in dump(ref):
                return None
            source = self.templates(ref["name"])
            found = find(source["spec"].get("templates"), ref["template"]) if source else None
            if found is None:
                _fail(f"template reference {ref['name']}.{ref['template']} not found")
            owner, template = ref["name"], found
        else:
            if not name:
                _fail("template name is required")
            source = self.templates(owner) if owner else None
            found = find(source["spec"].get("templates") if source else self.local, str(name))
            if found is None:
                _fail(f"template name '{name}' undefined")
            template = found
        self.template(template, owner, arguments)
        return template

    def template(self, template: dict[str, Any], owner: str, arguments: Mapping[str, Any] | None) -> None:
        name = template["name"]
        kinds = [kind for kind in TYPES if kind in template]
        if len(kinds) != 1:
            _fail(f"templates.{name} must have exactly one of {', '.join(TYPES)}: solo runs no other templates")
        strategy = template.get("retryStrategy") or {}
        if strategy.get("retryPolicy") and strategy["retryPolicy"] not in POLICIES:
            _fail(f"{strategy['retryPolicy']} is not a valid RetryPolicy")
        inputs = template.get("inputs") or {}
        for kind in ("parameters", "artifacts"):
            _names(inputs.get(kind), f"templates.{name}.inputs.{kind}", _ARGUMENT_NAME)
        if arguments is not None:
            self._supplied(name, inputs, arguments)
        leaf = kinds[0] != "dag"
        if template.get("timeout"):
            if not leaf:
                _fail("DAG template doesn't support timeout field")
            if str(template["timeout"]).isdigit():
                _fail(f"{name} has invalid duration format in timeout")
        if (owner, name) in self.done:
            return
        self.done.add((owner, name))
        scope = self.known | {f"inputs.parameters.{item['name']}" for item in inputs.get("parameters") or []}
        scope.add("inputs.parameters")
        for item in inputs.get("artifacts") or []:
            scope |= {f"inputs.artifacts.{item['name']}", f"inputs.artifacts.{item['name']}.path"}
        if leaf:
            self._leaf(template, scope | {"pod.name"})
        else:
            scope |= self._dag(template, owner, scope)
        self._outputs(template, scope, leaf)
        if strategy.get("expression"):
            _expression(strategy["expression"], f"templates.{name}.retryStrategy.expression")
        _duration((strategy.get("backoff") or {}).get("duration"), f"templates.{name}.retryStrategy.backoff.duration")
        _duration(template.get("timeout"), f"templates.{name}.timeout")

    def _supplied(self, name: str, inputs: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        for item in inputs.get("parameters") or []:
            given = find(arguments.get("parameters"), item["name"])
            if given is None and "value" not in item and "default" not in item:
                _fail(f"templates.{name} inputs.parameters.{item['name']} was not supplied")
        for item in inputs.get("artifacts") or []:
            given = find(arguments.get("artifacts"), item["name"])
            if given is None and not item.get("optional") and not has_location(item):
                _fail(f"templates.{name} inputs.artifacts.{item['name']} was not supplied")

    def _leaf(self, template: Mapping[str, Any], scope: set[str]) -> None:
        name = template["name"]
        outputs = template.get("outputs") or {}
        own = {f"outputs.artifacts.{item['name']}.path" for item in outputs.get("artifacts") or []}
        own |= {f"outputs.parameters.{item['name']}.path" for item in outputs.get("parameters") or []}
        _resolvable(template, scope | own, f"templates.{name}:")
        container = template.get("container") or template.get("script")
        if container is not None and not container.get("image"):
            _fail(f"templates.{name}.{'script' if 'script' in template else 'container'}.image may not be empty")
        mounts: dict[str, str] = {}
        for index, mount in enumerate((container or {}).get("volumeMounts") or []):
            at = f"container.volumeMounts.{mount['name']}"
            if mounts.setdefault(mount["mountPath"], at) != at:
                _fail(
                    f"templates.{name}.container.volumeMounts[{index}].mountPath '{mount['mountPath']}' "
                    f"already mounted in {mounts[mount['mountPath']]}"
                )
        for index, item in enumerate((template.get("inputs") or {}).get("artifacts") or []):
            at = f"inputs.artifacts.{item['name']}"
            if not item.get("path"):
                _fail(f"error in templates.{name}.{at}: artifact path is required")
            if mounts.setdefault(item["path"], at) != at:
                place = f"templates.{name}.inputs.artifacts[{index}].path"
                _fail(f"{place} '{item['path']}' already mounted in {mounts[item['path']]}")
        limit = template.get("activeDeadlineSeconds")
        if limit is not None and "{{" not in str(limit) and not (str(limit).isdigit() and int(limit) > 0):
            _fail(f"templates.{name}.activeDeadlineSeconds must be a positive integer > 0 or an argo variable")
        if template.get("parallelism") is not None:
            _fail(f"templates.{name}.parallelism is only valid for steps and dag templates")

    def _dag(self, template: Mapping[str, Any], owner: str, scope: set[str]) -> set[str]:
        """Check all tasks; returns the variables that the DAG's outputs may use."""
        name = template["name"]
        if template.get("activeDeadlineSeconds") is not None:
            _fail(f"templates.{name}.activeDeadlineSeconds is only valid for leaf templates")
        tasks = {task["name"]: task for task in template["dag"].get("tasks") or []}
        if not tasks:
            _fail(f"templates.{name} must have at least one task")
        _names(template["dag"]["tasks"], f"templates.{name}.tasks", _NAME)
        upstream = _upstream(name, tasks)
        outputs: dict[str, set[str]] = {}
        for task in tasks.values():
            where = f"templates.{name}.tasks.{task['name']}"
            try:
                found = self.holder(task, owner, None)
            except ValidationError as error:
                _fail(f"{where} {error}")
            outputs[task["name"]] = _task_variables(task, found)
        for task in tasks.values():
            where = f"templates.{name}.tasks.{task['name']}"
            allowed = scope.union(*(outputs[ancestor] for ancestor in upstream[task["name"]]))
            self._task(task, where, allowed, upstream[task["name"]])
            try:
                self.holder(task, owner, task.get("arguments") or {})
            except ValidationError as error:
                _fail(f"{where} {error}")
        return set().union(*outputs.values())

    def _task(self, task: Mapping[str, Any], where: str, allowed: set[str], ancestors: Collection[str]) -> None:
        arguments = task.get("arguments") or {}
        _arguments(f"{where}.arguments.", arguments)
        for kind, field in (("parameter", "value"), ("artifact", "from")):
            for item in arguments.get(f"{kind}s") or []:
                used = re.match(r"\{\{\s*tasks\.([^.}]+)", str(item.get(field, "")))
                if used and used[1] not in ancestors:
                    _fail(f"{where} missing dependency '{used[1]}' for {kind} '{item['name']}'")
        loops = [key for key in ("withItems", "withParam") if task.get(key)]
        if len(loops) > 1:
            _fail(f"{where} only one of withItems, withParam, withSequence can be specified")
        items = task.get("withItems") or []
        keys = {f"item.{key}" for item in items if isinstance(item, dict) for key in item}
        _resolvable(task, allowed | keys, where, any_item=bool(task.get("withParam")))

    def _outputs(self, template: Mapping[str, Any], scope: set[str], leaf: bool) -> None:
        name, outputs = template["name"], template.get("outputs") or {}
        for kind in ("parameters", "artifacts"):
            _names(outputs.get(kind), f"templates.{name}.outputs.{kind} ", _ARGUMENT_NAME)
        if not leaf:
            _resolvable(outputs, scope, f"templates.{name}.outputs")
        for item in outputs.get("parameters") or []:
            where, source = f"templates.{name}.outputs.parameters.{item['name']}", item.get("valueFrom")
            if not source:
                _fail(f"{where} does not have valueFrom or value specified")
            if leaf and not source.get("path"):
                _fail(
                    f"{where}.path must be specified for {next(kind for kind in TYPES if kind in template)} templates"
                )
            if not leaf and bool(source.get("parameter")) == bool(source.get("expression")):
                _fail(f"{where}: one of parameter and expression must be specified for DAG templates")
            if source.get("expression"):
                _expression(source["expression"], f"{where}.valueFrom.expression")
        for item in outputs.get("artifacts") or []:
            where = f"templates.{name}.outputs.artifacts.{item['name']}"
            if leaf and not item.get("path"):
                _fail(f"error in {where}: artifact path is required")
            if not leaf and item.get("path"):
                _fail(f"{where}.path only valid in container/script templates")
            if not leaf and not item.get("from") and not item.get("fromExpression"):
                _fail(f"{where}: from or fromExpression is required")
            if item.get("fromExpression"):
                _expression(item["fromExpression"], f"{where}.fromExpression")


def _merged(own: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, list[Any]]:
    merged: dict[str, list[Any]] = {}
    for kind in ("parameters", "artifacts"):
        items = {item["name"]: item for item in base.get(kind) or []}
        items.update({item["name"]: item for item in own.get(kind) or []})
        merged[kind] = list(items.values())
    return merged


def _names(items: Any, where: str, pattern: re.Pattern[str]) -> None:
    seen: set[str] = set()
    for index, item in enumerate(items or []):
        name = item.get("name")
        if not name:
            _fail(f"{where}[{index}].name is required")
        if not pattern.fullmatch(name) or len(name) > 128:
            allowed = (
                "letters, digits and '-', the first not '-'" if pattern is _NAME else "letters, digits, '_' and '-'"
            )
            _fail(f"{where}[{index}].name: '{name}' is invalid: a name has at most 128 {allowed}")
        if name in seen:
            _fail(f"{where}[{index}].name '{name}' is not unique")
        seen.add(name)


def _arguments(where: str, arguments: Mapping[str, Any], *, values: bool = True) -> None:
    for kind in ("parameters", "artifacts"):
        _names(arguments.get(kind), f"{where}{kind}", _ARGUMENT_NAME)
    if not values:
        return
    for item in arguments.get("parameters") or []:
        if item.get("value") is None:
            _fail(f"{where}{item['name']}.value or {where}{item['name']}.valueFrom is required")
    for item in arguments.get("artifacts") or []:
        if not item.get("from") and not has_location(item):
            _fail(f"{where}{item['name']}.from, artifact location, or key is required")


def _upstream(name: str, tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, set[str]]:
    """All tasks that each task comes after."""
    direct: dict[str, tuple[str, ...]] = {}
    uses_depends = any(task.get("depends") for task in tasks.values())
    for task in tasks.values():
        where = f"templates.{name}.tasks.{task['name']}"
        if uses_depends and task.get("dependencies"):
            _fail(f"templates.{name} cannot use both 'depends' and 'dependencies' in the same DAG template")
        try:
            depends = depends_of(task)
        except ExpressionError as error:
            _fail(f"{where} depends: {error}")
        direct[task["name"]] = depends.tasks if depends else ()
        if (uses_depends or task.get("dependencies")) and task["name"][0].isdigit():
            _fail(f"{where} name cannot begin with a digit when using either 'depends' or 'dependencies'")
        for dependency in direct[task["name"]]:
            if dependency not in tasks:
                _fail(f"{where} dependency '{dependency}' not defined")
        for dependency in depends.items if depends else ():
            if not tasks[dependency].get("withItems") and not tasks[dependency].get("withParam"):
                _fail(
                    f"{where} dependency '{dependency}' uses an items-based condition such as .AnySucceeded or "
                    ".AllFailed but does not contain any items"
                )
    upstream: dict[str, set[str]] = {}

    def visit(task: str, path: tuple[str, ...]) -> set[str]:
        if task in path:
            cycle = "->".join((*path[path.index(task) :], task))
            _fail(f"templates.{name}.tasks dependency cycle detected: {cycle}")
        if task not in upstream:
            upstream[task] = set().union(*({d} | visit(d, (*path, task)) for d in direct[task]))
        return upstream[task]

    for name_ in tasks:
        visit(name_, ())
    return upstream


def _task_variables(task: Mapping[str, Any], template: Mapping[str, Any] | None) -> set[str]:
    prefix = f"tasks.{task['name']}."
    found = {prefix + key for key in ("id", "status", "startedAt", "finishedAt", "hostNodeName")}
    if template is None:
        return found
    if "container" in template or "script" in template:
        found |= {prefix + "outputs.result", prefix + "exitCode"}
    if task.get("withItems") or task.get("withParam"):
        found |= {prefix + "outputs.parameters", prefix + "outputs.result"}
    outputs = template.get("outputs") or {}
    for kind in ("parameters", "artifacts"):
        found |= {f"{prefix}outputs.{kind}.{item['name']}" for item in outputs.get(kind) or []}
    return found


def _resolvable(part: Any, scope: Collection[str], where: str, *, any_item: bool = False) -> None:
    """Each tag of Argo's own must be one that will have a value; each expression must be one that solo can read."""
    text = dump(part)
    if "{{" not in text:
        return
    try:
        found = list(tags(text))
    except ValueError as error:
        _fail(f"{where} {error}")
    for tag in found:
        if tag.startswith("="):
            _expression(_unescaped(tag[1:]), where)
            continue
        name = tag.strip()
        if not name.startswith(_OURS) or name in scope or name.startswith(_LATER) or "{{" in name:
            continue
        if any_item and name.startswith("item."):
            continue
        _fail(f"{where} failed to resolve {{{{{tag}}}}}")


def _unescaped(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text


def _expression(text: str, where: str) -> None:
    try:
        parse_expression(text)
    except ExpressionError as error:
        _fail(f"{where} {error}")


def _duration(text: Any, where: str) -> None:
    if text and "{{" not in str(text):
        try:
            times.duration(text)
        except ValueError as error:
            _fail(f"{where} {error}")
