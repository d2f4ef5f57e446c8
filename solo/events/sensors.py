"""What a Sensor makes of an event. Pure: the bus and `simulate` call the same function.

One verdict for each trigger and each of its dependencies on that event; a trigger with `conditions: a || b` fires
once for every dependency that takes the event, as on the real bus.
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from solo.events.event import Event
from solo.events.filters import FilterVerdict, judge
from solo.events.grammar import LanguageError
from solo.events.jsontext import plain, text
from solo.events.paths import ABSENT, get, put
from solo.events.templates import NO_VALUE, render
from solo.store import Object

SENSOR_LABEL, TRIGGER_LABEL = "events.argoproj.io/sensor", "events.argoproj.io/trigger"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")


@dataclass(frozen=True)
class Verdict:
    """`workflow` is what will be created; None if a filter said no, or with `error` if it cannot be made."""

    namespace: str
    sensor: str
    trigger: str
    dependency: str
    passed: bool
    filters: list[FilterVerdict] = field(default_factory=list)
    workflow: Object | None = None
    error: str = ""
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For a terminal: each filter's answer, and the Workflow that would be created."""
        end = "would start a Workflow" if self.workflow else f"fails: {self.error}" if self.passed else "does not fire"
        lines = [f"Sensor {self.namespace}/{self.sensor}, trigger {self.trigger} (on {self.dependency}): {end}"]
        lines += [f"  {'yes' if one.passed else 'NO '} {one.asked}: {one.why}" for one in self.filters]
        lines += [f"  note: {note}" for note in self.notes]
        if self.workflow:
            lines += [f"  | {line}" for line in yaml.safe_dump(self.workflow, sort_keys=False).splitlines()]
        return "\n".join(lines)


def verdicts(sensor: Object, event: Event) -> list[Verdict]:
    """Empty if the Sensor waits for other events, or for the same name in another namespace."""
    meta, spec = sensor["metadata"], sensor["spec"]
    if meta.get("namespace", "") != event.namespace:
        return []
    dependencies = {item["name"]: item for item in spec["dependencies"]}
    out = []
    for trigger in spec["triggers"]:
        for name in condition_names(trigger["template"].get("conditions"), list(dependencies)):
            dependency = dependencies[name]
            if (dependency["eventSourceName"], dependency["eventName"]) == (event.source, event.subject):
                out.append(_verdict(sensor, trigger["template"], dependency, event))
    return out


def condition_names(conditions: str | None, names: list[str]) -> list[str]:
    """The dependencies each of which starts the trigger alone, in the order of `a || b`. Raises LanguageError."""
    if not conditions:
        if len(names) > 1:
            raise LanguageError(
                "without conditions a trigger waits for all dependencies together; solo does not: write `a || b`"
            )
        return names
    wanted = [name.strip() for name in conditions.split("||")]
    for name in wanted:
        if name not in names:
            problem = "is no dependency of this Sensor" if re.fullmatch(r"[\w-]+", name) else "is more than solo reads"
            raise LanguageError(f"'{name}' {problem}: write one dependency, or several with ||")
    return list(dict.fromkeys(wanted))


def _verdict(sensor: Object, template: Object, dependency: Object, event: Event) -> Verdict:
    meta = sensor["metadata"]
    place = (meta.get("namespace", ""), meta["name"], template["name"], dependency["name"])
    passed, filters = judge(dependency, event)
    if not passed:
        return Verdict(*place, False, filters)
    notes: list[str] = []
    try:
        workflow = _workflow(sensor, template, dependency["name"], event, notes)
    except LanguageError as error:
        return Verdict(*place, True, filters, error=str(error), notes=notes)
    refusal = api_refusal(workflow)
    return Verdict(*place, True, filters, workflow if not refusal else None, refusal, notes)


