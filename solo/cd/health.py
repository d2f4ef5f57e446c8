"""Health as Argo CD judges it: of a Deployment, and of an Application from its parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from solo.store import Object

IGNORED = "argocd.argoproj.io/ignore-healthcheck"

# from best to worst; an Application is as healthy as its worst part
ORDER = ("Healthy", "Suspended", "Progressing", "Missing", "Degraded", "Unknown")


class Health(NamedTuple):
    status: str
    message: str = ""


def of(obj: Object) -> Health | None:
    """None for kinds that have no health of their own, and for objects whose health is not to count."""
    if (obj["metadata"].get("annotations") or {}).get(IGNORED) == "true":
        return None
    if obj["kind"] == "Deployment":
        return _deployment(obj)
    return Health("Healthy") if obj["kind"] == "Service" else None


def worst(parts: Iterable[Health | None]) -> str:
    return max((part.status for part in parts if part), key=ORDER.index, default="Healthy")


def _deployment(obj: Object) -> Health:
    status = obj.get("status", {})
    if obj["metadata"].get("generation", 1) > status.get("observedGeneration", 0):
        return _waiting("observed deployment generation less than desired generation")
    for condition in status.get("conditions", []):
        if condition["type"] == "Progressing" and condition["reason"] == "ProgressDeadlineExceeded":
            return Health("Degraded", f'Deployment "{obj["metadata"]["name"]}" exceeded its progress deadline')
    wanted = obj["spec"].get("replicas", 1)
    total, updated, available = (status[key] for key in ("replicas", "updatedReplicas", "availableReplicas"))
    if updated < wanted:
        return _waiting(f"{updated} out of {wanted} new replicas have been updated...")
    if total > updated:
        return _waiting(f"{total - updated} old replicas are pending termination...")
    if available < updated:
        return _waiting(f"{available} of {updated} updated replicas are available...")
    return Health("Healthy")


def _waiting(reason: str) -> Health:
    return Health("Progressing", f"Waiting for rollout to finish: {reason}")
