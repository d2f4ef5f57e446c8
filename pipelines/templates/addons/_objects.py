"""What the add-ons' manifests are made of: metadata, namespaces, pods that pass `restricted`, Ingresses."""

from __future__ import annotations

from typing import Any

from pipelines.templates._parts import USER

Manifest = dict[str, Any]
OFF = "off"  # stands for a setting of an add-on that is off: its folder is there to be read, not to be applied


def meta(name: str, namespace: str = "", **annotations: str) -> Manifest:
    found: Manifest = {"name": name}
    if namespace:
        found["namespace"] = namespace
    found["labels"] = labels(name)
    if annotations:
        found["annotations"] = dict(annotations)
    return found


def labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "trainyard"}


def selector(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name}


def kustomization(*resources: str, **more: Any) -> Manifest:
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        **more,
        "resources": list(resources),
    }


def closed() -> Manifest:
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def pod_security(user: int = USER) -> Manifest:
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def resources(cpu: str, memory: str, limit: str = "") -> Manifest:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit or memory}}


def probe(path: str, port: int | str, *, period: int = 10, failures: int = 3) -> Manifest:
    return {"httpGet": {"path": path, "port": port}, "periodSeconds": period, "failureThreshold": failures}


def secret_env(name: str, secret: str, key: str) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def deployment(name: str, namespace: str, pod: Manifest, **spec: Any) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta(name, namespace),
        "spec": {
            "replicas": 1,
            "revisionHistoryLimit": 3,
            **spec,
            "selector": {"matchLabels": selector(name)},
            "template": {"metadata": {"labels": labels(name)}, "spec": pod},
        },
    }


def account(name: str, namespace: str) -> Manifest:
    """Its pods ask for its token, or have none."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": meta(name, namespace),
        "automountServiceAccountToken": False,
    }


def reader(name: str, namespace: str, rules: list[Manifest]) -> list[Manifest]:
    """A ClusterRole and its binding to the account of the same name."""
    rbac = "rbac.authorization.k8s.io"
    called = f"trainyard-{name}"
    return [
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": meta(called), "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": meta(called),
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": called},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
    ]


def from_namespaces(
    name: str, namespace: str, pods: Manifest, callers: dict[str, list[int]], *out: Manifest
) -> Manifest:
    """A NetworkPolicy: who may call these pods, by namespace, on which ports; "" is the pods' own namespace. With `out`
    they reach that, and nothing else.
    """
    rules = []
    for caller, ports in callers.items():
        peer: Manifest = {"podSelector": {}}
        if caller:
            peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": caller}}}
        rule: Manifest = {"from": [peer]}
        if ports:
            rule["ports"] = [{"protocol": "TCP", "port": port} for port in ports]
        rules.append(rule)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": meta(name, namespace),
        "spec": {
            "podSelector": pods,
            "policyTypes": ["Ingress", *(["Egress"] if out else [])],
            **({"ingress": rules} if rules else {}),
            **({"egress": list(out)} if out else {}),
        },
    }


def cron_job(name: str, namespace: str, schedule: str, pod: Manifest, minutes: int) -> Manifest:
    """One at a time; a try that failed is made again twice, then the next time is waited for."""
    job = {
        "backoffLimit": 2,
        "activeDeadlineSeconds": minutes * 60,
        "ttlSecondsAfterFinished": 7 * 24 * 3600,
        "template": {"metadata": {"labels": labels(name)}, "spec": {"restartPolicy": "Never", **pod}},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": meta(name, namespace),
        "spec": {
            "schedule": schedule,
            "timeZone": "Etc/UTC",
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 3600,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {"spec": job},
        },
    }


def step_pod(image: str, step: str, *args: str, env: list[Manifest], **more: Any) -> Manifest:
    """A pod that runs one of the platform's own steps once."""
    volumes = [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}, *more.pop("volumes", [])]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, *more.pop("mounts", [])]  # noqa: S108
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        **more,
        "containers": [
            {
                "name": step,
                "image": image,
                "command": ["python", "-m", "pipelines.steps", step],
                **({"args": list(args)} if args else {}),
                "env": env,
                "resources": resources("100m", "256Mi", "512Mi"),
                "securityContext": closed(),
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }
