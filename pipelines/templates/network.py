"""NetworkPolicies: nothing is reached, and nothing reaches out, but for what stands here.

A pod of a pipeline reaches what Argo's executor in it needs: DNS, the Kubernetes API and the object store. No policy
can tell two containers of a pod apart, so the user's code reaches these as well, and nothing else. What a step of ours
needs beyond that, its pod says in labels (`_parts.reaches`), which follow from the credentials that it holds.

A policy sees the end of a connection as the pod that answers does: the port that this listens on, not the Service's;
the API server's own address, not that of the Service `kubernetes`; and behind a name that leads to this cluster's own
Ingress, the Ingress controller's pod.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from pipelines.manifests import PORT as SERVING_PORT
from pipelines.platform import Platform
from pipelines.templates._parts import TO, reaches
from pipelines.templates.controller import ARCHIVE
from pipelines.templates.namespaces import NAMESPACES, PURPOSE, RUNS

Manifest = dict[str, Any]

PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]  # RFC 1918
LINK_LOCAL = "169.254.0.0/16"  # where a cloud gives a node's credentials to whoever asks
BUS_PORT, BUS_CLUSTER_PORT, BUS_MONITOR_PORT, METRICS_PORT = 4222, 6222, 8222, 7777  # of Argo Events' pods
ARGO_PORT, ARGO_METRICS_PORT = 2746, 9090
CERT_WEBHOOK_PORT, CERT_METRICS_PORT = 10250, 9402
CALLERS = {"trainyard/calls": "services"}  # label of a namespace whose pods may ask deployed models


def _pods(labels: dict[str, str], namespace: str = "") -> Manifest:
    """Pods with these labels, here or in another namespace."""
    return {"podSelector": {"matchLabels": labels}} | (_namespace(namespace) if namespace else {})


def _namespace(name: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


INGRESS_CONTROLLER = _pods({"app.kubernetes.io/name": "traefik"}, "kube-system")
INGRESS_PORTS = (8000, 8443)  # where k3s' Traefik listens behind 80 and 443
MONITORING = _pods({"app.kubernetes.io/name": "prometheus"}, "monitoring")
BUS, SOURCE, SENSOR = ({"controller": f"{kind}-controller"} for kind in ("eventbus", "eventsource", "sensor"))
ANYWHERE = {"ipBlock": {"cidr": "0.0.0.0/0", "except": [LINK_LOCAL]}}
OUTSIDE = {"ipBlock": {"cidr": "0.0.0.0/0", "except": [*PRIVATE, LINK_LOCAL]}}


def places(templates: Iterable[Manifest]) -> dict[str, set[str]]:
    """Namespace → the places that the labels of the WorkflowTemplates' pods there name."""
    found: dict[str, set[str]] = {}
    for workflow in templates:
        named = found.setdefault(workflow["metadata"]["namespace"], set())
        for template in workflow["spec"]["templates"]:
            labels = template.get("metadata", {}).get("labels", {})
            named |= {key.removeprefix(TO) for key in labels if key.startswith(TO)}
    return found


def runs(platform: Platform, namespace: str, places: Iterable[str]) -> list[Manifest]:
    """A namespace that runs pipelines; `places` are those that the labels of its pods name."""
    return [
        _deny(namespace),
        _allow("executor", namespace, {}, egress=[_dns(), *_api(), *_store(platform)]),
        *(_allow(f"to-{name}", namespace, reaches(name), egress=_place(platform, name)) for name in sorted(places)),
    ]


def service(platform: Platform, namespace: str) -> list[Manifest]:
    """A deployed model: who may ask it; and the store, from which its init container fetches the model."""
    callers: list[Manifest] = [
        INGRESS_CONTROLLER,
        _pods(reaches("services"), "mlops-release"),
        {"namespaceSelector": {"matchLabels": CALLERS}},
        MONITORING,
    ]
    out = [_dns(), *_store(platform)]
    return [_deny(namespace), _allow("serving", namespace, {}, ingress=[_from(callers, SERVING_PORT)], egress=out)]


