"""Kubernetes' strategic merge: maps merge key by key, some lists element by element, `null` deletes."""

from __future__ import annotations

from typing import Any

# lists whose elements are told apart by a field; any other list is replaced whole
KEYS = {
    "artifacts": "name",
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "parameters": "name",
    "ports": "containerPort",
    "templates": "name",
    "volumeMounts": "mountPath",
    "volumes": "name",
}


def merge(original: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """`original` with `patch` over it; neither is changed."""
    merged = dict(original)
    for key, value in patch.items():
        old = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and value.get("$patch") == "replace":
            merged[key] = {name: item for name, item in value.items() if name != "$patch"}
        elif isinstance(value, dict) and isinstance(old, dict):
            merged[key] = merge(old, value)
        elif isinstance(value, list) and isinstance(old, list) and key in KEYS:
            merged[key] = _merge_list(old, value, KEYS[key])
        else:
            merged[key] = value
    return merged


def _merge_list(original: list[Any], patch: list[Any], key: str) -> list[Any]:
    merged = {item[key]: item for item in original}
    for item in patch:
        if item.get("$patch") == "delete":
            merged.pop(item[key], None)
        elif item[key] in merged:
            merged[item[key]] = merge(merged[item[key]], item)
        else:
            merged[item[key]] = item
    return list(merged.values())
