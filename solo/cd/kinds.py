"""The kinds that an Application may bring into solo, and what Kubernetes' API server would say about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from solo.cd import health, rollout, services
from solo.cd.problems import COMMON, METADATA, Problem, compare
from solo.store import Object

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def _config_map(obj: Object) -> Iterator[Problem]:
    shape = COMMON | {"data": {"*": str}, "binaryData": {"*": str}}
    yield from compare(obj, shape)


def _metadata_only(obj: Object) -> Iterator[Problem]:
    """Kinds that change nothing on one host: they are kept as they are, their fields are the API server's matter."""
    yield from compare(obj.get("metadata"), METADATA, "metadata")


class Kind(NamedTuple):
    """A kind that can be applied; `check` finds what the API server would refuse, or what solo cannot honour."""

    group: str
    version: str
    check: Callable[[Object], Iterator[Problem]] = _metadata_only
    namespaced: bool = True
    name: re.Pattern[str] = SUBDOMAIN

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}".lstrip("/")


KINDS = {
    "Namespace": Kind("", "v1", namespaced=False, name=LABEL),
    "ServiceAccount": Kind("", "v1"),
    "ConfigMap": Kind("", "v1", _config_map),
    "Service": Kind("", "v1", services.check, name=LABEL),
    "Deployment": Kind("apps", "v1", rollout.check),
    "PodDisruptionBudget": Kind("policy", "v1"),
    "HorizontalPodAutoscaler": Kind("autoscaling", "v2"),
    "NetworkPolicy": Kind("networking.k8s.io", "v1"),
}


def check(obj: Object) -> list[Problem]:
    """Why this manifest cannot be applied."""
    kind = KINDS.get(obj["kind"])
    if kind is None:
        return [Problem("kind", f"{obj['kind']} is not a kind that solo can deploy: {', '.join(KINDS)}")]
    if obj["apiVersion"] != kind.api_version:
        return [Problem("apiVersion", f"{obj['kind']} is known as {kind.api_version}, not {obj['apiVersion']}")]
    problems = list(kind.check(obj))
    if problems:
        return problems
    meta = obj["metadata"]
    if not kind.name.fullmatch(meta["name"]):
        problems.append(
            Problem(
                "metadata.name",
                f"{meta['name']!r} is not a valid name: a-z, 0-9, '-', beginning and ending with a letter or digit",
            )
        )
    if "namespace" in meta and not LABEL.fullmatch(meta["namespace"]):
        problems.append(Problem("metadata.namespace", f"{meta['namespace']!r} is not a valid namespace"))
    for key in meta.get("annotations", {}):
        if key.startswith("argocd.argoproj.io/") and key != health.IGNORED:
            # hooks and waves would need an order; solo applies a commit as one transaction
            problems.append(
                Problem(f"metadata.annotations.{key}", "is not supported: solo has no hooks, waves or sync options")
            )
    return problems
