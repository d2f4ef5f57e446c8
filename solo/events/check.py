"""Which fields of EventSources and Sensors solo knows, and what is wrong with a manifest before anything runs.

`SUPPORT` is the table: what is not in it is refused, with the field's path. Argo's server drops unknown fields
silently (with `filter:` for `filters:` everything passes); here they are errors. Then come the traps that Argo
accepts and that can only be mistakes: a parameter of an unknown dependency, a destination that is not in the
resource, a pattern that does not compile.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from solo.events import exprs
from solo.events.filters import COMPARATORS, CONTEXT_FIELDS, parse_bool, parse_number
from solo.events.grammar import LanguageError
from solo.events.paths import ABSENT, Query, get, parse_path
from solo.events.patterns import compile_pattern
from solo.events.sensors import condition_names
from solo.events.sources import hooks
from solo.events.templates import parse_template
from solo.store import Object

Verdict = Literal["honoured", "noted"]


class Problem(NamedTuple):
    """A field's path (`spec.dependencies[0].filters.data[1].path`) and what is wrong with it."""

    field: str
    message: str


class Field(NamedTuple):
    """How a field counts: its type (`object` is not looked into) and, if only some values do, which."""

    verdict: Verdict
    type: str
    allowed: tuple[object, ...] = ()
    note: str = ""


_TEXT, _BOOL, _NUMBER = Field("honoured", "text"), Field("honoured", "bool"), Field("honoured", "number")
_WEB = {
    "port": Field("honoured", "port"),
    "endpoint": Field("honoured", "endpoint"),
    "method": Field("honoured", "text", ("POST",)),
    "maxPayloadSize": _NUMBER,
    "authSecret.name": _TEXT,
    "authSecret.key": _TEXT,
}
_HOOKLESS = Field("noted", "object", note="solo's git host delivers by itself and makes no hook at GitHub")
_PARAMETER = {
    "dest": Field("honoured", "path"),
    "operation": Field("honoured", "text", ("overwrite", "append", "prepend")),
    "src.dependencyName": _TEXT,
    "src.dataKey": Field("honoured", "path"),
    "src.dataTemplate": Field("honoured", "template"),
    "src.contextKey": Field(
        "honoured", "text", ("id", "source", "specversion", "type", "datacontenttype", "subject", "time")
    ),
    "src.value": _TEXT,
    "src.useRawData": _BOOL,
}
_ANDOR = Field("honoured", "text", ("and", "or"))

