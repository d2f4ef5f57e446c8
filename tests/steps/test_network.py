"""The rendered NetworkPolicies, judged connection by connection: what is needed is open, and the rest is not.

A small evaluator plays the CNI. It is strict: an address range holds for pods, too, as it does on k3s.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pipelines import platform
from pipelines.templates import lint, render

ROOT = Path(__file__).parents[2]
RUNS = ("mlops-build", "mlops", "mlops-release")


class End(NamedTuple):
    """One end of a connection: a pod, or an address outside the pods' network (no namespace)."""

    namespace: str
    labels: dict[str, str]
    address: str = "10.42.0.7"


POD = "10.42.0.7"
OUTSIDE, PRIVATE, METADATA = (End("", {}, address) for address in ("140.82.112.3", "192.168.1.20", "169.254.169.254"))
ENDS = {
    "internet": OUTSIDE,
    "private": PRIVATE,  # a node, where the API server listens as well, or a machine beside it
    "metadata": METADATA,
    "dns": End("kube-system", {"k8s-app": "kube-dns"}),
    "traefik": End("kube-system", {"app.kubernetes.io/name": "traefik"}),
    "prometheus": End("monitoring", {"app.kubernetes.io/name": "prometheus"}),
    "argo-server": End("argo", {"app": "argo-server"}),
    "cert-webhook": End("cert-manager", {"app": "webhook"}),
    "cert-manager": End("cert-manager", {"app": "cert-manager"}),
    "controller": End("argo", {"app": "workflow-controller"}),
    "postgres": End("argo", {"cnpg.io/cluster": "archive"}),
    "githost": End("e2e", {"app": "githost"}),
    "registry": End("registry", {}),
    "stranger": End("default", {}),
    "shop": End("shop", {}),
    "events-controller": End("argo-events", {"app": "controller-manager"}),
    **{f"other@{namespace}": End(namespace, {}) for namespace in (*RUNS, "digits-dev", "argo-events")},
}


class World:
    """What a platform.yaml renders to: its policies, its namespaces and its pods by name (`claim@mlops-build`)."""

    def __init__(self, file: Path) -> None:
        texts = render.render(file)
        found = [
            lint.Manifest(name, body)
            for name, text in texts.items()
            if name.endswith(".yaml")
            for body in yaml.safe_load_all(text)
        ]
        images = yaml.safe_load((ROOT / "versions.yaml").read_text())["images"]
        found += lint._releases(platform.load(file), images)
        tree = lint.Tree(found, set(), {}, set())
        self.policies = [m.body for m in tree.of("NetworkPolicy")]
        self.namespaces = {m.name: m.body["metadata"]["labels"] for m in tree.of("Namespace")}
        self.namespaces |= {"shop": {"trainyard/calls": "services"}}
        self.ends = dict(ENDS)
        for pod in (*lint._pods(tree), *lint._made_pods(tree)):
            name = (
                pod.field.partition("templates[")[2].rstrip("]") or f"{pod.manifest.kind}-{pod.manifest.name}".lower()
            )
            self.ends[f"{name}@{pod.namespace}"] = End(pod.namespace, pod.labels)

    def open(self, source: str, target: str, port: int, protocol: str = "TCP") -> bool:
        here, there = self.ends[source], self.ends[target]
        return self._allows("Egress", here, there, port, protocol) and self._allows(
            "Ingress", there, here, port, protocol
        )

    def _allows(self, way: str, pod: End, other: End, port: int, protocol: str) -> bool:
        mine = [
            policy["spec"]
            for policy in self.policies
            if policy["metadata"]["namespace"] == pod.namespace
            and way in policy["spec"]["policyTypes"]
            and self._selects(policy["spec"]["podSelector"], pod.labels)
        ]
        field = {"Ingress": "from", "Egress": "to"}[way]
        return not mine or any(
            any(self._is(peer, pod.namespace, other) for peer in rule[field])
            and ({"protocol": protocol, "port": port} in rule["ports"] if "ports" in rule else True)
            for spec in mine
            for rule in spec.get(way.lower(), [])
        )

    def _is(self, peer: dict[str, Any], namespace: str, end: End) -> bool:
        if "ipBlock" in peer:
            ranges = [peer["ipBlock"]["cidr"], *peer["ipBlock"].get("except", [])]
            inside = [ipaddress.ip_address(end.address) in ipaddress.ip_network(cidr) for cidr in ranges]
            return inside[0] and not any(inside[1:])
        if not end.namespace:
            return False
        labels = {"kubernetes.io/metadata.name": end.namespace, **self.namespaces.get(end.namespace, {})}
        where = self._selects(peer["namespaceSelector"], labels) if "namespaceSelector" in peer else None
        here = end.namespace == namespace if where is None else where
        return here and self._selects(peer.get("podSelector", {}), end.labels)

    def _selects(self, selector: dict[str, Any], labels: dict[str, str]) -> bool:
        assert selector.keys() <= {"matchLabels", "matchExpressions"}
        assert all(e["operator"] == "In" for e in selector.get("matchExpressions", []))
        return selector.get("matchLabels", {}).items() <= labels.items() and all(
            labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", [])
        )


