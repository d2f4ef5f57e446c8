"""Service accounts and their rights, the ConfigMaps every step reads, and one Application per service and
environment.

Least privilege: a pipeline's pods have no rights at all; the executor may report results; a Sensor may create
Workflows; `verify` may read Applications.
"""

from __future__ import annotations

import json
from typing import Any

from pipelines.platform import Platform
from pipelines.templates._parts import Images
from pipelines.templates.namespaces import RUNS

Manifest = dict[str, Any]
RBAC = "rbac.authorization.k8s.io/v1"
PULL = "registry-pull"


def endpoints(platform: Platform, namespace: str) -> Manifest:
    return _config_map("endpoints", namespace, platform.endpoints.as_dict())


def platform_config(platform: Platform, images: Images, version: str, templates: str, namespace: str) -> Manifest:
    services = [{"name": s.name, "repo": s.repo, "branch": s.branch} for s in platform.services]
    return _config_map(
        "platform",
        namespace,
        {
            "PLATFORM_VERSION": version,
            "TEMPLATES_DIGEST": templates,
            "PIPELINES_IMAGE": images.pipelines,
            "SERVING_IMAGE": images.serving,
            # k3s' RuntimeClass for NVIDIA's container toolkit: without it a pod has the device and no driver
            "GPU_RUNTIME": "nvidia" if platform.addons.gpu else "",
            "GIT_PROVIDER": platform.git.provider,
            "RELEASES_REPO": platform.releases,
            "BOT_NAME": platform.bot.name,
            "BOT_EMAIL": platform.bot.email,
            "SERVICES": json.dumps(services, sort_keys=True),
        },
    )


def accounts() -> dict[str, list[Manifest]]:
    """File name → the objects of one purpose."""
    files: dict[str, list[Manifest]] = {}
    for where in RUNS:
        files[f"{where}-accounts"] = [
            # images of a registry that asks for a login; without the Secret the others are pulled all the same
            _account("pipeline", where) | {"imagePullSecrets": [{"name": PULL}]},
            _account("executor", where),
            # with automountServiceAccountToken off the executor takes its token from this Secret; the cluster fills it
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {
                    "name": "executor.service-account-token",
                    "namespace": where,
                    "annotations": {"kubernetes.io/service-account.name": "executor"},
                },
                "type": "kubernetes.io/service-account-token",
            },
            *_grant(
                "executor", where, ("argoproj.io", "workflowtaskresults", ["create", "patch"]), (where, "executor")
            ),
            *_grant("sensor", where, ("argoproj.io", "workflows", ["create"]), ("argo-events", "sensor")),
        ]
    files["argo-events-accounts"] = [
        _account("sensor", "argo-events", token=True),
        *(_account(name, "argo-events") for name in ("bus", "source")),
    ]
    files["verify-accounts"] = [
        _account("verify", "mlops-release", token=True),
        *_grant("verify", "argocd", ("argoproj.io", "applications", ["get"]), ("mlops-release", "verify")),
    ]
    return files


def project(platform: Platform) -> Manifest:
    """Project `services`: one repository, a short list of kinds, the services' namespaces; nothing that grants
    rights.
    """
    kinds = [
        ("apps", "Deployment"),
        ("", "Service"),
        ("", "ConfigMap"),
        ("policy", "PodDisruptionBudget"),
        ("autoscaling", "HorizontalPodAutoscaler"),
    ]
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AppProject",
        "metadata": {"name": "services", "namespace": "argocd"},
        "spec": {
            "description": "What the pipeline may deploy, and where",
            "sourceRepos": [repo_url(platform)],
            "destinations": [
                {"server": "https://kubernetes.default.svc", "namespace": f"{service.name}-{environment}"}
                for service in platform.services
                for environment in service.environments
            ],
            "namespaceResourceWhitelist": [{"group": group, "kind": kind} for group, kind in kinds],
        },
    }


def application(platform: Platform, service: str, environment: str) -> Manifest:
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {
            "name": f"{service}-{environment}",
            "namespace": "argocd",
            # before its first release, or with a bad one, a service is not well; the platform is
            "annotations": {"argocd.argoproj.io/ignore-healthcheck": "true"},
            # a service that platform.yaml no longer lists goes
            "finalizers": ["resources-finalizer.argocd.argoproj.io"],
        },
        "spec": {
            "project": "services",
            "source": {
                "repoURL": repo_url(platform),
                "path": f"services/{service}/{environment}",
                "targetRevision": "main",
            },
            "destination": {"server": "https://kubernetes.default.svc", "namespace": f"{service}-{environment}"},
            "syncPolicy": {
                "automated": {"prune": True, "selfHeal": True},
                "syncOptions": ["ServerSideApply=true"],
                # bounded: an endless retry would hold a bad revision for ever
                "retry": {"limit": 5, "backoff": {"duration": "5s", "factor": 2, "maxDuration": "1m"}},
            },
        },
    }


def repo_url(platform: Platform) -> str:
    return f"{platform.endpoints.GIT_URL}/{platform.releases}.git"


def _config_map(name: str, namespace: str, data: dict[str, str]) -> Manifest:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


def _account(name: str, namespace: str, *, token: bool = False) -> Manifest:
    """A service account; with `token` its pods get one (Argo lets a pod refuse it, but not ask for it)."""
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "automountServiceAccountToken": token}


def _grant(name: str, namespace: str, rule: tuple[str, str, list[str]], subject: tuple[str, str]) -> list[Manifest]:
    """A Role with one rule in `namespace`, bound to a service account (namespace, name)."""
    group, resource, verbs = rule
    meta = {"name": name, "namespace": namespace}
    return [
        {
            "apiVersion": RBAC,
            "kind": "Role",
            "metadata": meta,
            "rules": [{"apiGroups": [group], "resources": [resource], "verbs": verbs}],
        },
        {
            "apiVersion": RBAC,
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": subject[1], "namespace": subject[0]}],
        },
    ]