SUPPORT: dict[str, dict[str, Field]] = {
    "EventSource": {
        "spec.eventBusName": Field("honoured", "text", ("default",)),
        "spec.service": Field("noted", "object", note="solo listens on the ports of the events themselves"),
        "spec.template": Field("noted", "object", note="an EventSource has no pod in solo"),
        "spec.replicas": Field("noted", "number", note="there is one solo"),
        **{f"spec.webhook.*.{key}": field for key, field in _WEB.items()},
        "spec.webhook.*.metadata": Field("honoured", "object"),
        **{f"spec.github.*.webhook.{key}": field for key, field in _WEB.items() if key != "method"},
        "spec.github.*.webhook.method": Field("noted", "text", note="the real source takes any method too"),
        "spec.github.*.webhook.url": _HOOKLESS,
        "spec.github.*.webhookSecret.name": _TEXT,
        "spec.github.*.webhookSecret.key": _TEXT,
        "spec.github.*.repositories[].owner": _TEXT,
        "spec.github.*.repositories[].names[]": _TEXT,
        "spec.github.*.events[]": _TEXT,
        "spec.github.*.active": _BOOL,
        "spec.github.*.contentType": Field("honoured", "text", ("json",)),
        "spec.github.*.metadata": Field("honoured", "object"),
        "spec.github.*.apiToken": _HOOKLESS,
        "spec.github.*.githubApp": _HOOKLESS,
        "spec.github.*.deleteHookOnFinish": _HOOKLESS,
        "spec.github.*.insecure": _HOOKLESS,
        "spec.github.*.githubBaseURL": _HOOKLESS,
        "spec.github.*.githubUploadURL": _HOOKLESS,
    },
    "Sensor": {
        "spec.eventBusName": Field("honoured", "text", ("default",)),
        "spec.template": Field("noted", "object", note="a Sensor has no pod in solo, and no rights of its own"),
        "spec.replicas": Field("noted", "number", note="there is one solo"),
        "spec.revisionHistoryLimit": Field("noted", "number", note="a Sensor has no pod in solo"),
        "spec.dependencies[].name": _TEXT,
        "spec.dependencies[].eventSourceName": _TEXT,
        "spec.dependencies[].eventName": _TEXT,
        "spec.dependencies[].filtersLogicalOperator": _ANDOR,
        "spec.dependencies[].filters.dataLogicalOperator": _ANDOR,
        "spec.dependencies[].filters.exprLogicalOperator": _ANDOR,
        "spec.dependencies[].filters.data[].path": Field("honoured", "path"),
        "spec.dependencies[].filters.data[].type": Field("honoured", "text", tuple(COMPARATORS)),
        "spec.dependencies[].filters.data[].value[]": _TEXT,
        "spec.dependencies[].filters.data[].comparator": _TEXT,
        "spec.dependencies[].filters.data[].template": Field("honoured", "template"),
        "spec.dependencies[].filters.exprs[].expr": _TEXT,
        "spec.dependencies[].filters.exprs[].fields[].name": _TEXT,
        "spec.dependencies[].filters.exprs[].fields[].path": Field("honoured", "path"),
        **{f"spec.dependencies[].filters.context.{name}": _TEXT for name in CONTEXT_FIELDS},
        "spec.triggers[].template.name": _TEXT,
        "spec.triggers[].template.conditions": _TEXT,
        "spec.triggers[].template.k8s.operation": Field("honoured", "text", ("create",)),
        "spec.triggers[].template.k8s.source.resource": Field("honoured", "object"),
        **{f"spec.triggers[].template.k8s.parameters[].{key}": field for key, field in _PARAMETER.items()},
        "spec.triggers[].atLeastOnce": Field(
            "noted",
            "bool",
            note="creating the Workflow and consuming the event are one transaction: always exactly once",
        ),
        "spec.triggers[].retryStrategy": Field(
            "noted", "object", note="there is no API server that could fail to answer"
        ),
    },
}
# of what is there; a parent that is required itself comes before its children
_REQUIRED: dict[str, str] = {
    "EventSource": """
        spec spec.webhook.*.port spec.webhook.*.endpoint spec.webhook.*.method
        spec.webhook.*.authSecret.name spec.webhook.*.authSecret.key
        spec.github.*.webhook spec.github.*.webhook.port spec.github.*.webhook.endpoint
        spec.github.*.webhook.authSecret.name spec.github.*.webhook.authSecret.key
        spec.github.*.webhookSecret.name spec.github.*.webhookSecret.key
        spec.github.*.repositories[].owner spec.github.*.repositories[].names
    """,
    "Sensor": """
        spec spec.dependencies spec.triggers
        spec.dependencies[].name spec.dependencies[].eventSourceName spec.dependencies[].eventName
        spec.dependencies[].filters.data[].path spec.dependencies[].filters.data[].type
        spec.dependencies[].filters.data[].value
        spec.dependencies[].filters.exprs[].expr spec.dependencies[].filters.exprs[].fields
        spec.dependencies[].filters.exprs[].fields[].name spec.dependencies[].filters.exprs[].fields[].path
        spec.triggers[].template spec.triggers[].template.name spec.triggers[].template.k8s
        spec.triggers[].template.k8s.operation spec.triggers[].template.k8s.source
        spec.triggers[].template.k8s.source.resource
        spec.triggers[].template.k8s.parameters[].src spec.triggers[].template.k8s.parameters[].src.dependencyName
        spec.triggers[].template.k8s.parameters[].dest
    """,
}
_READERS: dict[str, Callable[[str], object]] = {"string": compile_pattern, "number": parse_number, "bool": parse_bool}
_NAME = re.compile(r"[A-Za-z_][\w-]*")
# words of the condition language: such a dependency never fires
_WORDS = frozenset("in and or not true false nil contains matches len map count filter all any one none".split())  # noqa: SIM905 - it reads better


def check(obj: Object) -> list[Problem]:
    """Everything that is wrong with an EventSource or a Sensor; empty if it can run as it is meant."""
    kind = obj["kind"]
    problems = list(_fields(obj.get("spec") or {}, "spec", "spec", SUPPORT[kind]))
    required = _REQUIRED[kind].split()
    problems += [Problem(path, "is required") for rule in required for path in _missing(obj, "", rule.split("."))]
    if problems:
        return problems
    return list(_sensor(obj["spec"]) if kind == "Sensor" else _event_source(obj))