@pytest.fixture(scope="module")
def cloud() -> World:
    """Git, registry and store are outside: the committed platform.yaml."""
    return World(ROOT / "platform.yaml")


@pytest.fixture(scope="module")
def inside() -> World:
    """Everything is in the cluster."""
    return World(ROOT / "tests/e2e/platform.yaml")


GIT_STEPS = (
    *("checkout@mlops-build", "status@mlops-build", "status@mlops", "reconcile@mlops", "status@mlops-release"),
    *("release@mlops-release", "inspect@mlops-release", "wait@mlops-release", "keep@mlops-release"),
    "revert@mlops-release",
)
REGISTRY_STEPS = ("build@mlops-build", "sbom@mlops-build", "sign@mlops-release")
POSTERS = ("built@mlops-build", "accepted@mlops", "reconcile@mlops")
USER_CODE = ("test@mlops-build", "ingest@mlops", "process@mlops", "train-cpu@mlops", "train-gpu@mlops")
STAGES, GITHUB, BUS = (
    f"{name}@argo-events" for name in ("eventsource-stages", "eventsource-github", "eventbus-default")
)
SENSORS = tuple(f"sensor-{name}@argo-events" for name in ("ci", "ct", "release", "verify"))
SERVING = "deployment-digits@digits-dev"
STORE = "deployment-storage@storage"


def pods(world: World, *namespaces: str) -> list[str]:
    return [name for name in world.ends if "@" in name and name.partition("@")[2] in namespaces]


def test_the_world_has_all_pods(cloud):
    assert {*GIT_STEPS, *REGISTRY_STEPS, *POSTERS, *USER_CODE, *SENSORS} <= cloud.ends.keys()
    assert {STAGES, GITHUB, BUS, SERVING, STORE} <= cloud.ends.keys()
    assert len(pods(cloud, *RUNS)) > 25


def test_each_step_reaches_what_the_executor_needs(cloud, inside):
    for world in (cloud, inside):
        for pod in pods(world, *RUNS):
            assert world.open(pod, "dns", 53, "UDP"), pod
            assert world.open(pod, "dns", 53), pod
            assert world.open(pod, "private", 6443), pod
            assert world.open(pod, "internet", 6443), pod  # a node whose own address is public
            assert world.open(pod, "private", 443), pod
    assert all(cloud.open(pod, "internet", 443) for pod in pods(cloud, *RUNS))
    assert all(inside.open(pod, STORE, 4443) for pod in pods(inside, *RUNS))


def test_a_step_reaches_what_its_credentials_are_for_and_no_other_does(cloud, inside):
    for pod in pods(inside, *RUNS):
        assert inside.open(pod, "githost", 8080) == (pod in GIT_STEPS), pod
        assert inside.open(pod, "registry", 5000) == (pod in REGISTRY_STEPS), pod
        assert inside.open(pod, "internet", 443) == (pod == "build@mlops-build"), pod
    for world in (cloud, inside):
        for pod in pods(world, *RUNS):
            assert world.open(pod, STAGES, 12001) == (pod in POSTERS), pod
            assert world.open(pod, SERVING, 8080) == (pod == "smoke@mlops-release"), pod
            assert world.open(pod, "internet", 80) == (pod == "build@mlops-build"), pod
    for pod in pods(cloud, *RUNS):  # a registry or Git host behind this cluster's own Ingress
        assert cloud.open(pod, "traefik", 8443) == (pod in {*GIT_STEPS, *REGISTRY_STEPS}), pod


def test_user_code_reaches_nothing_of_the_platform(cloud, inside):
    targets = {
        "argo-server": 2746,
        "postgres": 5432,
        "githost": 8080,
        "registry": 5000,
        GITHUB: 12000,
        STAGES: 12001,
        BUS: 4222,
        SERVING: 8080,
        "traefik": 8443,
        "metadata": 80,
        "private": 22,
    }
    for world in (cloud, inside):
        for pod in USER_CODE:
            assert not [name for name, port in targets.items() if world.open(pod, name, port)], pod
    assert not any(inside.open(pod, "internet", 443) for pod in USER_CODE)


def test_nobody_calls_a_step(cloud):
    callers = [*cloud.ends]
    for pod in pods(cloud, *RUNS):
        assert not [name for name in callers for port in (80, 443, 8080) if cloud.open(name, pod, port)], pod


def test_nobody_reaches_a_clouds_credentials(cloud, inside):
    for world in (cloud, inside):
        for pod in pods(world, *RUNS, "digits-dev", "argo-events", "storage"):
            assert not any(world.open(pod, "metadata", port) for port in (80, 443)), pod


def test_events_come_from_the_git_host_and_from_our_steps(cloud, inside):
    for world, host in ((cloud, "traefik"), (inside, "githost")):
        for name in world.ends:
            assert world.open(name, GITHUB, 12000) == (name in ("traefik", host)), name
            assert world.open(name, STAGES, 12001) == (name in POSTERS), name


