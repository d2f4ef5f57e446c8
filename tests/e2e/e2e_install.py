"""From nothing to a platform that runs: what a person would do by hand on a new cluster, from the committed manifests.

`clean` takes away what an earlier run left, `install` puts everything in place and waits until it is ready.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from e2e_cluster import ROOT, Cluster, Object, until

HERE = Path(__file__).parent
SERVICES = ("digits", "plums", "pears", "figs")
RUNS = ("mlops-build", "mlops", "mlops-release")
NAMESPACES = (*RUNS, "storage", "e2e", *(f"{service}-dev" for service in SERVICES))
# `COMMAND -f DOCKERFILE CONTEXT NAME…` builds an image and puts it where the cluster's nodes find it
IMAGE_COMMAND = shlex.split(os.environ.get("E2E_IMAGE", str(ROOT.parent / "shared/cluster/image")))
DOCKERFILES = {
    "pipelines": "pipelines/Dockerfile",
    "serving": "pipelines/serving/Dockerfile",
    "storage": "solo/storage/Dockerfile",
}
KANIKO = str(yaml.safe_load((ROOT / "versions.yaml").read_text())["images"]["kaniko"])
KANIKO_HERE = "ghcr.io/chainguard-dev/kaniko:latest"
# names that the manifests use → images of the test cluster without a registry, whose `image` command can rename
STAND_INS = {
    KANIKO: KANIKO_HERE,
    "python:3.11-slim-bookworm": "python:3.11-slim",
}


def clean(cluster: Cluster) -> None:
    """Everything that `install` and the tests made, and only that, in an order in which nothing is left hanging."""
    for kind in ("applications", "appprojects"):
        names = [*(f"{service}-dev" for service in SERVICES)] if kind == "applications" else ["services"]
        cluster.kubectl("-n", "argocd", "delete", kind, *names, "--ignore-not-found", "--timeout=60s")
    for kind in ("sensors", "eventsources", "eventbus"):
        cluster.kubectl("-n", "argo-events", "delete", kind, "--all", "--timeout=120s")
    for claim in cluster.list("persistentvolumeclaims", "argo-events"):
        if "eventbus-default-js" in claim["metadata"]["name"]:  # a StatefulSet leaves its volumes
            cluster.kubectl("-n", "argo-events", "delete", "pvc", claim["metadata"]["name"], "--timeout=60s")
    for namespace in RUNS:
        cluster.kubectl("-n", namespace, "delete", "cronworkflows,workflows", "--all", "--timeout=120s", check=False)
    cluster.kubectl("delete", "namespace", *NAMESPACES, "--ignore-not-found", "--timeout=180s")
    cluster.kubectl("delete", "node", "gpu-1", "--ignore-not-found")


def build_images(versions: Path) -> None:
    """The platform's own images from their Dockerfiles, under the names in `versions` and in versions.yaml."""
    if "E2E_IMAGE" not in os.environ:
        for name, source in STAND_INS.items():
            subprocess.run([*IMAGE_COMMAND, "--from", source, name], check=True, stdout=subprocess.DEVNULL)
    new, committed = (yaml.safe_load(path.read_text())["images"] for path in (versions, ROOT / "versions.yaml"))
    for image, dockerfile in DOCKERFILES.items():
        names = [new[image], committed[image]]
        command = [*IMAGE_COMMAND, "-f", str(ROOT / dockerfile), str(ROOT), *names]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def settings(into: Path, run: str) -> tuple[Path, Path]:
    """platform.yaml and versions.yaml of this run: nothing that an earlier run left in the registry is found, and a
    node does not take an old image of ours for the new one.
    """
    platform = (HERE / "platform.yaml").read_text()
    assert "/trainyard\n" in platform
    (into / "platform.yaml").write_text(platform.replace("/trainyard\n", f"/trainyard-{run.lower()}\n"))
    body = yaml.safe_load((ROOT / "versions.yaml").read_text())
    body["images"] |= {image: f"{body['images'][image]}-{run.lower()}" for image in DOCKERFILES}
    (into / "versions.yaml").write_text(yaml.safe_dump(body))
    return into / "platform.yaml", into / "versions.yaml"