def support_rows() -> list[tuple[str, str, str, str]]:
    """`SUPPORT` as rows (kind, verdict, field, why) for the one table of solo; `…` is everything below."""
    return [
        (kind, field.verdict, f"{path}.…" if field.type == "object" else path, field.note)
        for kind, table in SUPPORT.items()
        for path, field in table.items()
    ]


# --- the shape ------------------------------------------------------------------------------------------------------


def _fields(value: Any, path: str, pattern: str, table: dict[str, Field]) -> Iterator[Problem]:
    if field := table.get(pattern):
        yield from _value(value, path, field)
        return
    below = [key.removeprefix(pattern) for key in table if key.startswith((pattern + ".", pattern + "["))]
    if not below:
        yield Problem(path, "solo does not know this field")
    elif below[0].startswith("["):
        if not isinstance(value, list):
            yield Problem(path, "must be a list")
            return
        for i, item in enumerate(value):
            yield from _fields(item, f"{path}[{i}]", f"{pattern}[]", table)
    elif not isinstance(value, dict):
        yield Problem(path, "must be a mapping")
    else:
        known = {key.strip(".").split(".")[0].split("[")[0] for key in below}
        for key, item in value.items():
            if key in known or "*" in known:
                yield from _fields(item, f"{path}.{key}", f"{pattern}.{key if key in known else '*'}", table)
            else:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f"did you mean '{near[0]}'?" if near else f"solo supports {', '.join(sorted(known))} here"
                yield Problem(f"{path}.{key}", f"solo does not support this field: {hint}")


def _value(value: Any, path: str, field: Field) -> Iterator[Problem]:
    try:
        problem = _TYPES[field.type](value)
    except LanguageError as error:
        problem = str(error)
    if not problem and field.allowed and value not in field.allowed:
        problem = f"'{value}' is not supported: {' or '.join(map(str, field.allowed))}"
    if problem:
        yield Problem(path, problem)


def _is(wanted: type, words: str) -> Callable[[Any], str]:
    return lambda value: "" if isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool)) else words


def _language(read: Callable[[str], object]) -> Callable[[Any], str]:
    def problem(value: Any) -> str:
        if not isinstance(value, str) or not value:
            return "must be a text"
        read(value)
        return ""

    return problem


_TYPES: dict[str, Callable[[Any], str]] = {
    "object": lambda _: "",
    "text": _is(str, "must be a text (put it in quotes)"),
    "bool": _is(bool, "must be true or false"),
    "number": lambda value: "" if type(value) is int and value > 0 else "must be a whole number above 0",
    "port": lambda value: "" if re.fullmatch(r"[1-9]\d{0,4}", str(value)) and int(value) < 65536 else "must be a port",
    "endpoint": lambda value: (
        "" if isinstance(value, str) and re.fullmatch(r"(/[\w.~-]+)+", value) else "must be a path such as /push"
    ),
    "path": _language(parse_path),
    "template": _language(parse_template),
}


def _missing(value: Any, path: str, rest: list[str]) -> Iterator[str]:
    """Places where a required field is absent in a parent that is there."""
    if not isinstance(value, dict):
        return
    name, more = rest[0].removesuffix("[]"), rest[1:]
    names = list(value) if name == "*" else [name]
    for key in names:
        here, found = f"{path}.{key}".lstrip("."), value.get(key)
        if not more:
            if found in (None, "", [], {}):
                yield here
        elif rest[0].endswith("[]"):
            for i, item in enumerate(found if isinstance(found, list) else ()):
                yield from _missing(item, f"{here}[{i}]", more)
        else:
            yield from _missing(found, here, more)


# --- the meaning ----------------------------------------------------------------------------------------------------


def _event_source(source: Object) -> Iterator[Problem]:
    taken: dict[tuple[int, str], str] = {}
    found = list(hooks([source]))
    if not found:
        yield Problem("spec", "has neither github nor webhook events")
    for hook in found:
        path = f"spec.{hook.kind}.{hook.name}"
        first = taken.setdefault((hook.port, hook.endpoint), path)
        if first != path:
            yield Problem(f"{path}.{'webhook.' if hook.kind == 'github' else ''}endpoint", f"is taken by {first}")


