"""What the workflow controller is told: where artifacts and logs go, what every Workflow gets that does not say
otherwise, and that only our WorkflowTemplates run.

Source of the keys: argo-workflows 4.1, config/config.go and docs/workflow-controller-configmap.yaml.
"""

from __future__ import annotations

from typing import Any

import yaml

from pipelines.platform import Platform
from pipelines.templates._parts import NON_ROOT, WEEK

Manifest = dict[str, Any]

# Workflows that run at once in a namespace; the rest wait, so that a burst of pushes cannot starve the box
PARALLEL = 8


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
    }
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


def _text(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False).removesuffix("...\n")  # PyYAML ends a bare scalar's document
