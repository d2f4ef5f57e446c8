"""What the workflow controller and the Argo Server are told: where artifacts, logs and old runs go, what every Workflow
gets that does not say otherwise, that only our WorkflowTemplates run, who logs in, and what the UI links to.

Source of the keys: argo-workflows 4.1, config/config.go and docs/workflow-controller-configmap.yaml.
"""

from __future__ import annotations

from typing import Any

import yaml

from pipelines.platform import Login, Platform
from pipelines.templates import links
from pipelines.templates._parts import NON_ROOT, WEEK

Manifest = dict[str, Any]

# Workflows that run at once in a namespace; the rest wait, so that a burst of pushes cannot starve the box. There is no
# such number for all namespaces together: trainings that take hours would keep a release waiting
PARALLEL = 8
ARCHIVE = "archive"  # the CloudNativePG cluster in namespace `argo`; the operator makes Secret `archive-app`


def config_map(platform: Platform) -> Manifest:
    """ConfigMap `workflow-controller-configmap` in namespace `argo`."""
    scratch: Manifest = {
        "bucket": platform.endpoints.SCRATCH_BUCKET,
        "keyFormat": "{{workflow.namespace}}/{{workflow.name}}/{{pod.name}}",
    }
    executor: Manifest = {
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if platform.endpoints.STORAGE_URL:
        # an emulator: Google's Go client takes its address from here, and then sends no credentials
        executor["env"] = [{"name": "STORAGE_EMULATOR_HOST", "value": platform.endpoints.STORAGE_URL}]
    else:
        scratch["serviceAccountKeySecret"] = {"name": "scratch", "key": "credentials"}
    settings: dict[str, Any] = {
        "artifactRepository": {"archiveLogs": True, "gcs": scratch},
        "executor": executor,
        "namespaceParallelism": PARALLEL,
        "workflowDefaults": {"spec": _defaults()},
        # nobody submits a Workflow of his own, so nobody mounts the release secrets
        "workflowRestrictions": {"templateReferencing": "Strict"},
        # scraped inside the cluster; upstream's default is a certificate that signs itself
        "metricsConfig": {"enabled": True, "path": "/metrics", "port": 9090, "secure": False},
        "links": links.of_runs(platform),
        "columns": [
            {"name": name, "type": "label", "key": f"trainyard/{name.lower()}"} for name in ("Pipeline", "Service")
        ],
    }
    if platform.addons.postgresql:
        settings["persistence"] = _persistence()
    if platform.login:
        settings["sso"] = _sso(platform, platform.login)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "workflow-controller-configmap", "namespace": "argo"},
        "data": {key: _text(value) for key, value in settings.items()},
    }


def _defaults() -> Manifest:
    """As our own templates have it: no token for the code, not root, an end, and logs that outlive the pods."""
    return {
        "serviceAccountName": "pipeline",
        "automountServiceAccountToken": False,
        "executor": {"serviceAccountName": "executor"},
        "securityContext": NON_ROOT.model_dump(by_alias=True, exclude_none=True),
        "activeDeadlineSeconds": 24 * 3600,
        "ttlStrategy": {"secondsAfterCompletion": WEEK},
        "podGC": {"strategy": "OnPodCompletion"},
        "archiveLogs": True,
    }


def _persistence() -> Manifest:
    """Runs outlive their time in the cluster. A database that is away costs the archive, not the runs: the status of
    a run stays in the cluster (no nodeStatusOffLoad).
    """
    secret = f"{ARCHIVE}-app"
    return {
        "archive": True,
        "archiveTTL": "180d",
        "connectionPool": {"maxIdleConns": 2, "maxOpenConns": 10, "connMaxLifetime": "30m"},
        "postgresql": {
            "host": f"{ARCHIVE}-rw.argo.svc",
            "port": 5432,
            "database": ARCHIVE,
            "tableName": "argo_workflows",
            "userNameSecret": {"name": secret, "key": "username"},
            "passwordSecret": {"name": secret, "key": "password"},
            "ssl": True,
            "sslMode": "require",
        },
    }


def _sso(platform: Platform, login: Login) -> Manifest:
    """Which groups are which account stands at the accounts (people.py); who is in none is refused."""
    return {
        "issuer": login.issuer,
        "clientId": {"name": "argo-sso", "key": "client-id"},
        "clientSecret": {"name": "argo-sso", "key": "client-secret"},
        "redirectUrl": f"{platform.endpoints.ARGO_URL}/oauth2/callback",
        "scopes": ["profile", "email", "groups"],
        "sessionExpiry": "8h",
        "rbac": {"enabled": True},
    }


def _text(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False).removesuffix("...\n")  # PyYAML ends a bare scalar's document