def _sensor(spec: dict[str, Any]) -> Iterator[Problem]:
    names: list[str] = []
    for i, dependency in enumerate(spec["dependencies"]):
        path = f"spec.dependencies[{i}]"
        name = dependency["name"]
        if name in names:
            yield Problem(f"{path}.name", f"there is a dependency '{name}' already")
        if not _NAME.fullmatch(name) or name in _WORDS:
            yield Problem(f"{path}.name", f"'{name}' means something in the condition language: it would never fire")
        names.append(name)
        if "filters" in dependency:
            yield from _filters(dependency["filters"], f"{path}.filters")
    triggers: set[str] = set()
    for i, trigger in enumerate(spec["triggers"]):
        path, template = f"spec.triggers[{i}].template", trigger["template"]
        if template["name"] in triggers:
            yield Problem(f"{path}.name", f"there is a trigger '{template['name']}' already")
        triggers.add(template["name"])
        try:
            condition_names(template.get("conditions"), names)
        except LanguageError as error:
            yield Problem(f"{path}.conditions", str(error))
        yield from _resource(template["k8s"], names, f"{path}.k8s")


def _filters(filters: dict[str, Any], path: str) -> Iterator[Problem]:
    if not any(filters.get(key) for key in ("data", "exprs", "context")):
        yield Problem(path, "filters nothing: everything would pass")
    for i, spec in enumerate(filters.get("data") or []):
        here, kind = f"{path}.data[{i}]", spec["type"]
        comparator = spec.get("comparator") or "="
        if comparator not in COMPARATORS[kind]:
            yield Problem(f"{here}.comparator", f"a {kind} has {' '.join(COMPARATORS[kind])}, not '{comparator}'")
        if kind == "string" and comparator == "!=" and len(spec["value"]) > 1:
            yield Problem(f"{here}.value", "`!=` passes when any one of several values differs, which is nearly always")
        for j, value in enumerate(spec["value"]):
            yield from _try(_READERS[kind], value, f"{here}.value[{j}]")
    for i, spec in enumerate(filters.get("exprs") or []):
        declared = {field["name"] for field in spec["fields"]}
        yield from _try(exprs.parse_expression, spec["expr"], f"{path}.exprs[{i}].expr")
        for name in sorted(_names(spec["expr"]) - declared):
            yield Problem(f"{path}.exprs[{i}].expr", f"'{name}' is not declared under fields")


def _resource(k8s: dict[str, Any], names: list[str], path: str) -> Iterator[Problem]:
    resource = k8s["source"]["resource"]
    where = f"{path}.source.resource"
    if not isinstance(resource, dict):
        yield Problem(where, "must be a mapping")
        return
    if (resource.get("apiVersion"), resource.get("kind")) != ("argoproj.io/v1alpha1", "Workflow"):
        yield Problem(where, "solo creates Workflows of argoproj.io/v1alpha1 only")
    parameters = k8s.get("parameters") or []
    meta = resource.get("metadata") or {}
    names_set = {"metadata.name", "metadata.generateName"} & {item["dest"] for item in parameters}
    if not (meta.get("name") or meta.get("generateName") or names_set):
        yield Problem(f"{where}.metadata", "has neither name nor generateName, and no parameter sets one")
    for i, parameter in enumerate(parameters):
        here, source = f"{path}.parameters[{i}]", parameter["src"]
        if source["dependencyName"] not in names:
            yield Problem(f"{here}.src.dependencyName", f"'{source['dependencyName']}' is no dependency of this Sensor")
        if not any(key in source for key in ("dataKey", "dataTemplate", "contextKey", "value")):
            yield Problem(f"{here}.src", "names no dataKey, dataTemplate, contextKey or value")
        asks = any(isinstance(part, Query) for part in parse_path(parameter["dest"]))
        if asks and get(resource, parameter["dest"]) is ABSENT:
            yield Problem(f"{here}.dest", "is not in the resource (it needs a value there): nothing would be set")


def _try(read: Callable[[str], object], value: str, path: str) -> Iterator[Problem]:
    try:
        read(value)
    except LanguageError as error:
        yield Problem(path, str(error))


def _names(expression: str) -> set[str]:
    try:
        return exprs.names(expression)
    except LanguageError:
        return set()
