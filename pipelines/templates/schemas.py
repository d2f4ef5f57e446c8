"""JSON schemas of all kinds that our manifests have, for kubeconform: strict, so that an unknown field is an error.

Made from upstream's modules into a folder of .tools: Kubernetes' own kinds from its OpenAPI files, others from CRDs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from pipelines.templates import upstream

Schema = dict[str, Any]
# component → where its CRDs are
CRDS = {
    "argo-cd": "manifests/crds",
    "argo-events": "manifests/base/crds",
    "argo-workflows": "manifests/base/crds/full",
    "cert-manager": "deploy/crds",
    "cloudnative-pg": "config/crd/bases",
    "helm-controller": "pkg/crds/yaml/generated",
    "prometheus-operator": "example/prometheus-operator-crd",
}
LOCATION = "{{ .ResourceKind }}-{{ .Group }}-{{ .ResourceAPIVersion }}.json"  # kubeconform's words
_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_REF = "#/components/schemas/"
_LOGIC = ("allOf", "anyOf", "oneOf", "not")  # of a CRD: they only say more about fields that stand beside them


def folder() -> Path:
    """The folder of the schemas, made if it is not there for these versions."""
    of = {name: upstream.versions()[name] for name in ("kubernetes", *CRDS)}
    key = hashlib.sha256(json.dumps(of).encode() + Path(__file__).read_bytes()).hexdigest()[:16]
    there = upstream.TOOLS / f"schemas-{key}"
    if not there.exists():
        upstream.TOOLS.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=upstream.TOOLS) as place:
            made = Path(place) / "made"
            made.mkdir()
            core = _definitions()
            for name, schema in chain(_kinds(core), _custom(core)):
                (made / name).write_text(json.dumps(schema))
            with contextlib.suppress(OSError):  # somebody else was faster
                made.rename(there)
    return there


def _name(group: str, version: str, kind: str) -> str:
    return f"{kind.lower()}-{group or version}-{version}.json"


# ---- Kubernetes' own kinds


def _definitions() -> dict[str, Schema]:
    """All that Kubernetes' OpenAPI files define."""
    found: dict[str, Schema] = {}
    for file in sorted((upstream.folder("kubernetes") / "api/openapi-spec/v3").glob("*.json")):
        found |= json.loads(file.read_text()).get("components", {}).get("schemas", {})
    return {name: _core(schema) for name, schema in found.items()}


def _core(schema: Schema) -> Schema:
    """Without prose, with the fields that it names and no others; nothing (null) is as good as no value."""
    kept = {key: value for key, value in schema.items() if key not in ("description", "default")}
    if list(kept) == ["allOf"]:
        (kept,) = kept["allOf"]
    if "properties" in kept:
        needed = kept.get("required", [])
        inner = {name: _core(value) for name, value in kept["properties"].items()}
        kept["properties"] = {n: s if n in needed else _or_null(s) for n, s in inner.items()}
        kept.setdefault("additionalProperties", False)
    if isinstance(kept.get("additionalProperties"), dict):
        kept["additionalProperties"] = _core(kept["additionalProperties"])
    if "items" in kept:
        kept["items"] = _core(kept["items"])
    if kept.get("format") == "date-time":
        kept = _or_null(kept)
    return kept


def _or_null(schema: Schema) -> Schema:
    kind = schema.get("type")
    nullable = isinstance(kind, str) and "enum" not in schema
    return {**schema, "type": [kind, "null"]} if nullable else schema


def _kinds(core: dict[str, Schema]) -> Iterator[tuple[str, Schema]]:
    for schema in core.values():
        named = schema.get("x-kubernetes-group-version-kind", [])
        if len(named) == 1 and "kind" in schema.get("properties", {}):
            yield _name(**named[0]), _whole(schema, core)


def _whole(schema: Schema, core: dict[str, Schema]) -> Schema:
    """With all definitions that it needs, in one file."""
    needed: dict[str, Schema] = {}
    open_ = [schema]
    while open_:
        for name in _refs(open_.pop()):
            if name not in needed:
                needed[name] = core[name]
                open_.append(core[name])
    text = json.dumps({**schema, "definitions": needed})
    whole: Schema = json.loads(text.replace(f'"$ref": "{_REF}', '"$ref": "#/definitions/'))
    return whole


def _refs(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].removeprefix(_REF)
        for value in schema.values():
            yield from _refs(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _refs(value)


# ---- kinds of CustomResourceDefinitions


def _custom(core: dict[str, Schema]) -> Iterator[tuple[str, Schema]]:
    for component, path in CRDS.items():
        for file in sorted((upstream.folder(component) / path).glob("*.yaml")):
            for body in upstream.documents(file.read_text(), file.name):
                if body["kind"] == "CustomResourceDefinition":
                    yield from _versions(body["spec"], core)


def _versions(spec: Schema, core: dict[str, Schema]) -> Iterator[tuple[str, Schema]]:
    for version in spec["versions"]:
        schema = _structural(version["schema"]["openAPIV3Schema"])
        properties = {**schema.get("properties", {}), "metadata": {"$ref": _REF + _META}}
        for name in ("apiVersion", "kind"):
            properties[name] = {"type": "string"}
        yield (
            _name(spec["group"], version["name"], spec["names"]["kind"]),
            _whole({**schema, "properties": properties}, core),
        )


def _structural(schema: Schema, logic: bool = False) -> Schema:
    """A schema of a CRD as JSON Schema; the API server would drop, or refuse, what it closes."""
    keep = (
        "type",
        "enum",
        "required",
        "pattern",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
    )
    made: Schema = {key: schema[key] for key in keep if key in schema}
    if "properties" in schema:
        made["properties"] = {name: _structural(value, logic) for name, value in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        value = schema.get(key)
        if value is not None:
            made[key] = _structural(value, logic) if isinstance(value, dict) else value
    for key in _LOGIC:
        if key in schema:
            value = schema[key]
            made[key] = _structural(value, True) if isinstance(value, dict) else [_structural(v, True) for v in value]
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["type"] = ["integer", "string"]
        made.pop("anyOf", None)
    if schema.get("x-kubernetes-embedded-resource"):
        made["properties"] = {"apiVersion": {}, "kind": {}, "metadata": {}} | made.get("properties", {})
    open_ = logic or schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if schema.get("type") == "object" and not open_:
        made["additionalProperties"] = False
    if schema.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made