def test_only_sources_and_sensors_reach_the_bus(cloud):
    clients = {STAGES, GITHUB, *SENSORS}
    for name in cloud.ends:
        assert cloud.open(name, BUS, 4222) == (name in clients), name
        assert cloud.open(name, BUS, 6222) == (name == BUS), name
        assert cloud.open(name, BUS, 8222) == (name == "prometheus"), name


def test_of_the_events_pods_sensors_and_the_controller_reach_the_api(cloud):
    for name in pods(cloud, "argo-events"):
        assert cloud.open(name, "dns", 53, "UDP"), name
        assert cloud.open("prometheus", name, 7777), name
        assert not cloud.open(name, "internet", 443), name
        assert cloud.open(name, "private", 6443) == (name in SENSORS), name
    assert cloud.open("events-controller", "private", 6443)
    assert cloud.open("events-controller", "internet", 6443)


def test_a_model_answers_those_who_may_ask_and_fetches_from_the_store_alone(cloud, inside):
    for world in (cloud, inside):
        askers = {"traefik", "prometheus", "shop", "smoke@mlops-release"}
        for name in world.ends:
            assert world.open(name, SERVING, 8080) == (name in askers), name
            assert not world.open(name, SERVING, 22), name
        assert world.open(SERVING, "dns", 53, "UDP")
        assert not world.open(SERVING, "private", 6443)
        assert not world.open(SERVING, "internet", 6443)
    assert cloud.open(SERVING, "internet", 443)
    assert inside.open(SERVING, STORE, 4443)
    assert not inside.open(SERVING, "internet", 443)
    assert not inside.open("deployment-plums@plums-dev", SERVING, 8080)


def test_the_store_answers_steps_models_and_argo_and_calls_nobody(inside):
    for name, end in inside.ends.items():
        may = end.namespace in RUNS or end.namespace.endswith("-dev") or name == "argo-server"
        assert inside.open(name, STORE, 4443) == may, name
        assert not inside.open(STORE, name, 443), name


def test_argo_is_asked_through_the_ingress_alone(cloud, inside):
    for world in (cloud, inside):
        for name in world.ends:
            assert world.open(name, "argo-server", 2746) == (name == "traefik"), name
            assert world.open(name, "controller", 9090) == (name == "prometheus"), name
        for pod in ("argo-server", "controller"):
            assert world.open(pod, "private", 6443)
            assert not world.open(pod, "metadata", 80)
    assert cloud.open("argo-server", "internet", 443)
    assert not cloud.open("controller", "internet", 443)


def test_webhooks_come_through_the_tunnel_if_there_is_one(cloud, tmp_path):
    body = yaml.safe_load((ROOT / "platform.yaml").read_text())
    (tmp_path / "platform.yaml").write_text(yaml.safe_dump(body | {"addons": {"tunnel": True}}))
    tunnel = "deployment-tunnel@tunnel"
    assert World(tmp_path / "platform.yaml").open(tunnel, GITHUB, 12000)
    assert not cloud.open(tunnel, GITHUB, 12000)


def test_certificates_are_asked_for_outside_and_judged_for_the_api_server(cloud):
    assert cloud.open("private", "cert-webhook", 10250)
    assert not cloud.open("private", "cert-manager", 10250)
    assert not cloud.open("stranger", "cert-manager", 9402)
    for port, protocol in ((443, "TCP"), (53, "UDP")):
        assert cloud.open("cert-manager", "internet", port, protocol)
    assert cloud.open("cert-manager", "private", 6443)
    assert cloud.open("cert-manager", "internet", 6443)


@pytest.mark.parametrize(
    ("endpoints", "pod", "address", "port", "may"),
    [
        ({"REGISTRY_URL": "http://10.0.0.1:5000"}, "sbom@mlops-build", "10.0.0.1", 5000, True),
        ({"REGISTRY_URL": "http://10.0.0.1:5000"}, "sbom@mlops-build", "10.0.0.2", 5000, False),
        ({"GIT_URL": "https://git.example.com:8443"}, "checkout@mlops-build", "192.168.1.20", 8443, True),
        ({"GIT_URL": "https://git.example.com:8443"}, "test@mlops-build", "192.168.1.20", 8443, False),
        ({"REGISTRY_MIRROR": "mirror.example.com:5000/hub"}, "build@mlops-build", "192.168.1.20", 5000, True),
        ({"REGISTRY_MIRROR": "mirror.example.com:5000/hub"}, "sbom@mlops-build", "192.168.1.20", 5000, False),
        ({"STORAGE_URL": "https://objects.example.com"}, "claim@mlops-build", "192.168.1.20", 443, True),
        ({"SERVING_URL": "https://{service}.example.com:8443"}, "smoke@mlops-release", "192.168.1.20", 8443, True),
    ],
)
def test_an_address_of_ones_own_is_opened_for_those_who_need_it(tmp_path, endpoints, pod, address, port, may):
    body = yaml.safe_load((ROOT / "platform.yaml").read_text())
    body["endpoints"] |= endpoints
    (tmp_path / "platform.yaml").write_text(yaml.safe_dump(body))
    world = World(tmp_path / "platform.yaml")
    world.ends["there"] = End("", {}, address)
    assert world.open(pod, "there", port) == may
