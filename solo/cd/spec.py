"""What an Application may say: the fields that solo honours, and what a few of them mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from solo.cd import projects, sync
from solo.cd.problems import Problem, compare
from solo.store import Object

NAMESPACE = "argocd"
FINALIZER = "resources-finalizer.argocd.argoproj.io"
DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?<=.)")

# for whoever deploys the Application itself; other annotations of Argo CD would change what we do
ABOVE = ("argocd.argoproj.io/sync-wave", "argocd.argoproj.io/ignore-healthcheck", sync.TRACKING)

SHAPE: dict[str, Any] = {
    "apiVersion!": {"argoproj.io/v1alpha1"},
    "kind!": {"Application"},
    "metadata!": {
        "name!": str,
        "namespace!": {NAMESPACE},
        "labels": {"*": str},
        "annotations": {"*": str},
        "finalizers": [{FINALIZER, f"{FINALIZER}/background", f"{FINALIZER}/foreground"}],
        **dict.fromkeys(("uid", "creationTimestamp", "resourceVersion", "generation"), object),
    },
    "spec!": {
        "project!": str,
        "source!": {"repoURL!": str, "path!": str, "targetRevision": str, "directory": {"recurse": bool}},
        "destination!": {"server!": {"https://kubernetes.default.svc"}, "namespace!": str},
        "syncPolicy!": {
            "automated!": {"prune": bool, "selfHeal": bool, "allowEmpty": {False}, "enabled": {True}},
            "syncOptions": [
                {"CreateNamespace=true", "ServerSideApply=true", "PruneLast=true", "ApplyOutOfSyncOnly=true"}
            ],
            "retry": {"limit": int, "backoff": {"duration": str, "factor": int, "maxDuration": str}},
        },
        "revisionHistoryLimit": int,
    },
    "status": object,
}


def check(obj: Object) -> list[Problem]:
    """The fields of an Application or AppProject that solo does not honour."""
    if obj.get("kind") == "AppProject":
        return list(projects.check(obj))
    problems = list(compare(obj, SHAPE))
    return problems or list(_details(obj))


def _details(app: Object) -> Iterator[Problem]:
    spec, annotations = app["spec"], app["metadata"].get("annotations", {})
    for key in annotations:
        if key.startswith("argocd.argoproj.io/") and key not in ABOVE:
            yield Problem(f"metadata.annotations.{key}", "is not supported")
    if path_of(spec["source"]["path"]) is None:
        yield Problem("spec.source.path", "must be a directory inside the repository")
    if not spec["source"]["repoURL"] or spec["source"]["repoURL"].startswith("-"):
        yield Problem("spec.source.repoURL", "must be the address of a Git repository")
    retry = spec["syncPolicy"].get("retry", {})
    if retry.get("limit", 0) < 0:
        yield Problem("spec.syncPolicy.retry.limit", "must not be negative: an endless retry hides what is wrong")
    for key in ("duration", "maxDuration"):
        text = retry.get("backoff", {}).get(key, "1s")
        if not DURATION.fullmatch(text):
            yield Problem(f"spec.syncPolicy.retry.backoff.{key}", f"{text!r} is not a duration such as 5s, 1m or 1m30s")


def path_of(path: str) -> str | None:
    """A path in a repository in Git's own form; None if it leads out of it."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return None if path.startswith("/") or not path or ".." in parts else "/".join(parts) or "."


def pause(spec: Object, tries: int) -> float | None:
    """Seconds until the next try, by `spec.syncPolicy.retry`; None when the tries are used up."""
    retry = spec["syncPolicy"].get("retry")
    if retry is None or tries >= retry.get("limit", 5):
        return None
    backoff = retry.get("backoff", {})
    seconds = _seconds(backoff.get("duration", "5s")) * backoff.get("factor", 2) ** tries
    return float(min(seconds, _seconds(backoff.get("maxDuration", "3m"))))


def _seconds(text: str) -> int:
    match = DURATION.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    return hours * 3600 + minutes * 60 + seconds
