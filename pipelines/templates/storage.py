"""The add-on `applications/storage`: the object store of a cluster without Google Cloud Storage. For development.

It is solo's emulator, alone. STORAGE_URL and, for Argo's executor and server, STORAGE_EMULATOR_HOST are then
`http://storage.storage.svc:4443`. Argo's client gives no token, so the scratch bucket has to be open, and the
NetworkPolicy is what guards it. Who may use what stands in the Secret `storage-tokens`, never in Git, as tokens.json:

    {"trainyard-registry": {"write": ["…"], "read": ["…"]}, "trainyard-scratch": "open"}
"""

from __future__ import annotations

from typing import Any

from pipelines.platform import Platform
from pipelines.templates import namespaces, network
from pipelines.templates._parts import USER, Images

Manifest = dict[str, Any]
NAME = "storage"
PORT = 4443
NAMED = {"app.kubernetes.io/name": NAME}
LABELS = {**NAMED, "app.kubernetes.io/managed-by": "trainyard"}
TOKENS = "/var/run/storage-tokens"


def manifests(platform: Platform, images: Images) -> list[Manifest]:
    """Namespace, volume, Deployment, Service, NetworkPolicies. The buckets are those of `platform.endpoints`."""
    buckets = (platform.endpoints.REGISTRY_BUCKET, platform.endpoints.SCRATCH_BUCKET)
    return [
        *namespaces.manifests(NAME),
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": _meta(),
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": _meta(),
            "spec": {
                "replicas": 1,
                "revisionHistoryLimit": 3,
                "strategy": {"type": "Recreate"},  # one process at a time owns the volume
                "selector": {"matchLabels": dict(NAMED)},
                "template": {"metadata": {"labels": dict(LABELS)}, "spec": _pod(images.storage, buckets)},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _meta(),
            "spec": {
                "selector": dict(NAMED),
                "ports": [{"name": "http", "port": PORT, "targetPort": PORT}],
            },
        },
        *network.store(NAME, NAMED, PORT),
    ]


def kustomization() -> Manifest:
    return {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": [f"{NAME}.yaml"]}


def _meta() -> Manifest:
    return {"name": NAME, "namespace": NAME, "labels": dict(LABELS)}


def _pod(image: str, buckets: tuple[str, ...]) -> Manifest:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": NAME,
                "image": image,
                "command": ["python", "-m", "solo.storage"],
                "args": [
                    "--home=/data",
                    "--host=0.0.0.0",
                    f"--port={PORT}",
                    f"--tokens={TOKENS}/tokens.json",
                    *(f"--bucket={bucket}" for bucket in buckets),
                ],
                "ports": [{"name": "http", "containerPort": PORT}],
                # at its start it looks at every file that it has
                "startupProbe": _probe(period=1, failures=120),
                "readinessProbe": _probe(period=5, failures=2),
                "livenessProbe": _probe(period=10, failures=6),
                "resources": {
                    "requests": {"cpu": "50m", "memory": "256Mi"},
                    "limits": {"cpu": "2", "memory": "512Mi"},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "tokens", "mountPath": TOKENS, "readOnly": True},
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
                ],
            }
        ],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": NAME}},
            {"name": "tokens", "secret": {"secretName": "storage-tokens"}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        ],
    }


def _probe(*, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": "/-/ready", "port": PORT},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
