"""Certificates: cert-manager's chart, and one ClusterIssuer by one name, whoever signs.

Each Ingress asks for its own certificate by an annotation: nothing has to be copied between namespaces, as a wildcard
would, and a leaked key opens one name. Let's Encrypt is asked by DNS-01, for the box needs no public address then.
"""

from __future__ import annotations

from typing import Any

from pipelines.platform import Platform
from pipelines.templates.base import ISSUER, Manifest

NAMESPACE = "cert-manager"
CA = "trainyard-ca"  # Secret and Certificate of the cluster's own CA
REGISTRY_CALLERS = ("mlops-build", "mlops-release")  # the namespaces of Kaniko and sbom, and of sign
DIRECTORIES = {
    "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
}


def values() -> dict[str, Any]:
    """For the chart. Its CRDs stay when it goes: with them every certificate would."""

    def resources(memory: str, limit: str) -> dict[str, Any]:
        return {"requests": {"cpu": "10m", "memory": memory}, "limits": {"memory": limit}}

    return {
        "crds": {"enabled": True, "keep": True},
        # the default would need rights in kube-system
        "global": {"leaderElection": {"namespace": NAMESPACE}},
        "resources": resources("64Mi", "256Mi"),
        "webhook": {"resources": resources("32Mi", "128Mi")},
        "cainjector": {"resources": resources("64Mi", "256Mi")},
        "startupapicheck": {"resources": resources("32Mi", "128Mi")},
    }


def issuers(platform: Platform) -> list[Manifest]:
    """ClusterIssuer `trainyard`, and the CA behind it when the cluster signs by itself."""
    if platform.tls.issuer != "self-signed":
        acme = {
            "server": DIRECTORIES[platform.tls.issuer],
            "email": platform.tls.email,
            "privateKeySecretRef": {"name": "letsencrypt-account"},
            "solvers": [
                {"dns01": {"cloudflare": {"apiTokenSecretRef": {"name": "cloudflare-token", "key": "api-token"}}}}
            ],
        }
        return [_issuer(ISSUER, {"acme": acme})]
    authority = {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {"name": CA, "namespace": NAMESPACE},
        "spec": {
            "isCA": True,
            "commonName": "Trainyard CA",
            "secretName": CA,
            # who trusts it does so by a copy: ten years, and the same key when it is renewed
            "duration": "87600h",
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Never"},
            "issuerRef": {"group": "cert-manager.io", "kind": "ClusterIssuer", "name": "self-signed"},
        },
    }
    return [_issuer("self-signed", {"selfSigned": {}}), authority, _issuer(ISSUER, {"ca": {"secretName": CA}})]


def registry_ca(namespace: str) -> Manifest:
    """A certificate that nobody shows: with it cert-manager keeps its CA, without the CA's key, in a Secret that pods
    of this namespace can mount; nothing has to copy it.
    """
    return {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {"name": "registry-ca", "namespace": namespace},
        "spec": {
            "secretName": "registry-ca",
            "dnsNames": [f"nobody.{namespace}.invalid"],
            "usages": ["client auth"],
            "issuerRef": {"group": "cert-manager.io", "kind": "ClusterIssuer", "name": ISSUER},
        },
    }


def _issuer(name: str, spec: dict[str, Any]) -> Manifest:
    return {"apiVersion": "cert-manager.io/v1", "kind": "ClusterIssuer", "metadata": {"name": name}, "spec": spec}