def events(platform: Platform, sources: dict[str, int]) -> list[Manifest]:
    """Argo Events: the Git host's webhooks come in through the Ingress (or from a Git host in this cluster), the steps
    post to `stages`, both hand over to the bus, and Sensors make Workflows of it. `sources`: EventSource → port.
    """
    where = "argo-events"
    hosts = [INGRESS_CONTROLLER, *_inside(platform.endpoints.GIT_URL)]
    if platform.addons.tunnel:
        hosts.append(_pods({"app.kubernetes.io/name": "tunnel"}, "tunnel"))
    steps = [_pods(reaches("events"), namespace) for namespace in RUNS if namespace != "mlops-release"]
    bus, clients = [_pods(BUS)], [_pods(SOURCE), _pods(SENSOR)]
    to_bus = _to(bus, BUS_PORT)
    return [
        _deny(where),
        _allow("all", where, {}, ingress=[_from([MONITORING], METRICS_PORT)], egress=[_dns()]),
        *(
            _allow(
                f"source-{name}",
                where,
                {**SOURCE, "eventsource-name": name},
                ingress=[_from(steps if name == "stages" else hosts, port)],
                egress=[to_bus],
            )
            for name, port in sources.items()
        ),
        _allow(
            "bus",
            where,
            BUS,
            ingress=[_from(clients, BUS_PORT), _from(bus, BUS_CLUSTER_PORT), _from([MONITORING], BUS_MONITOR_PORT)],
            egress=[_to(bus, BUS_CLUSTER_PORT)],
        ),
        _allow("sensors", where, SENSOR, egress=[to_bus, *_api()]),
        _allow("controller", where, {"app": "controller-manager"}, egress=[*_api()]),
    ]


def argo(platform: Platform) -> list[Manifest]:
    """Argo Workflows: people come in through the Ingress. The server reads logs in the store, asks who somebody is (an
    address outside, or Argo CD's behind the Ingress), and both keep the archive in the
    database beside them. Its copies reach each other; who reaches it, the add-on `postgresql` says.
    """
    where, archive = "argo", _to([_pods({"cnpg.io/cluster": ARCHIVE}, "argo")], 5432, 8000)
    return [
        _deny(where),
        _allow("all", where, {}, egress=[_dns(), *_api(), archive]),
        _allow(
            "server",
            where,
            {"app": "argo-server"},
            ingress=[_from([INGRESS_CONTROLLER], ARGO_PORT)],
            egress=[_to([ANYWHERE], 443), *_ingress(), *_store(platform)],
        ),
        _allow("controller", where, {"app": "workflow-controller"}, ingress=[_from([MONITORING], ARGO_METRICS_PORT)]),
    ]


def cert_manager() -> list[Manifest]:
    """The API server asks its webhook, from the address of a node; it asks authorities for certificates, and name
    servers whether a challenge is out yet: those of the domain, not only the cluster's.
    """
    where = "cert-manager"
    names = {"to": [ANYWHERE], "ports": _dns()["ports"]}
    return [
        _deny(where),
        _allow(
            "all",
            where,
            {},
            ingress=[_from([MONITORING], CERT_METRICS_PORT)],
            egress=[_dns(), *_api(), names, _to([ANYWHERE], 80, 443)],
        ),
        _allow("webhook", where, {"app": "webhook"}, ingress=[_from([ANYWHERE], CERT_WEBHOOK_PORT)]),
    ]


def store(namespace: str, pods: dict[str, str], port: int) -> list[Manifest]:
    """The store of a development cluster: whoever reaches its scratch bucket may use it. It reaches nobody."""
    purposes = {"key": PURPOSE, "operator": "In", "values": ["pipelines", "service"]}
    callers: list[Manifest] = [{"namespaceSelector": {"matchExpressions": [purposes]}}, _namespace("argo")]
    return [_deny(namespace), _allow("store", namespace, pods, ingress=[_from(callers, port)])]


def _deny(namespace: str) -> Manifest:
    """What no other policy allows, in and out, for every pod."""
    return _policy("default-deny", namespace, {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})