def render(into: Path, platform: Path, versions: Path) -> Path:
    """The manifests for these settings."""
    command = [sys.executable, "-m", "pipelines.templates.render", "--platform", str(platform)]
    command += ["--versions", str(versions), "--into", str(into)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return into


def install(cluster: Cluster, manifests: Path) -> None:
    bases = [
        *(manifests / "mlops/config").glob("*.yaml"),
        *(manifests / "applications/services").glob("*/namespace.yaml"),
    ]
    # the prober, which stands for an application that asks a model, is in e2e
    cluster.apply(_namespace("storage"), _namespace("e2e", {"trainyard/calls": "services"}), *bases)
    cluster.apply(*_secrets())
    cluster.apply(manifests / "namespaces/argo-events.yaml")
    _own_volume(cluster, "argo-events", "eventbus-default-js-vol-eventbus-default-js-0", "2Gi")
    _own_volume(cluster, "storage", "storage", "10Gi")
    cluster.apply(manifests / "applications/storage")
    _fixtures(cluster)
    _controllers(cluster, manifests)
    for folder in ("mlops", "argo-events/sources", "argocd/projects", "applications/services"):
        cluster.apply(manifests / folder)
    cluster.rollout("storage", "deployment/storage")
    cluster.rollout("e2e", "deployment/githost")
    cluster.rollout("argocd", "deployment/argocd-server")
    wait_for_events(cluster)


def versions(cluster: Cluster) -> dict[str, str]:
    """Component → the version that the cluster runs."""

    def tag(plural: str, namespace: str, name: str) -> str:
        found: Any = cluster.get(plural, namespace, name)
        return str(found["spec"]["template"]["spec"]["containers"][0]["image"]).rpartition(":")[2]

    return {
        "kubernetes": json.loads(cluster.call("version"))["gitVersion"],
        "argo-workflows": tag("deployments", "argo", "workflow-controller"),
        "argo-events": tag("deployments", "argo-events", "controller-manager"),
        "argo-cd": tag("deployments", "argocd", "argocd-repo-server"),
        "kaniko": f"{KANIKO_HERE} under its name" if "E2E_IMAGE" not in os.environ else KANIKO.rpartition(":")[2],
    }


def wait_for_events(cluster: Cluster) -> None:
    """The bus, the sources and the Sensors run, and the Sensors have their subscriptions."""
    until(lambda: cluster.get("statefulsets", "argo-events", "eventbus-default-js"), "the EventBus")
    cluster.rollout("argo-events", "statefulset/eventbus-default-js")
    for label, names in (
        ("eventsource-name", ("github", "stages")),
        ("sensor-name", ("ci", "ct", "release", "verify")),
    ):
        for name in names:
            selector = f"{label}={name}"
            until(
                lambda selector=selector: cluster.list("deployments", "argo-events", selector),
                f"a Deployment {selector}",
            )
            cluster.kubectl("-n", "argo-events", "rollout", "status", "deployment", "-l", selector, "--timeout=180s")
    for name in ("ci", "ct", "release", "verify"):
        until(
            lambda name=name: "Subscribing to subject" in _sensor_log(cluster, name), f"Sensor {name} to subscribe", 120
        )


def _sensor_log(cluster: Cluster, name: str) -> str:
    return cluster.kubectl("-n", "argo-events", "logs", "-l", f"sensor-name={name}", "--tail=-1", check=False)


def _namespace(name: str, labels: dict[str, str] | None = None) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}}