def _workflow(sensor: Object, template: Object, dependency: str, event: Event, notes: list[str]) -> Object:
    """The Workflow with its parameters set, in their order. Raises LanguageError where Argo's trigger would fail."""
    k8s = template["k8s"]
    workflow: Object = copy.deepcopy(k8s["source"]["resource"])
    for i, parameter in enumerate(k8s.get("parameters") or []):
        try:
            _apply(workflow, parameter, dependency, event, notes)
        except LanguageError as error:
            raise LanguageError(f"parameters[{i}] ({parameter['dest']}): {error}") from None
    meta = workflow.setdefault("metadata", {})
    meta.setdefault("namespace", sensor["metadata"].get("namespace", ""))
    meta["labels"] = {
        **(meta.get("labels") or {}),
        SENSOR_LABEL: sensor["metadata"]["name"],
        TRIGGER_LABEL: template["name"],
    }
    result: Object = plain(workflow)
    return result


def _apply(workflow: Object, parameter: Object, dependency: str, event: Event, notes: list[str]) -> None:
    source, dest = parameter["src"], parameter["dest"]
    resolved = _resolve(source, dependency, event, notes)
    if resolved is ABSENT:
        return
    operation = parameter.get("operation") or "overwrite"
    current = get(workflow, dest) if operation != "overwrite" else ABSENT
    if current is not ABSENT:
        pair = (text(current), _words(resolved))
        resolved = "".join(pair if operation == "append" else reversed(pair))
    elif not source.get("useRawData"):
        resolved = _words(resolved)
    if not put(workflow, dest, resolved):
        notes.append(f"{dest} is not in the resource: nothing is set there")


def _resolve(source: Object, dependency: str, event: Event, notes: list[str]) -> Any:
    """The template's text, else the key's value, else the default; ABSENT if it reads another dependency."""
    default = source.get("value", ABSENT)
    if source["dependencyName"] != dependency:
        return default
    failures = []
    if template := source.get("dataTemplate"):
        try:
            rendered = render(template, event.data)
            if NO_VALUE in rendered:
                notes.append(f"template '{template}' has no value for a part of it: '{rendered[:200]}'")
            return rendered
        except LanguageError as error:
            failures.append(str(error))
    if key := source.get("dataKey"):
        if (found := get(event.data, key)) is not ABSENT:
            return found
        failures.append(f"key '{key}' does not exist in this event")
    elif not template and (key := source.get("contextKey")):
        if (found := event.context().get(key, ABSENT)) is not ABSENT:
            return found
        failures.append(f"the event's context has no '{key}'")
    if default is ABSENT:
        raise LanguageError(" and ".join(failures))
    if failures:
        notes.append(f"default '{default}' is taken: {' and '.join(failures)}")
    return default


def _words(value: Any) -> str:
    return "null" if value is None else text(value)


def api_refusal(workflow: Object) -> str:
    """What the Kubernetes API would say of the names and texts that come from the event; empty if nothing."""
    meta = workflow["metadata"]
    name = meta.get("name") or f"{meta.get('generateName', '')}x"
    if not isinstance(name, str) or len(name) > 253 or not _NAME.fullmatch(name):
        return f'metadata.name: Invalid value: "{name}": lowercase letters, digits, "-" and "." only'
    for key, value in {**meta["labels"], **(meta.get("annotations") or {})}.items():
        if not isinstance(value, str):
            return f"metadata: {key}: must be a text, not {json.dumps(value)}"
    for key, value in meta["labels"].items():
        if len(value) > 63 or not _LABEL.fullmatch(value):
            return f'metadata.labels: Invalid value: "{value}" of {key}: at most 63 letters, digits, "-", "_" and "."'
    arguments = (workflow.get("spec") or {}).get("arguments") or {}
    for parameter in arguments.get("parameters") or []:
        if not isinstance(parameter, dict) or not isinstance(parameter.get("value", ""), str):
            return f"spec.arguments.parameters: {json.dumps(parameter)[:200]}: the value must be a text"
    return ""
