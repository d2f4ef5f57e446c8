"""What the parts of the platform have in common: where upstream's manifests are, what is never deleted, Ingresses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipelines.platform import Platform

Manifest = dict[str, Any]

ISSUER = "trainyard"  # the ClusterIssuer of every certificate, whoever signs (certificates.py)

# Argo CD's answer to an object that Git no longer has
SYNC_OPTIONS = "argocd.argoproj.io/sync-options"
KEPT = "Prune=false,Delete=false"
# what holds data, or takes everything below it along: a commit never deletes one
GUARDED = {"Namespace", "CustomResourceDefinition", "PersistentVolumeClaim", "EventBus"}
# the patch of a kustomization that has CRDs from upstream; kustomize wants a kind and a name in it, whatever they are
KEPT_CRDS = {
    "target": {"kind": "CustomResourceDefinition"},
    "patch": f"apiVersion: v1\nkind: any\nmetadata:\n  name: any\n  annotations:\n    {SYNC_OPTIONS}: {KEPT}\n",
}


def remote(platform: Platform, repository: str, path: str, version: str) -> str:
    """A folder of an upstream repository at a release, as kustomize's `resources:` take it.

    kustomize gives up after 27 s if it is not told otherwise, which is short for a large repository.
    """
    return f"{platform.mirror.git}/{repository}.git//{path}?timeout=90&ref=v{version.removeprefix('v')}"


def guarded(objects: Iterable[Manifest]) -> list[Manifest]:
    """The same objects; those of GUARDED kinds tell Argo CD to leave them where they are, and upstream's CRDs do."""
    return [_guarded(body) for body in objects]


def _guarded(body: Manifest) -> Manifest:
    if body.get("kind") in GUARDED:
        meta = body["metadata"]
        notes = {**meta.get("annotations", {}), SYNC_OPTIONS: KEPT}
        return {**body, "metadata": {**meta, "annotations": notes}}
    if body.get("kind") == "Kustomization" and any("ref=" in name for name in body.get("resources", [])):
        return {**body, "patches": [*body.get("patches", []), KEPT_CRDS]}
    return body


def ingress(platform: Platform, name: str, host: str, service: tuple[str, str, str], *, only: str = "") -> Manifest:
    """`https://<host>.<domain>` by Traefik, with a certificate of its own, to a Service (namespace, name, port's name).
    With `only` it is that path and no other. Where TLS ends in front of the cluster Traefik gets plain HTTP.

    Its health counts for nobody: without an address (no Traefik yet) the platform behind it works all the same, and a
    wave must not wait for it.
    """
    namespace, backend, port = service
    address = platform.host(host)
    secure = platform.tls.issuer != "none"
    path = {
        "path": only or "/",
        "pathType": "Exact" if only else "Prefix",
        "backend": {"service": {"name": backend, "port": {"name": port}}},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {
                **({"cert-manager.io/cluster-issuer": ISSUER} if secure else {}),
                "traefik.ingress.kubernetes.io/router.entrypoints": "websecure" if secure else "web",
                "argocd.argoproj.io/ignore-healthcheck": "true",
            },
        },
        "spec": {
            "ingressClassName": "traefik",
            "rules": [{"host": address, "http": {"paths": [path]}}],
            **({"tls": [{"hosts": [address], "secretName": f"{host}-tls"}]} if secure else {}),
        },
    }