def _secrets() -> Iterator[Object]:
    """New for every installation; nothing of them is in a file."""
    webhook, stages, writer, reader, status = (secrets.token_urlsafe(32) for _ in range(5))
    signing = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    tokens = json.dumps({"trainyard-registry": {"write": [writer], "read": [reader]}, "trainyard-scratch": "open"})
    yield _secret("argo-events", "github-webhook", secret=webhook)
    yield _secret("argo-events", "stages-token", token=stages)
    yield _secret("storage", "storage-tokens", **{"tokens.json": tokens})
    for namespace in RUNS:
        yield _secret(namespace, "registry", credentials=writer)
        yield _secret(namespace, "git-status", token=status)
    for namespace in ("mlops-build", "mlops"):
        yield _secret(namespace, "stages-token", token=stages)
    yield _secret("mlops-release", "signing", **{"key.pem": signing.decode()})
    for service in SERVICES:
        yield _secret(f"{service}-dev", "registry-read", credentials=reader)
    yield _secret("e2e", "githost", webhook=webhook, status=status)
    # Argo CD made this one; only its key for GitHub's webhook is ours
    yield _secret("argocd", "argocd-secret", **{"webhook.github.secret": webhook})


def _secret(namespace: str, name: str, **data: str) -> Object:
    meta = {"name": name, "namespace": namespace}
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": encoded}


def _fixtures(cluster: Cluster) -> None:
    for name in ("githost", "prober"):
        code = (HERE / f"{name}.py").read_text()
        meta = {"name": name, "namespace": "e2e"}
        cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {f"{name}.py": code}})
    fixture(cluster, "githost", PIPELINES_IMAGE=pipelines_image(cluster))


def _own_volume(cluster: Cluster, namespace: str, claim: str, size: str) -> None:
    """Make a volume before who uses it, and let that write there: host-path volumes belong to root and know no fsGroup.
    The namespace must not be `restricted` yet.
    """
    meta = {"name": claim, "namespace": namespace}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "own-volume", "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "main",
                    "image": pipelines_image(cluster),
                    "command": ["chown", "65532:65532", "/data"],
                    "securityContext": {"runAsUser": 0, "runAsNonRoot": False},
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }
    cluster.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}, pod)
    ended = "--for=jsonpath={.status.phase}=Succeeded"
    cluster.kubectl("-n", namespace, "wait", "pod/own-volume", ended, "--timeout=90s")
    cluster.kubectl("-n", namespace, "delete", "pod", "own-volume")


def _controllers(cluster: Cluster, manifests: Path) -> None:
    """Our configuration for the controllers that the cluster has, and what a core install lacks."""
    cluster.apply(manifests / "argo-workflows/config")
    store = endpoints(cluster)["STORAGE_URL"]
    # the Argo Server reads archived logs from the store
    cluster.kubectl("-n", "argo", "set", "env", "deployment/argo-server", f"STORAGE_EMULATOR_HOST={store}")
    cluster.rollout("argo", "deployment/argo-server")
    # how soon it looks again when a webhook or its repository server died; upstream's default is two minutes and more
    meta = {"name": "argocd-cm", "namespace": "argocd"}
    settings = {"timeout.reconciliation": "60s", "timeout.reconciliation.jitter": "0s"}
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": settings})
    server: Any = cluster.get("deployments", "argocd", "argocd-repo-server")
    image = server["spec"]["template"]["spec"]["containers"][0]["image"]
    fixture(cluster, "argocd-server", ARGOCD_IMAGE=image)
    cluster.kubectl(
        "-n",
        "argocd",
        "rollout",
        "restart",
        "statefulset/argocd-application-controller",
        "deployment/argocd-repo-server",
    )
    cluster.rollout("argocd", "statefulset/argocd-application-controller", "deployment/argocd-repo-server")


def fixture(cluster: Cluster, name: str, **images: str) -> None:
    """Apply fixtures/<name>.yaml with the images that its $(NAMES) stand for."""
    text = (HERE / f"fixtures/{name}.yaml").read_text()
    for key, image in images.items():
        text = text.replace(f"$({key})", image)
    cluster.apply(*yaml.safe_load_all(text))


def pipelines_image(cluster: Cluster) -> str:
    """The image that the platform's steps run in."""
    found: Any = cluster.get("configmaps", "mlops", "platform")
    return str(found["data"]["PIPELINES_IMAGE"])


def endpoints(cluster: Cluster) -> dict[str, str]:
    """ConfigMap `endpoints`, as every step gets it."""
    found: Any = cluster.get("configmaps", "mlops", "endpoints")
    return dict(found["data"])
