"""What a release puts into Git: the Deployment of a locked model, its Service, what belongs to them, and the record
that explains them.

Plain dicts in, plain YAML out; no address and no secret is in them, so the same files serve every runtime.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import yaml

from pipelines.config import Config, Deploy, Scale
from pipelines.registry import Lock

PORT = 8080
LEAVING = 10  # seconds that requests may still arrive for a pod on its way out: nodes hear late that it has left
USER = 65532  # "nonroot", as distroless images call it
GPU_LABEL = "nvidia.com/gpu.present"  # as NVIDIA's GPU feature discovery sets it
# of a node: "false" where its roles in platform.yaml, or its GPU, keep these pods away (Platform.node_labels)
SERVE_LABEL, TRAIN_LABEL = "trainyard/serve", "trainyard/train"

# every file that a release may write; what it does not write this time is removed
FILES = ("deployment.yaml", "service.yaml", "pdb.yaml", "hpa.yaml", "env.yaml", "release.yaml")
SETTINGS = "trainyard/config"  # annotation of the pods: the digest of their ConfigMap, so that a change starts new ones
SPREAD = {"node": ["kubernetes.io/hostname"], "zone": ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]}

Manifest = dict[str, Any]


def release_files(
    lock: Lock, digest: str, config: Config, environment: str, *, images: dict[str, str], record: dict[str, str]
) -> dict[str, str]:
    """File name (one of FILES) → YAML of one service in one environment. `record` is the release record's data, all
    strings.
    """
    knobs = {str(name): deploy for name, deploy in config.deploy.items()}[environment]
    namespace = f"{lock.service}-{environment}"
    labels = {"app.kubernetes.io/name": lock.service, "app.kubernetes.io/managed-by": "trainyard"}
    documents = {
        "deployment.yaml": _deployment(lock, digest, knobs, namespace, labels, images),
        "service.yaml": _service(lock.service, namespace, labels),
        "pdb.yaml": _budget(lock.service, namespace, labels),
        "release.yaml": _config_map(f"{lock.service}-release", namespace, labels, record),
    }
    if knobs.scale:
        documents["hpa.yaml"] = _scaler(lock.service, namespace, labels, knobs.scale)
    if knobs.env:
        documents["env.yaml"] = _config_map(f"{lock.service}-env", namespace, labels, knobs.env)
    return {name: yaml.safe_dump(body, sort_keys=False, width=120) for name, body in documents.items()}


def _deployment(
    lock: Lock, digest: str, knobs: Deploy, namespace: str, labels: dict[str, str], images: dict[str, str]
) -> Manifest:
    model = lock.versions["model"]
    closed = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    annotations = {"trainyard/lock": digest, "trainyard/sha": lock.sha}
    if knobs.env:
        annotations[SETTINGS] = config_digest(knobs.env)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": lock.service, "namespace": namespace, "labels": labels},
        "spec": {
            # left out where the autoscaler decides: Argo CD applies on the server's side and so owns no more than what
            # Git says. A number here would be put back by self-heal each time that the load changes it
            **({} if knobs.scale else {"replicas": knobs.replicas}),
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": 120,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": knobs.max_surge, "maxUnavailable": knobs.max_unavailable},
            },
            "selector": {"matchLabels": {"app.kubernetes.io/name": lock.service}},
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": {
                    "automountServiceAccountToken": False,
                    "terminationGracePeriodSeconds": 30 + LEAVING,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": USER,
                        "runAsGroup": USER,
                        "fsGroup": USER,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "affinity": _cpu_nodes(),
                    **_spread(lock.service, knobs.spread),
                    "initContainers": [
                        {
                            "name": "fetch",
                            "image": images["pipelines"],
                            "command": ["python", "-m", "pipelines.steps", "fetch"],
                            "args": [f"--bundle={model.digest}", "--into=/srv/bundle"],
                            "envFrom": [{"configMapRef": {"name": "endpoints"}}],
                            "env": [{"name": "REGISTRY_CREDENTIALS", "value": "/var/run/registry/credentials"}],
                            # what it asks for counts as long as the pod lives, so no more than serving
                            "resources": _resources(knobs.resources.cpu, "256Mi"),
                            "securityContext": closed,
                            "volumeMounts": [
                                {"name": "bundle", "mountPath": "/srv"},
                                {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
                                {"name": "registry", "mountPath": "/var/run/registry", "readOnly": True},
                            ],
                        }
                    ],
                    "containers": [
                        {
                            "name": "serving",
                            "image": images["serving"],
                            "command": ["python", "-m", "pipelines.serving"],
                            "args": ["--bundle=/srv/bundle"],
                            **({"envFrom": [{"configMapRef": {"name": f"{lock.service}-env"}}]} if knobs.env else {}),
                            "env": [
                                # the pod's own address: on a cluster the network reaches it, on a laptop only the
                                # laptop does
                                {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                                {"name": "PORT", "value": str(PORT)},
                                {"name": "MODEL_NAME", "value": lock.service},
                                {"name": "MODEL_VERSION", "value": str(model.number)},
                                {"name": "BUNDLE_DIGEST", "value": model.digest},
                                {"name": "LOCK", "value": digest},
                                *(_from_secret(name, f"{lock.service}-secrets") for name in knobs.secrets),
                            ],
                            "ports": [{"name": "http", "containerPort": PORT}],
                            # until then it serves as before; the process itself hears of its end afterwards
                            "lifecycle": {"preStop": {"sleep": {"seconds": LEAVING}}},
                            "startupProbe": _probe("/v2/health/live", 1, 60),
                            "readinessProbe": _probe("/v2/health/ready", 2, 2),
                            "livenessProbe": _probe("/v2/health/live", 10, 3),
                            "resources": _resources(knobs.resources.cpu, knobs.resources.memory),
                            "securityContext": closed,
                            "volumeMounts": [
                                {"name": "bundle", "mountPath": "/srv", "readOnly": True},
                                {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
                            ],
                        }
                    ],
                    "volumes": [
                        {"name": "bundle", "emptyDir": {}},
                        {"name": "tmp", "emptyDir": {}},
                        {"name": "registry", "secret": {"secretName": "registry-read"}},
                    ],
                },
            },
        },
    }


def _cpu_nodes() -> Manifest:
    """Never where the node list forbids it, and beside a GPU only where there is no other node."""
    allowed = {"key": SERVE_LABEL, "operator": "NotIn", "values": ["false"]}
    without = {"key": GPU_LABEL, "operator": "DoesNotExist"}
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [allowed]}]},
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 100, "preference": {"matchExpressions": [without]}}
            ],
        }
    }


def _spread(name: str, spread: str) -> Manifest:
    """Soft: on one node, or when a node is full, the pods run all the same."""
    if spread == "none":
        return {}
    constraints = [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": name}},
            # each version for itself: the pods that leave in a rollout do not count
            "matchLabelKeys": ["pod-template-hash"],
        }
        for key in SPREAD[spread]
    ]
    return {"topologySpreadConstraints": constraints}


def config_digest(data: dict[str, str]) -> str:
    """The name of a ConfigMap's content: the same settings, in whatever order, the same digest."""
    return f"sha256:{hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()}"


