"""Namespaces by purpose: which pods each may hold (Pod Security), and how much of them (quota, limits).

Why these numbers: the controller runs PARALLEL Workflows of a namespace at once, and no pipeline has more than two
pods at a time. A pod over a quota is not lost: Argo tries it again until there is room. A Workflow over its quota is
refused to the Sensor, and reconcile finds its push later; so there is room for a week of them, their time to live.
Memory is bounded by what pods request, which is what the scheduler gives away; what training requests is the user's to
say, so `mlops` has no bound of it. Serving uses no more memory than it requests: when a node runs out of it, builds are
evicted first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pipelines.templates.controller import PARALLEL

Manifest = dict[str, Any]

POD_SECURITY = "pod-security.kubernetes.io"
POD_SECURITY_VERSION = "v1.36"  # Kubernetes' rules of that version, also after an upgrade; a test compares with k3s
PURPOSE = "trainyard/purpose"  # label of a namespace, for NetworkPolicies that mean all of a kind

WEEK_OF_RUNS = 3000  # Workflows kept in a namespace: over 400 a day
RUN_PODS = 2 * PARALLEL + 4  # two pods of each run, and room for what starts while another still ends


class Namespace(NamedTuple):
    """What may be in a namespace. `memory` bounds what all its pods request together; `defaults`: whether a container
    that names no memory gets some.
    """

    purpose: str
    level: str
    pods: int
    memory: str = ""
    runs: bool = False
    defaults: bool = True


# `restricted` wherever the pods pass it. In mlops-build Kaniko is root, with the runtime's capabilities. The pods of
# upstream's installations name no memory, and a default would be a guess at what they need.
NAMESPACES = {
    # eight builds of 1 GiB, and half of that for the small steps beside them
    "mlops-build": Namespace("pipelines", "baseline", RUN_PODS, memory="12Gi", runs=True),
    "mlops": Namespace("pipelines", "restricted", RUN_PODS, runs=True),
    "mlops-release": Namespace("pipelines", "restricted", PARALLEL + 4, memory="4Gi", runs=True),
    "storage": Namespace("storage", "restricted", 4, memory="1Gi"),
    "harbor": Namespace("addon", "baseline", 40, memory="8Gi"),
    "monitoring": Namespace("addon", "restricted", 20, memory="4Gi"),
    "tunnel": Namespace("addon", "restricted", 4, memory="1Gi"),
    # pods on every node; they mount for it, and hand out its devices
    "nfs": Namespace("addon", "privileged", 200),
    "gpu": Namespace("addon", "privileged", 200),
    "argo-events": Namespace("events", "restricted", 30, memory="4Gi"),
    "argo": Namespace("component", "restricted", 10, defaults=False),
    "argocd": Namespace("component", "restricted", 30, defaults=False),
    "cert-manager": Namespace("component", "restricted", 10, defaults=False),
}
RUNS = tuple(name for name, body in NAMESPACES.items() if body.runs)
INSTALLED = ("argo-events", "argo", "argocd", "cert-manager")  # a component's installation goes into each
# a node of Kubernetes takes 110 pods: one service cannot fill it
SERVICE = Namespace("service", "restricted", 40)


def manifests(name: str) -> list[Manifest]:
    """The Namespace, its quota, and what its containers get that say nothing themselves."""
    body = NAMESPACES.get(name, SERVICE)
    labels = {"app.kubernetes.io/managed-by": "trainyard", PURPOSE: body.purpose}
    for mode in ("enforce", "audit", "warn"):
        labels |= {f"{POD_SECURITY}/{mode}": body.level, f"{POD_SECURITY}/{mode}-version": POD_SECURITY_VERSION}
    made: list[Manifest] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "bounds", "namespace": name},
            "spec": {"hard": _hard(body)},
        },
    ]
    if body.defaults:
        # no limit of the processor: it would slow a build down beside an idle core
        limit = {
            "type": "Container",
            "default": {"memory": "512Mi"},
            "defaultRequest": {"cpu": "50m", "memory": "64Mi"},
        }
        meta = {"name": "defaults", "namespace": name}
        made.append({"apiVersion": "v1", "kind": "LimitRange", "metadata": meta, "spec": {"limits": [limit]}})
    return made


def _hard(body: Namespace) -> dict[str, str]:
    """All else comes in through the Ingress controller, so nothing may open a port of the node."""
    return {
        "pods": str(body.pods),
        **({"count/workflows.argoproj.io": str(WEEK_OF_RUNS)} if body.runs else {}),
        **({"requests.memory": body.memory} if body.memory else {}),
        "services.loadbalancers": "0",
        "services.nodeports": "0",
    }
