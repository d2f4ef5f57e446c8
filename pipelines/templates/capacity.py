"""What components ask of the machines: the sums of requests, limits and volumes of a list of objects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import yaml

Body = dict[str, Any]
_UNITS: dict[str, float] = {"m": 0.001, "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    f"{letter}i": 1024 ** (power + 1) for power, letter in enumerate("KMGT")
}


class Sum(NamedTuple):
    """Processors, and bytes."""

    cpu: float = 0
    memory: float = 0
    limit: float = 0
    disk: float = 0

    def __add__(self, other: tuple[Any, ...]) -> Sum:
        return Sum(*(mine + its for mine, its in zip(self, other, strict=True)))

    def times(self, number: int) -> Sum:
        return Sum(*(value * number for value in self))


def total(objects: Iterable[Body]) -> Sum:
    """What these objects ask for while they run: Deployments and the like with their replicas, claims, an EventBus, and
    what the operators of add-ons make of theirs.

    In place of an object, a kustomization's patches that name its containers are counted: that is all that is known of
    upstream's without upstream. Jobs end, and are left out; so are the pods that Argo Events makes of its objects.
    """
    found = Sum()
    for body in objects:
        spec = body.get("spec", {})
        if body["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
            found += _pod(spec.get("template", {}).get("spec", {})).times(spec.get("replicas", 1))
            claims = sum((_claim(claim["spec"]) for claim in spec.get("volumeClaimTemplates", [])), Sum())
            found += claims.times(spec.get("replicas", 1))
        elif body["kind"] == "PersistentVolumeClaim":
            found += _claim(spec)
        elif body["kind"] == "EventBus":
            stream = spec.get("jetstream", {})
            each = Sum(disk=quantity(stream.get("persistence", {}).get("volumeSize", "0")))
            each += _container(stream.get("containerTemplate", {}))
            found += each.times(stream.get("replicas", 3))
        elif body["kind"] == "Cluster":  # of CloudNativePG
            each = _container(spec) + Sum(disk=quantity(spec.get("storage", {}).get("size", 0)))
            found += each.times(spec.get("instances", 1))
        elif body["kind"] in ("Prometheus", "Alertmanager"):
            claim = spec.get("storage", {}).get("volumeClaimTemplate", {}).get("spec", {})
            found += (_container(spec) + _claim(claim)).times(spec.get("replicas", 1))
        elif body["kind"] == "Kustomization":
            patches = (yaml.safe_load(patch.get("patch", "")) for patch in body.get("patches", []))
            found += total(patch for patch in patches if isinstance(patch, dict) and patch.get("$patch") != "delete")
    return found


def of_values(values: Body) -> Sum:
    """The same of a chart's values, where each `resources` is one container's, and each `size` of `persistence` a
    volume's. A check that runs once is left out.
    """
    found = _container(values) + Sum(disk=_sizes(values.get("persistence", {})))
    for key, value in values.items():
        if isinstance(value, dict) and key not in ("resources", "persistence", "startupapicheck"):
            found += of_values(value)
    return found


def _sizes(values: Body) -> float:
    inner = sum(_sizes(value) for value in values.values() if isinstance(value, dict))
    return inner + quantity(values.get("size", 0))


def quantity(text: str | float) -> float:
    """A quantity of Kubernetes as a number: 100m, 512Mi, 2."""
    match = re.fullmatch(r"([0-9.]+)(m|[kMGT]|[KMGT]i)?", str(text))
    if not match:
        raise ValueError(f"not a quantity: {text}")
    return float(match[1]) * _UNITS[match[2] or ""]


def _pod(spec: Body) -> Sum:
    """The containers' sum; an init container that asks for more than they do together counts instead."""
    running: Sum = sum((_container(container) for container in spec.get("containers", [])), Sum())
    first = [_container(container) for container in spec.get("initContainers", [])]
    return Sum(*(max(values) for values in zip(running, *first, strict=True)))


def _container(container: Body) -> Sum:
    resources = container.get("resources", {})
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    return Sum(
        cpu=quantity(requests.get("cpu", 0)),
        memory=quantity(requests.get("memory", 0)),
        limit=quantity(limits.get("memory", 0)),
    )


def _claim(spec: Body) -> Sum:
    return Sum(disk=quantity(spec.get("resources", {}).get("requests", {}).get("storage", 0)))


def row(found: Sum) -> Iterator[str]:
    """For a table: processors, and sizes in GiB or MiB; empty for nothing."""
    yield f"{found.cpu:.2f}" if found.cpu else ""
    for size in (found.memory, found.limit, found.disk):
        yield "" if not size else f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
