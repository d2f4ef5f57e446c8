"""AppProject: what the Applications of a project may read and write, by Argo CD's rules and in its sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from solo.cd.kinds import KINDS
from solo.cd.problems import Problem, compare
from solo.store import Object

GROUP_KIND = [{"group!": str, "kind!": str}]
SHAPE: dict[str, Any] = {
    "apiVersion!": {"argoproj.io/v1alpha1"},
    "kind!": {"AppProject"},
    "metadata!": {"name!": str, "namespace!": {"argocd"}, "*": object},
    "spec!": {
        "description": str,
        "sourceRepos": [str],
        "destinations": [{"server!": str, "namespace!": str}],
        "clusterResourceWhitelist": GROUP_KIND,
        "clusterResourceBlacklist": GROUP_KIND,
        "namespaceResourceWhitelist": GROUP_KIND,
        "namespaceResourceBlacklist": GROUP_KIND,
    },
    "status": object,
}


def check(project: Object) -> Iterator[Problem]:
    """The fields of an AppProject that solo does not honour."""
    yield from compare(project, SHAPE)
    for field, pattern in _patterns(project):
        if pattern.startswith("!") or re.search(r"[\[\]{}\\]", pattern):
            yield Problem(field, f"{pattern!r}: solo knows only the wildcards * and ?")


def refusals(project: Object, app: Object) -> Iterator[str]:
    """Why the project does not let the Application be what it is."""
    spec, name = project["spec"], project["metadata"]["name"]
    source, destination = app["spec"]["source"], app["spec"]["destination"]
    if not any(repository_matches(pattern, source["repoURL"]) for pattern in spec.get("sourceRepos", [])):
        yield f"application repo {source['repoURL']} is not permitted in project '{name}'"
    if not _destination(spec, destination["server"], destination["namespace"]):
        yield (
            f"application destination server '{destination['server']}' and namespace '{destination['namespace']}'"
            f" do not match any of the allowed destinations in project '{name}'"
        )


def refusal(project: Object, server: str, kind: str, namespace: str) -> str | None:
    """Why the project does not let an object of this kind and namespace be written or removed."""
    spec, name = project["spec"], project["metadata"]["name"]
    group, namespaced = KINDS[kind].group, KINDS[kind].namespaced
    scope = "namespace" if namespaced else "cluster"
    allowed, denied = spec.get(f"{scope}ResourceWhitelist"), spec.get(f"{scope}ResourceBlacklist", [])
    # Argo CD: without a list every namespaced kind is allowed, and no cluster-wide one
    permitted = namespaced if allowed is None else _listed(allowed, group, kind)
    if not permitted or _listed(denied, group, kind):
        return f"resource {group}:{kind} is not permitted in project {name}"
    if namespaced and not _destination(spec, server, namespace):
        return f"namespace {namespace} is not permitted in project '{name}'"
    return None


def repository_matches(pattern: str, url: str) -> bool:
    return pattern == "*" or _glob(_normal(pattern), _normal(url), within="[^/]*")


def _normal(url: str) -> str:
    return url.strip().lower().rstrip("/").removesuffix(".git")


def _destination(spec: Object, server: str, namespace: str) -> bool:
    return any(
        _glob(entry["server"], server) and _glob(entry["namespace"], namespace)
        for entry in spec.get("destinations", [])
    )


def _listed(entries: list[dict[str, str]], group: str, kind: str) -> bool:
    return any(_glob(entry["group"], group) and _glob(entry["kind"], kind) for entry in entries)


def _glob(pattern: str, text: str, within: str = ".*") -> bool:
    words = {"**": ".*", "*": within, "?": "."}
    return (
        re.fullmatch("".join(words.get(part) or re.escape(part) for part in re.split(r"(\*\*|\*|\?)", pattern)), text)
        is not None
    )


def _patterns(project: Object) -> Iterator[tuple[str, str]]:
    spec = project.get("spec")
    for key, value in spec.items() if isinstance(spec, dict) else ():
        for index, entry in enumerate(value if isinstance(value, list) else ()):
            for inner, pattern in entry.items() if isinstance(entry, dict) else (("", entry),):
                if isinstance(pattern, str):
                    yield f"spec.{key}[{index}]" + (f".{inner}" if inner else ""), pattern
