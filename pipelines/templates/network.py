"""NetworkPolicies: nobody calls a step, and the user's code reaches no more than its pod's executor needs.

The executor shares the pod's network, so what it needs stays open to the user's code as well: DNS, the Kubernetes API
and the object store.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pipelines.platform import Platform
from pipelines.templates._parts import USER_CODE

Manifest = dict[str, Any]

PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]  # RFC 1918
API_PORTS = (443, 6443)  # a policy sees the API server's own address behind the Service `kubernetes`


def policies(platform: Platform, namespace: str) -> list[Manifest]:
    """The policies of a namespace that runs pipelines."""
    return [
        _policy("no-callers", namespace, {}, {"policyTypes": ["Ingress"]}),
        _policy(
            "user-code",
            namespace,
            {"matchLabels": USER_CODE},
            {"policyTypes": ["Egress"], "egress": [_dns(), _api(), _store(platform)]},
        ),
    ]


def _policy(name: str, namespace: str, pods: Manifest, spec: Manifest) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": pods, **spec},
    }


def _dns() -> Manifest:
    namespace = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    return {"to": [namespace], "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]}


def _api() -> Manifest:
    blocks = [{"ipBlock": {"cidr": cidr}} for cidr in PRIVATE]
    return {"to": blocks, "ports": [{"protocol": "TCP", "port": port} for port in API_PORTS]}


def _store(platform: Platform) -> Manifest:
    """Google's addresses are many and change, so: HTTPS to anywhere outside; an emulator is one namespace."""
    url = urlsplit(platform.endpoints.STORAGE_URL)
    if not url.hostname:
        anywhere = {"ipBlock": {"cidr": "0.0.0.0/0", "except": PRIVATE}}
        return {"to": [anywhere], "ports": [{"protocol": "TCP", "port": 443}]}
    parts = url.hostname.split(".")
    where: Manifest = {"ipBlock": {"cidr": "0.0.0.0/0"}}
    if parts[2:3] == ["svc"]:
        where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": parts[1]}}}
    return {"to": [where], "ports": [{"protocol": "TCP", "port": url.port or (443 if url.scheme == "https" else 80)}]}
