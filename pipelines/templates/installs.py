"""How Argo Workflows and Argo Events are installed: upstream's manifests at the pinned version, and what we change in
them.

Patches stand in the kustomization itself: a file of its own would look like a whole object to everything that reads
these folders. What is changed beside the version: all that Pod Security's `restricted` asks for, requests and limits,
and fewer rights.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import yaml

from pipelines.platform import Platform
from pipelines.templates import controller
from pipelines.templates.base import ingress, remote
from pipelines.templates.people import server_rights, server_secrets

Manifest = dict[str, Any]

SERVER_PORT = 2746
METRICS_PORT = 9090
# how soon the controller looks at a Workflow again: its default of 10 s costs each step up to 10 s
REQUEUE = "2s"
CLOSED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
RESTRICTED = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


# ---- Argo Workflows


def workflows(platform: Platform, version: str) -> dict[str, list[Manifest]]:
    """Path below `argo-workflows/` → its objects: upstream, patched, in `install`; our configuration beside it."""
    config = controller.config_map(platform)
    added = {
        "ingress.yaml": [ingress(platform, "argo-server", "argo", ("argo", "argo-server", "web"))],
        "metrics.yaml": [_metrics()],
    }
    if rights := server_secrets(platform):
        added["rights.yaml"] = rights
    install = {
        "resources": [remote(platform, "argoproj/argo-workflows", "manifests/cluster-install", version), *added],
        # upstream's manifests say `latest`
        "images": [
            {"name": f"quay.io/argoproj/{name}", "newTag": f"v{version}"} for name in ("argocli", "workflow-controller")
        ],
        "patches": [
            # empty there; ours is the whole configuration, and an object can have but one owner
            _delete("v1", "ConfigMap", "workflow-controller-configmap"),
            _deployment("workflow-controller", _controller()),
            _deployment("argo-server", _server(platform), config),
            # replaced as a whole: upstream's asks by HTTPS
            _replace("Deployment", "argo-server", "/spec/template/spec/containers/0/readinessProbe", _probe(3)),
            _replace("ClusterRole", "argo-server-cluster-role", "/rules", server_rights()),
        ],
    }
    file = "config/workflow-controller-configmap.yaml"
    return {
        file: [config],
        "kustomization.yaml": [_kustomization(resources=["install", file])],
        "install/kustomization.yaml": [_kustomization(**install)],
        **{f"install/{name}": objects for name, objects in added.items()},
    }


def _controller() -> Manifest:
    container = {
        "name": "workflow-controller",
        "env": [{"name": "DEFAULT_REQUEUE_TIME", "value": REQUEUE}],
        "resources": _resources("50m", "128Mi", "1Gi"),
        "securityContext": CLOSED,
    }
    # one replica: the next leader would start no sooner than a new pod does, and a budget of one would hold up a drain
    return {"securityContext": RESTRICTED, "containers": [container]}


def _server(platform: Platform) -> Manifest:
    """Never `server` mode: that is the server's own rights for whoever comes. TLS ends at Traefik, which has the
    certificate; from there to the pod is the cluster's network, where a certificate that nobody checks proves nothing.
    """
    modes = ["client", *(["sso"] if platform.login else [])]
    container: Manifest = {
        "name": "argo-server",
        "args": ["server", "--secure=false", *(f"--auth-mode={mode}" for mode in modes)],
        "resources": _resources("20m", "128Mi", "1Gi"),
        "securityContext": CLOSED,
        "livenessProbe": _probe(10),
    }
    if platform.endpoints.STORAGE_URL:
        # archived logs are read from the emulator
        container["env"] = [{"name": "STORAGE_EMULATOR_HOST", "value": platform.endpoints.STORAGE_URL}]
    return {"securityContext": RESTRICTED, "containers": [container]}


def _probe(failures: int) -> Manifest:
    return {
        "httpGet": {"path": "/", "port": SERVER_PORT, "scheme": "HTTP"},
        "periodSeconds": 10,
        "failureThreshold": failures,
    }


def _metrics() -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "workflow-controller-metrics",
            "namespace": "argo",
            "labels": {"app": "workflow-controller"},
        },
        "spec": {
            "clusterIP": "None",
            "selector": {"app": "workflow-controller"},
            "ports": [{"name": "metrics", "port": METRICS_PORT, "targetPort": METRICS_PORT}],
        },
    }


# ---- Argo Events


def events(platform: Platform, version: str) -> dict[str, list[Manifest]]:
    """Path below `argo-events/` → its objects.

    The namespaced installation: all of ours is in `argo-events`, and the controller of the other one may read every
    Secret of the cluster. Without the validating webhook, which may too: `make lint` looks at the same before.
    """
    image = "quay.io/argoproj/argo-events"
    container = {
        "name": "controller-manager",
        "imagePullPolicy": "IfNotPresent",  # the tag does not move, and a box without internet restarts, too
        "env": [{"name": "ARGO_EVENTS_IMAGE", "value": f"{image}:v{version}"}],  # of the sources' and Sensors' pods
        "resources": _resources("20m", "64Mi", "256Mi"),
        "securityContext": CLOSED,
    }
    # the Git host's alone: nothing else of Argo Events is reached from outside
    service = ("argo-events", f"{platform.git.provider}-eventsource-svc", "http")
    hooks = ingress(platform, "hooks", "hooks", service, only="/push")
    install = {
        "resources": [remote(platform, "argoproj/argo-events", "manifests/namespace-install", version), "hooks.yaml"],
        "images": [{"name": image, "newTag": f"v{version}"}],
        "patches": [_deployment("controller-manager", {"securityContext": RESTRICTED, "containers": [container]})],
    }
    return {"install/kustomization.yaml": [_kustomization(**install)], "install/hooks.yaml": [hooks]}


# ---- what both have


def _kustomization(**body: Any) -> Manifest:
    return {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", **body}


def _deployment(name: str, pod: Manifest, config: Manifest | None = None) -> Manifest:
    """A patch of a Deployment's pods. A change of `config`, which the program reads at its start alone, starts new
    ones.
    """
    template: Manifest = {"spec": pod}
    if config:
        digest = hashlib.sha256(_text(config).encode()).hexdigest()
        template = {"metadata": {"annotations": {"trainyard/config": f"sha256:{digest}"}}, **template}
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}}
    return {"patch": _text({**body, "spec": {"template": template}})}


def _delete(version: str, kind: str, name: str) -> Manifest:
    return {"patch": _text({"$patch": "delete", "apiVersion": version, "kind": kind, "metadata": {"name": name}})}


def _replace(kind: str, name: str, path: str, value: Any) -> Manifest:
    target = {"kind": kind, "name": name}
    return {"target": target, "patch": _text([{"op": "replace", "path": path, "value": value}])}


def _text(value: Any) -> str:
    return yaml.safe_dump(json.loads(json.dumps(value)), sort_keys=False)  # as JSON once: no YAML anchors


def _resources(cpu: str, memory: str, limit: str) -> Manifest:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit}}
