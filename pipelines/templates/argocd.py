"""Argo CD itself: upstream's installation at the version of versions.yaml, without the parts that nobody uses, with our
settings. `make up` applies it once; from then on Argo CD applies it to itself, as one Application of many.

TLS ends at Traefik: `argocd-server` answers plain HTTP, to Traefik alone (NetworkPolicy).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import yaml

from pipelines.platform import Login, Platform
from pipelines.templates import health
from pipelines.templates.base import Manifest, ingress, remote

NAMESPACE = "argocd"
FOLDER = "argocd/install"

# container → CPU and memory that it asks for, memory at which it is ended. CPU is what it needs at rest: it takes more,
# but on one small box what is asked for here is not there for training. The controller keeps every object of the
# cluster in memory, the repository server runs kustomize and Helm.
RESOURCES = {
    "argocd-application-controller": ("100m", "512Mi", "2Gi"),
    "argocd-repo-server": ("50m", "256Mi", "1Gi"),
    "argocd-server": ("20m", "128Mi", "512Mi"),
    "redis": ("10m", "64Mi", "256Mi"),
    "copyutil": ("10m", "32Mi", "256Mi"),
    "secret-init": ("10m", "32Mi", "256Mi"),
}
_WORKLOADS = {
    ("StatefulSet", "argocd-application-controller"): {"containers": ["argocd-application-controller"]},
    ("Deployment", "argocd-repo-server"): {"containers": ["argocd-repo-server"], "initContainers": ["copyutil"]},
    ("Deployment", "argocd-server"): {"containers": ["argocd-server"]},
    ("Deployment", "argocd-redis"): {"containers": ["redis"], "initContainers": ["secret-init"]},
}
# not here: Dex (people log in with the provider itself, or as admin), ApplicationSets (platform.yaml lists all there
# is), notifications (commit statuses tell). Their CRD stays: argocd-server reads it.
_RBAC = "rbac.authorization.k8s.io/v1"
_UNUSED = {
    "argocd-dex-server": ("Deployment", "Service", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy"),
    "argocd-applicationset-controller": (
        *("Deployment", "Service", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy"),
        *("ClusterRole", "ClusterRoleBinding"),
    ),
    "argocd-notifications-controller": ("Deployment", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy"),
    "argocd-notifications-controller-metrics": ("Service",),
    "argocd-notifications-cm": ("ConfigMap",),
    "argocd-notifications-secret": ("Secret",),
}
_API = {
    "Deployment": "apps/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    **dict.fromkeys(("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"), _RBAC),
}


def install(platform: Platform, components: Mapping[str, str]) -> dict[str, list[Manifest]]:
    """File → its objects. Patches stand in the kustomization: in files they would look like whole objects."""
    patches = [
        *_config(platform),
        _network(),
        *(_workload(kind, name, parts) for (kind, name), parts in _WORKLOADS.items()),
        *(_removed(kind, name) for name, kinds in _UNUSED.items() for kind in kinds),
    ]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": [
            remote(platform, "argoproj/argo-cd", "manifests/cluster-install", components["argo-cd"]),
            "ingress.yaml",
        ],
        "patches": [{"patch": _text(patch)} for patch in patches],
    }
    return {
        f"{FOLDER}/kustomization.yaml": [kustomization],
        f"{FOLDER}/ingress.yaml": [
            ingress(platform, "argocd-server", "argocd", (NAMESPACE, "argocd-server", "http")),
        ],
    }


def _config(platform: Platform) -> list[Manifest]:
    # nobody opens a shell in a pod, and nobody sees anything without a login
    settings = {
        "url": f"https://{platform.host('argocd')}",
        "application.resourceTrackingMethod": "annotation",
        "admin.enabled": "false" if platform.login else "true",
        "users.anonymous.enabled": "false",
        "exec.enabled": "false",
        # a webhook tells of a push; this is how soon a lost one is made up for, and what Argo CD does not watch
        "timeout.reconciliation": "60s",
        **health.settings(),
    }
    if platform.login:
        # the Secret is argocd-secret, which Argo CD keeps its own keys in
        provider = {
            "name": "SSO",
            "issuer": platform.login.issuer,
            "clientID": platform.login.client,
            "clientSecret": "$oidc.clientSecret",
            "requestedScopes": ["openid", "profile", "email", "groups"],
        }
        settings["oidc.config"] = _text(provider)
    parameters = {
        "server.insecure": "true",
        # a first rendering clones upstream's repository
        "controller.repo.server.timeout.seconds": "180",
        # the end of a wave that waits for what never comes; a later commit starts anew
        "controller.sync.timeout.seconds": "3600",
    }
    return [
        _config_map("argocd-cm", settings),
        _config_map("argocd-rbac-cm", {"policy.default": "", "policy.csv": policy(platform.login)}),
        _config_map("argocd-cmd-params-cm", parameters),
    ]


def policy(login: Login | None) -> str:
    """Who may do what in Argo CD. Whoever is in no group of platform.yaml sees nothing.

    A trainer's own rights are in the workflow engine. An approver starts a sync of a service again; what is deployed is
    decided by commits. `admin` is Argo CD's own role.
    """
    rules = [
        ("p", "role:viewer", "applications", "get", "*/*", "allow"),
        ("p", "role:viewer", "logs", "get", "*/*", "allow"),
        ("p", "role:viewer", "projects", "get", "*", "allow"),
        ("g", "role:trainer", "role:viewer"),
        ("p", "role:approver", "applications", "sync", "services/*", "allow"),
        ("p", "role:approver", "applications", "action/apps/Deployment/restart", "services/*", "allow"),
        ("g", "role:approver", "role:trainer"),
    ]
    for role in ("viewer", "trainer", "approver", "admin") if login else ():
        rules += [("g", group, f"role:{role}") for group in getattr(login, role)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rules)
    return text.getvalue()


def _network() -> Manifest:
    """Upstream lets everybody in, for it cannot know who ends TLS."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "argocd-server-network-policy"},
        "spec": {
            "ingress": [
                {"from": [_pods_of("kube-system")], "ports": [{"protocol": "TCP", "port": 8080}]},
                {"from": [_pods_of("monitoring")], "ports": [{"protocol": "TCP", "port": 8083}]},
            ]
        },
    }


def _pods_of(namespace: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}


def _workload(kind: str, name: str, parts: Mapping[str, list[str]]) -> Manifest:
    spec: dict[str, Any] = {}
    for field, names in parts.items():
        spec[field] = []
        for container in names:
            cpu, memory, limit = RESOURCES[container]
            resources = {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit}}
            spec[field].append({"name": container, "resources": resources})
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": {"template": {"spec": spec}}}


def _removed(kind: str, name: str) -> Manifest:
    name = f"{name}-network-policy" if kind == "NetworkPolicy" else name  # as upstream calls them
    return {"apiVersion": _API.get(kind, "v1"), "kind": kind, "metadata": {"name": name}, "$patch": "delete"}


def _config_map(name: str, data: Mapping[str, str]) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": dict(data)}


def _text(body: Manifest) -> str:
    return yaml.safe_dump(body, sort_keys=False)