def _allow(name: str, namespace: str, pods: dict[str, str], **rules: list[Manifest]) -> Manifest:
    """`ingress`: from whom the pods with these labels may be called; `egress`: whom they may call."""
    spec = {
        "podSelector": {"matchLabels": dict(pods)} if pods else {},
        "policyTypes": [kind.capitalize() for kind in rules],
    }
    return _policy(name, namespace, spec | rules)


def _policy(name: str, namespace: str, spec: Manifest) -> Manifest:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


def _from(peers: list[Manifest], *ports: int) -> Manifest:
    return {"from": peers, "ports": [{"protocol": "TCP", "port": port} for port in ports]}


def _to(peers: list[Manifest], *ports: int) -> Manifest:
    """Without ports: to all of them."""
    return {"to": peers} | ({"ports": [{"protocol": "TCP", "port": port} for port in ports]} if ports else {})


def _dns() -> Manifest:
    ports = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    return {"to": [_namespace("kube-system")], "ports": ports}


def _api() -> list[Manifest]:
    """The API server has the address of a node, which no policy can name, and which may be a public one: k3s listens at
    6443. Where it is at 443, as in a cloud's cluster, it has a private address.
    """
    return [_to([{"ipBlock": {"cidr": cidr}} for cidr in PRIVATE], 443), _to([ANYWHERE], 6443)]


def _store(platform: Platform) -> list[Manifest]:
    """Google's addresses are many and change, so: HTTPS to anywhere outside."""
    return _at(platform.endpoints.STORAGE_URL) if platform.endpoints.STORAGE_URL else [_to([OUTSIDE], 443)]


def _place(platform: Platform, name: str) -> list[Manifest]:
    """What a label `trainyard/to-<name>` opens."""
    ends = platform.endpoints
    registries = [ends.as_dict()["REGISTRY_URL"], f"https://{ends.REGISTRY}"]
    mirrors = [f"https://{ends.REGISTRY_MIRROR}"] if ends.REGISTRY_MIRROR else []
    match name:
        case "git":
            return _at(ends.GIT_URL, ends.GIT_API_URL)
        case "registry":
            return _at(*registries)
        case "internet":  # base images, packages, and what else a Dockerfile fetches; Debian's packages come by HTTP
            return [_to([ANYWHERE], 80, 443), *_ingress(), *_at(*mirrors)]
        case "events":
            return _at(ends.EVENTS_URL)
        case "services" if ".{namespace}." in ends.SERVING_URL:
            return [_to([{"namespaceSelector": {"matchLabels": {PURPOSE: "service"}}}], SERVING_PORT)]
        case "services":
            return _at(ends.SERVING_URL)
    raise ValueError(f"no policy says what {name} is")


def _at(*urls: str) -> list[Manifest]:
    """Where these addresses lead, each once."""
    found: list[Manifest] = []
    for text in urls:
        url = urlsplit(text)
        port = url.port or (443 if url.scheme == "https" else 80)
        inside = _inside(text)
        if inside:
            # of other people's Services the pods' port is not known
            ours = url.hostname is not None and url.hostname.split(".")[1] in NAMESPACES
            made = [_to(inside, port) if ours else _to(inside)]
        elif _is_address(url.hostname or ""):
            made = [_to([{"ipBlock": {"cidr": f"{url.hostname}/32"}}], port)]
        else:
            made = [_to([ANYWHERE], port), *_ingress()]
        found += [entry for entry in made if entry not in found]
    return found


def _inside(text: str) -> list[Manifest]:
    """The namespace that an address inside the cluster is in (`x.y.svc`, or `x.y` with a namespace of ours)."""
    parts = (urlsplit(text).hostname or "").split(".")
    if parts[2:3] == ["svc"] or (len(parts) == 2 and parts[1] in NAMESPACES):
        return [_namespace(parts[1])]
    return []


def _ingress() -> list[Manifest]:
    return [_to([INGRESS_CONTROLLER], *INGRESS_PORTS)]


def _is_address(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True
