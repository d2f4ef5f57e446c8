"""DAG templates: which tasks may run, what they are given, and what the whole becomes."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from solo.expressions import (
    AbsentError,
    Depends,
    ExpressionError,
    UnresolvedError,
    evaluate,
    evaluate_when,
    nest,
    parse_depends,
    substitute,
)
from solo.expressions.depends import DEFAULT
from solo.expressions.golang import to_json, to_text
from solo.workflows import times
from solo.workflows.operation import (
    COMPLETED,
    FULFILLED,
    UNSUCCESSFUL,
    Operation,
    Scope,
    TimeoutReached,
    WaitError,
    WorkflowError,
    dump,
)
from solo.workflows.resolve import ABSENT, template_of, text_of

if TYPE_CHECKING:
    from solo.workflows.execute import Call

RESULTS = {
    "Succeeded": "Succeeded",
    "Failed": "Failed",
    "Error": "Errored",
    "Skipped": "Skipped",
    "Omitted": "Omitted",
}

Execute = Callable[[Operation, "Call"], dict[str, Any]]


def run_dag(
    op: Operation, node: dict[str, Any], template: Mapping[str, Any], inner: Scope, call: Call, execute: Execute
) -> None:
    """Start what may start, and finish `node` if all is done. Raises WorkflowError if its outputs cannot be made."""
    dag = _Dag(op, node, template, inner, call, execute)
    for target in dag.targets:
        dag.advance(target)
    phase = dag.phase()
    if phase == "Running":
        return
    if phase == "Succeeded":
        outputs = dag.outputs()
        if outputs:
            node["outputs"] = outputs
    node["outboundNodes"] = [end for target in dag.targets if (found := dag.node(target)) for end in op.outbound(found)]
    op.mark(node, phase)


def depends_of(task: Mapping[str, Any]) -> Depends | None:
    """What a task waits for, from `depends` or the older `dependencies`."""
    text = task.get("depends") or " && ".join(task.get("dependencies") or [])
    return parse_depends(text) if text else None


class _Dag:
    """One DAG node during one operation."""

    def __init__(
        self,
        op: Operation,
        node: dict[str, Any],
        template: Mapping[str, Any],
        inner: Scope,
        call: Call,
        execute: Execute,
    ) -> None:
        self.op, self.own, self.template, self.inner, self.call, self.execute = op, node, template, inner, call, execute
        self.tasks: dict[str, dict[str, Any]] = {task["name"]: task for task in template["dag"]["tasks"]}
        self.depends = {name: depends_of(task) for name, task in self.tasks.items()}
        self.visited: set[str] = set()

    @cached_property
    def targets(self) -> list[str]:
        """The tasks that no other waits for."""
        needed = {name for depends in self.depends.values() if depends for name in depends.tasks}
        return sorted(name for name in self.tasks if name not in needed)

    def node_name(self, task: str) -> str:
        return f"{self.own['name']}.{task}"

    def node(self, task: str) -> dict[str, Any] | None:
        return self.op.node(self.node_name(task))

    # starting tasks

    def advance(self, name: str) -> None:
        """Bring a task as far as it gets, what it depends on first."""
        if name in self.visited:
            return
        self.visited.add(name)
        node, task = self.node(name), self.tasks[name]
        if node is not None and (node["phase"] in FULFILLED or (node["type"] == "Pod" and node["phase"] == "Running")):
            return
        depends = self.depends[name]
        if depends is not None:
            for dependency in depends.tasks:
                self.advance(dependency)
            if node is None:
                held = self._held(depends)
                if held is None:
                    return
                if not held:
                    self._leave_out(task, "Omitted", "omitted: depends condition not met")
                    return
        try:
            resolved, variables = self._resolve(task)
            expanded = self._expand(resolved, variables)
        except (WorkflowError, AbsentError, UnresolvedError, ExpressionError) as error:
            if node is None:
                self._leave_out(task, "Error", str(error))
            else:
                self.op.mark(node, "Error", str(error))
            return
        group = None
        if _expands(task):
            if not expanded:
                self._leave_out(task, "Skipped", "Skipped, empty params")
                return
            group = node if node is not None else self._add(task, name, "TaskGroup", "Running")
        done = True
        for one in expanded:
            fulfilled = self._start(one, depends, group)
            if fulfilled is None:
                return
            done = done and fulfilled
        if done and group is not None:
            self._finish_group(group, expanded)

    def _start(self, task: dict[str, Any], depends: Depends | None, group: dict[str, Any] | None) -> bool | None:
        """One task, or one element of a loop: whether its node is fulfilled; None if no more may start now."""
        op, name = self.op, self.node_name(task["name"])
        node = op.node(name)
        if node is None:
            self._connect(name, depends, group)
            try:
                proceed = evaluate_when(task.get("when", ""))
            except ExpressionError as error:
                self._add(task, task["name"], "Skipped", "Error", str(error), group)
                return True
            if not proceed:
                self._add(task, task["name"], "Skipped", "Skipped", f"when '{task['when']}' evaluated false", group)
                return True
        call = replace(
            self.call,
            name=name,
            holder=task,
            scope=self.inner,
            arguments=task.get("arguments") or {},
            boundary=self.own["id"],
            flag=None,
            before=None,
            depth=self.call.depth + 1,
        )
        try:
            node = self.execute(op, call)
        except WaitError:
            node = op.node(name)
        except TimeoutReached as reached:
            node = op.node(name)
            assert node is not None
            op.mark(node, "Failed", str(reached))
        except WorkflowError as error:
            node = op.node(name)
            assert node is not None
            op.mark(node, "Error", f"task '{name}' errored: {error}")
        return None if node is None else node["phase"] in FULFILLED

    def _finish_group(self, group: dict[str, Any], expanded: Iterable[Mapping[str, Any]]) -> None:
        phases = [node["phase"] for task in expanded if (node := self.node(task["name"]))]
        bad = [phase for phase in phases if phase in UNSUCCESSFUL]
        self.op.mark(group, bad[-1] if bad else "Succeeded")

    def _held(self, depends: Depends) -> bool | None:
        """Whether the condition holds; None while something it speaks of is not finished."""
        results: dict[str, frozenset[str]] = {}
        for name in depends.tasks:
            node = self.node(name)
            if node is None or node["phase"] not in FULFILLED:
                return None
            found = {RESULTS[node["phase"]]}
            children = [child["phase"] for child in self.op.children(node)] if node["type"] == "TaskGroup" else []
            if "Succeeded" in children:
                found.add("AnySucceeded")
            if children and all(phase == "Failed" for phase in children):
                found.add("AllFailed")
            results[name] = frozenset(found)
        return depends.holds(results, lambda _: DEFAULT)

    def _connect(self, name: str, depends: Depends | None, group: dict[str, Any] | None) -> None:
        """Hang a new node on what it follows: its loop, the ends of its dependencies, or the DAG."""
        if group is not None:
            self.op.add_child(group, name)
        elif depends is None:
            self.op.add_child(self.own, name)
        else:
            for dependency in depends.tasks:
                node = self.node(dependency)
                for end in self.op.outbound(node) if node else []:
                    self.op.add_child(self.op.nodes[end], name)

    def _add(
        self,
        task: Mapping[str, Any],
        name: str,
        kind: str,
        phase: str,
        message: str = "",
        group: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        if group is None:
            self._connect(self.node_name(name), self.depends.get(name), None)
        return self.op.add_node(
            self.node_name(name), kind, task, self.inner, phase, boundary=self.own["id"], message=message
        )

    def _leave_out(self, task: Mapping[str, Any], phase: str, message: str) -> None:
        self._add(task, task["name"], "Skipped", phase, message)

    # what a task is given

    def _resolve(self, task: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The task with the outputs of earlier tasks put in, and the variables for expanding it."""
        scope = self._scope(task["name"])
        variables = {**self.op.variables, **{key: v for key, v in scope.items() if not isinstance(v, dict)}}
        strict = ("tasks", "steps")
        if task.get("when"):
            when = json.loads(substitute(dump(task["when"]), variables, strict))
            try:
                proceed = evaluate_when(when)
            except ExpressionError:
                # it may speak of {{item}}, which is known after expansion only
                if not _expands(task):
                    raise
                proceed = True
            if not proceed:
                return {**task, "when": when}, variables
        arguments = dict(task.get("arguments") or {})
        if arguments.get("parameters"):
            arguments["parameters"] = [
                {**item, "value": ABSENT} if _absent(item.get("value"), scope) else item
                for item in arguments["parameters"]
            ]
        resolved: dict[str, Any] = json.loads(substitute(dump({**task, "arguments": arguments}), variables, strict))
        artifacts = []
        for item in resolved["arguments"].get("artifacts") or []:
            if "from" not in item:
                artifacts.append(item)
                continue
            try:
                artifacts.append({**_artifact(item, scope), "name": item["name"]})
            except KeyError as missing:
                if not item.get("optional"):
                    raise WorkflowError(f'Unable to resolve: "{missing.args[0]}"') from None
        if artifacts or "artifacts" in resolved["arguments"]:
            resolved["arguments"]["artifacts"] = artifacts
        return resolved, variables

    def _ancestors(self, name: str) -> list[str]:
        """All tasks upstream, by the time they finished: of two that set the same variable the later one counts."""
        seen: dict[str, None] = {}

        def visit(current: str) -> None:
            depends = self.depends[current]
            for dependency in depends.tasks if depends else ():
                if dependency not in seen:
                    visit(dependency)
                    seen[dependency] = None

        visit(name)
        return list(seen)

    def _scope(self, name: str) -> dict[str, Any]:
        return self._scope_of(self._ancestors(name))

    def _scope_of(self, tasks: Iterable[str]) -> dict[str, Any]:
        """Variables: strings, None for the output of a skipped task without a default, a dict for an artifact."""
        scope: dict[str, Any] = {}
        inputs = self.template.get("inputs") or {}
        for item in inputs.get("parameters") or []:
            scope[f"inputs.parameters.{item['name']}"] = item["value"]
        for item in inputs.get("artifacts") or []:
            scope[f"inputs.artifacts.{item['name']}"] = item
        for name in tasks:
            node = self.node(name)
            if node is not None:
                scope.update(self._task_variables(name, node))
        return scope

    def _task_variables(self, name: str, node: dict[str, Any]) -> dict[str, Any]:
        prefix = f"tasks.{name}."
        found: dict[str, Any] = {}
        if node["type"] == "TaskGroup":
            found.update(_aggregate(prefix, self.op.children(node)))
        skipped = node["phase"] in ("Skipped", "Omitted") and "outputs" not in node
        if node["type"] == "Retry":
            node = (self.op.attempts(node) or [node])[-1]
        found[prefix + "id"] = node["id"]
        found[prefix + "status"] = node["phase"]
        for key in ("startedAt", "finishedAt"):
            if node.get(key):
                found[prefix + key] = times.to_seconds(node[key])
        if "hostNodeName" in node:
            found[prefix + "hostNodeName"] = node["hostNodeName"]
        outputs = node.get("outputs") or {}
        if "result" in outputs:
            found[prefix + "outputs.result"] = outputs["result"]
        if "exitCode" in outputs:
            found[prefix + "exitCode"] = outputs["exitCode"]
        for item in outputs.get("parameters") or []:
            found[f"{prefix}outputs.parameters.{item['name']}"] = item["value"]
        for item in outputs.get("artifacts") or []:
            found[f"{prefix}outputs.artifacts.{item['name']}"] = item
        if skipped:
            template = template_of(self.op, self.tasks[name], self.inner)[1]
            for item in (template.get("outputs") or {}).get("parameters") or []:
                default = (item.get("valueFrom") or {}).get("default")
                value = None if default is None else text_of(default)
                found[f"{prefix}outputs.parameters.{item['name']}"] = value
        return found

    def _expand(self, task: dict[str, Any], variables: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One task for each item of `withItems` or `withParam`; the task itself if it has neither."""
        if not _expands(task):
            return [task]
        items = task.get("withItems") or []
        if task.get("withParam"):
            try:
                items = json.loads(task["withParam"])
                if not isinstance(items, list):
                    raise ValueError("it is not a list")
            except ValueError as error:
                if not _never(task.get("when", "")):
                    text = str(task["withParam"]).strip()
                    raise WorkflowError(
                        f"withParam value could not be parsed as a JSON list: {text}: {error}"
                    ) from None
                items = []
        document = dump({key: value for key, value in task.items() if key not in ("withItems", "withParam")})
        never = _never(task.get("when", ""))
        known = {key: value for key, value in variables.items() if value is not None} if never else variables
        expanded = []
        for index, item in enumerate(items):
            values, label = _item(item)
            one = json.loads(substitute(document, {**known, **values}, None if never else ("",)))
            expanded.append({**one, "name": f"{task['name']}({index}:{re.sub('[()]', '', label)})"})
        return expanded

    # what the DAG becomes

    def phase(self) -> str:
        """Running until all is done. A branch has the phase of the last task in it that ran."""
        if self.op.shutdown and not self.call.exit_handler:
            return "Failed"
        branches = {self.node_name(target): "" for target in self.targets}
        queue = deque((child, "Succeeded") for child in self.own.get("children", []))
        seen = set(queue)
        while queue:
            node_id, branch = queue.popleft()
            node = self.op.nodes.get(node_id)
            if node is None or node["phase"] not in FULFILLED:
                return "Running"
            if node["phase"] in COMPLETED:
                branch = node["phase"]
            name = node["name"]
            if name in branches and branches[name] not in UNSUCCESSFUL:
                branches[name] = branch
            for child in self._next(node):
                if (child, branch) not in seen:
                    seen.add((child, branch))
                    queue.append((child, branch))
        fail_fast = self.template["dag"].get("failFast", True)
        result = "Succeeded"
        for branch in branches.values():
            if branch == "":
                result = "Running"
                if not fail_fast:
                    break
            elif branch in UNSUCCESSFUL:
                result = branch
                if fail_fast:
                    break
        return result

    def _next(self, node: Mapping[str, Any]) -> list[str]:
        # a finished Retry node says what its tries came to; what follows hangs on the last of them
        if node["type"] == "Retry":
            return [after for child in reversed(self.op.children(node)) for after in child.get("children", [])]
        return list(node.get("children", []))

    def outputs(self) -> dict[str, Any]:
        """The outputs that the template declares, taken from its tasks."""
        declared = self.template.get("outputs") or {}
        if not declared.get("parameters") and not declared.get("artifacts"):
            return {}
        scope = self._scope_of(self.tasks)
        outputs: dict[str, Any] = {}
        if declared.get("parameters"):
            outputs["parameters"] = [
                {"name": item["name"], "value": _output(item, scope)} for item in declared["parameters"]
            ]
        artifacts = []
        for item in declared.get("artifacts") or []:
            try:
                artifacts.append({**_artifact(item, scope), "name": item["name"]})
            except KeyError as missing:
                if not item.get("optional"):
                    problem = f'unable to resolve outputs from scope: Unable to resolve: "{missing.args[0]}"'
                    raise WorkflowError(problem) from None
        if declared.get("artifacts"):
            outputs["artifacts"] = artifacts
        return outputs


def _expands(task: Mapping[str, Any]) -> bool:
    return bool(task.get("withItems") or task.get("withParam"))


def _never(when: str) -> bool:
    """Whether a `when` is false already, before items are put in."""
    try:
        return not evaluate_when(when)
    except ExpressionError:
        return False


def _absent(value: Any, scope: Mapping[str, Any]) -> bool:
    """Whether a value is nothing but a tag for the output of a skipped task without a default."""
    if not isinstance(value, str) or not (value.startswith("{{") and value.endswith("}}")):
        return False
    name = value[2:-2].strip()
    return name in scope and scope[name] is None


def _artifact(item: Mapping[str, Any], scope: Mapping[str, Any]) -> dict[str, Any]:
    """Raises KeyError with the tag that names nothing."""
    if item.get("fromExpression"):
        try:
            found = evaluate(item["fromExpression"], nest(scope))
        except ExpressionError as error:
            raise WorkflowError(str(error)) from None
        if found is None:
            raise KeyError(item["fromExpression"])
    else:
        tag = item["from"].removeprefix("{{").removesuffix("}}").strip()
        found = evaluate(tag[1:], nest(scope)) if tag.startswith("=") else scope[tag]
    if not isinstance(found, dict):
        raise WorkflowError(f"{item.get('fromExpression') or item['from']} is not an artifact")
    return dict(found)


def _output(item: Mapping[str, Any], scope: Mapping[str, Any]) -> str:
    source = item["valueFrom"]
    default = None if source.get("default") is None else text_of(source["default"])
    if source.get("expression"):
        try:
            value = evaluate(source["expression"], nest(scope))
            if value is None and default is None:
                raise WorkflowError(f'failed to evaluate expression "{source["expression"]}"')
        except ExpressionError as error:
            if default is None:
                raise WorkflowError(str(error)) from None
            value = default
    else:
        tag = source["parameter"].removeprefix("{{").removesuffix("}}").strip()
        if tag not in scope and default is None:
            raise WorkflowError(f'Unable to resolve: "{tag}"')
        value = scope.get(tag, default)
    if value is None:
        value = default
    if value is None:
        raise WorkflowError(
            f'output parameter "{item["name"]}": "{source["parameter"]}" is an absent optional '
            "(skipped/omitted node output with no default)"
        )
    return value if isinstance(value, str) else to_json(value)


def _item(item: Any) -> tuple[dict[str, str], str]:
    """The variables that an item sets, and how it is called in the node's name."""
    if isinstance(item, dict):
        values = {f"item.{key}": _word(value) for key, value in item.items()}
        return {**values, "item": to_json(item)}, ",".join(
            sorted(f"{key}:{_word(value)}" for key, value in item.items())
        )
    if isinstance(item, list):
        return {"item": to_json(item)}, to_text([_word(value) for value in item])
    return {"item": _word(item)}, _word(item)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value)


def _aggregate(prefix: str, children: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The outputs of a loop, as JSON lists in the order of its items."""
    parameters: list[dict[str, str]] = []
    values: dict[str, list[str]] = {}
    results: list[Any] = []
    for child in children:
        outputs = child.get("outputs") or {}
        if child["phase"] != "Succeeded":
            continue
        if outputs.get("parameters"):
            parameters.append({item["name"]: item["value"] for item in outputs["parameters"]})
            for item in outputs["parameters"]:
                values.setdefault(item["name"], []).append(item["value"])
        if "result" in outputs:
            results.append(_json_or_text(outputs["result"]))
    found = {prefix + "outputs.result": dump(results), prefix + "outputs.parameters": dump(parameters)}
    for name, texts in values.items():
        read = [_json_or_text(text) for text in texts]
        found[f"{prefix}outputs.parameters.{name}"] = dump(
            read if all(isinstance(value, dict | list) for value in read) else texts
        )
    return found


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