def _from_secret(name: str, secret: str) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name}}}


def _resources(cpu: str, memory: str) -> Manifest:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}}


def _probe(path: str, period: int, failures: int) -> Manifest:
    return {"httpGet": {"path": path, "port": PORT}, "periodSeconds": period, "failureThreshold": failures}


def _service(name: str, namespace: str, labels: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "selector": {"app.kubernetes.io/name": name},
            "ports": [{"name": "http", "port": PORT, "targetPort": PORT}],
        },
    }


def _budget(name: str, namespace: str, labels: dict[str, str]) -> Manifest:
    """One pod at a time may be taken away. Not `minAvailable: 1`: with one replica no node could ever be drained."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app.kubernetes.io/name": name}}},
    }


def _scaler(name: str, namespace: str, labels: dict[str, str], scale: Scale) -> Manifest:
    # a release is as healthy as its Deployment: a new autoscaler says nothing for its first seconds, and one that met
    # another writer of the Deployment is Degraded until it looks again; a good release would be taken back for that
    annotations = {"argocd.argoproj.io/ignore-healthcheck": "true"}
    target = {"type": "Utilization", "averageUtilization": scale.cpu}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": scale.min,
            "maxReplicas": scale.max,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }


def _config_map(name: str, namespace: str, labels: dict[str, str], data: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "data": data,
    }
