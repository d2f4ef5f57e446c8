"""From nothing to a platform that runs, as a person would install it: secrets, `yard up`, and Argo CD does the rest.

`clean` takes away what an earlier run left, controllers included; `install` puts upstream's repositories and the
platform's own on a Git host in the cluster, and calls `yard`.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import e2e_mirror
import yaml
from e2e_cluster import ROOT, YARD, Cluster, Object, until

HERE = Path(__file__).parent
SERVICES = ("digits", "plums", "pears", "figs")
RUNS = ("mlops-build", "mlops", "mlops-release")
NAMESPACES = (
    *(f"{service}-dev" for service in SERVICES),
    *RUNS,
    *("storage", "argo-events", "argo", "argocd", "cert-manager", "e2e"),
)
HOST = "http://githost.e2e.svc"  # in place of the Git host outside
COMPONENTS_HERE = {"argo-cd": "3.2.12"}  # what the test cluster has an image of, instead of the pinned one
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
    """Everything that `install` and the tests made, and the controllers, in an order in which nothing is left hanging.

    Refuses a cluster that has a platform of somebody else.
    """
    root: Any = cluster.get("applications", "argocd", "root")
    assert not root or root["spec"]["source"]["repoURL"].startswith(f"{HOST}/"), "this cluster has a platform already"
    # who would bring back what is deleted
    controller = ("statefulset/argocd-application-controller", "--ignore-not-found", "--timeout=120s")
    cluster.kubectl("-n", "argocd", "delete", *controller, "--cascade=foreground")
    found = [("argocd", "application", entry) for entry in cluster.list("applications", "argocd")]
    for plural in ("sensors", "eventsources", "eventbus"):
        found += [("argo-events", plural, entry) for entry in cluster.list(plural, "argo-events")]
    for namespace, kind, entry in found:  # who would see to the finalizers goes away with them
        name = entry["metadata"]["name"]
        cluster.kubectl("-n", namespace, "delete", kind, name, "--wait=false", "--ignore-not-found")
        patch = ("--type=merge", '--patch={"metadata": {"finalizers": null}}')
        cluster.kubectl("-n", namespace, "patch", kind, name, *patch, check=False)
    for namespace in RUNS:
        cluster.kubectl("-n", namespace, "delete", "cronworkflows,workflows", "--all", "--timeout=120s", check=False)
    cluster.kubectl("delete", "namespace", *NAMESPACES, "--ignore-not-found", "--timeout=300s")
    crds = [entry["metadata"]["name"] for entry in cluster.list("customresourcedefinitions")]
    ours = [name for name in crds if name.endswith(".argoproj.io")]
    if ours:
        cluster.kubectl("delete", "crd", *ours, "--timeout=120s")
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


def settings(cluster: Cluster, into: Path, run: str) -> None:
    """platform.yaml and versions.yaml of this run: nothing that an earlier run left in the registry is found, and a
    node does not take an old image of ours for the new one.
    """
    platform = (HERE / "platform.yaml").read_text()
    assert "/trainyard\n  REGISTRY_URL" in platform
    platform = platform.replace("/trainyard\n  REGISTRY_URL", f"/trainyard-{run.lower()}\n  REGISTRY_URL")
    nodes = [{"name": node["metadata"]["name"]} for node in cluster.list("nodes")]
    (into / "platform.yaml").write_text(f"{platform}\nnodes: {json.dumps(nodes)}\n")
    body = yaml.safe_load((ROOT / "versions.yaml").read_text())
    body["images"] |= {image: f"{body['images'][image]}-{run.lower()}" for image in DOCKERFILES}
    if "E2E_IMAGE" not in os.environ:
        body["components"] |= COMPONENTS_HERE
    (into / "versions.yaml").write_text(yaml.safe_dump(body))


def render(into: Path) -> None:
    """The manifests for these settings: the platform's repository."""
    command = [sys.executable, "-m", "pipelines.templates.render", "--platform", str(into / "platform.yaml")]
    command += ["--versions", str(into / "versions.yaml"), "--into", str(into)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def install(cluster: Cluster, platform: Path, facts: dict[str, Any]) -> None:
    """`platform` is the checkout of the platform's repository, rendered."""
    versions = yaml.safe_load((platform / "versions.yaml").read_text())
    image = versions["images"]["pipelines"]
    status = _secrets(cluster, platform)
    # the prober, which stands for an application that asks a model, is in e2e
    cluster.apply(_namespace("e2e", {"trainyard/calls": "services"}))
    hook: Any = cluster.get("secrets", "argo-events", "github-webhook")
    webhook = base64.b64decode(hook["data"]["secret"]).decode()
    cluster.apply(_secret("e2e", "githost", webhook=webhook, status=status))
    _fixtures(cluster, image)
    cluster.rollout("e2e", "deployment/githost")
    e2e_mirror.fill(cluster, versions["components"], platform.parent / "upstream")
    e2e_mirror.push(cluster, platform, "acme/trainyard", "The platform")
    _own_volume(cluster, image, "argo-events", "eventbus-default-js-vol-eventbus-default-js-0", "2Gi")
    _own_volume(cluster, image, "storage", "storage", "10Gi")
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(_kill_half_way, cluster)
        for again in (False, True):
            begun = time.monotonic()
            said = yard(cluster, platform, "up", "--cluster")
            facts["yard up, again" if again else "yard up"] = round(time.monotonic() - begun, 1)
            assert ("nothing had to be changed" in said) == again, said
        facts["killed half way"] = killed.result()
    facts["applications"] = sorted(entry["metadata"]["name"] for entry in cluster.list("applications", "argocd"))
    wait_for_events(cluster)


def _kill_half_way(cluster: Cluster) -> list[str]:
    """Argo CD's controllers die while the second wave is being applied, and the installation goes on."""
    until(lambda: cluster.get("applications", "argocd", "argo-workflows"), "the second wave", 600)
    names = ("application-controller", "repo-server")
    return [pod for name in names for pod in cluster.kill_pods("argocd", f"app.kubernetes.io/name=argocd-{name}")]


def yard(cluster: Cluster, platform: Path, *words: str, given: str = "") -> str:
    """The command as its administrator runs it, in the checkout. It reaches the Git host by the API server."""
    host = cluster.service("e2e", "githost", 80)
    environment = {
        **os.environ,
        "PATH": f"{ROOT / '.tools/bin'}:{os.environ['PATH']}",
        "HOME": str(platform.parent),
        "KUBECONFIG": os.environ["KUBECONFIG"],
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{host}/.insteadOf",
        "GIT_CONFIG_VALUE_0": f"{HOST}/",
    }
    done = subprocess.run(
        [YARD, *words], cwd=platform, env=environment, input=given, capture_output=True, text=True, check=False
    )
    print(done.stdout, file=sys.stderr)
    assert done.returncode == 0, f"yard {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


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


def _secrets(cluster: Cluster, platform: Path) -> str:
    """By `yard secrets`: what a person supplies (the Git host's tokens) from the encrypted file, the rest is made.
    Returns the token for commit statuses.
    """
    status = secrets.token_urlsafe(32)
    yard(cluster, platform, "secrets", "init")
    yard(cluster, platform, "secrets", "set", "git-status", given=f"{status}\n")
    yard(cluster, platform, "secrets", "set", "git-write", given=f"{secrets.token_urlsafe(32)}\n")
    yard(cluster, platform, "secrets", "check")
    yard(cluster, platform, "secrets", "apply")
    return status


def _secret(namespace: str, name: str, **data: str) -> Object:
    meta = {"name": name, "namespace": namespace}
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": encoded}


def _fixtures(cluster: Cluster, image: str) -> None:
    for name in ("githost", "prober"):
        code = (HERE / f"{name}.py").read_text()
        meta = {"name": name, "namespace": "e2e"}
        cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {f"{name}.py": code}})
    repositories = [*(f"acme/{name}" for name in (*SERVICES, "releases", "trainyard")), *e2e_mirror.REPOSITORIES]
    fixture(cluster, "githost", PIPELINES_IMAGE=image, REPOSITORIES=" ".join(repositories))


def _own_volume(cluster: Cluster, image: str, namespace: str, claim: str, size: str) -> None:
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
                    "image": image,
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
