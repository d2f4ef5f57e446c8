"""The add-on `gpu`: NVIDIA's device plugin, on the nodes that platform.yaml says have a GPU.

GPU feature discovery labels these nodes (`nvidia.com/gpu.present`): training finds them by it, serving keeps off. k3s
finds the runtime that the NVIDIA container toolkit installs, and has a RuntimeClass `nvidia` for it: none is here,
for two owners of one object would take turns.
"""

from __future__ import annotations

from pipelines.platform import Platform
from pipelines.templates import namespaces
from pipelines.templates._parts import Images
from pipelines.templates.addons._addon import Addon, Chart, Manifest, Pins
from pipelines.templates.addons._objects import OFF, kustomization, resources

NAME = "gpu"
RUNTIME = "nvidia"


def files(platform: Platform, images: Images, pins: Pins) -> dict[str, list[Manifest]]:
    return {
        "kustomization.yaml": [kustomization("namespace.yaml")],
        # the plugin hands the node's devices out: it talks to the kubelet over a socket of the node
        "namespace.yaml": namespaces.manifests(NAME),
        "values.yaml": [values(platform)],
    }


def values(platform: Platform) -> Manifest:
    return {
        "runtimeClassName": RUNTIME,
        "affinity": _on(platform),
        "tolerations": _tolerations(),
        # a node without a working driver is to be seen: the plugin's pod fails there
        "failOnInitError": True,
        "resources": resources("20m", "64Mi", "128Mi"),
        "gfd": {"enabled": True},
        "nfd": {
            "worker": {
                "affinity": _on(platform),
                "tolerations": _tolerations(),
                "resources": resources("10m", "64Mi", "128Mi"),
            },
            "master": {"resources": resources("10m", "64Mi", "128Mi")},
            "gc": {"resources": resources("10m", "32Mi", "64Mi")},
        },
    }


def _tolerations() -> list[Manifest]:
    return [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def _on(platform: Platform) -> Manifest:
    """By name: the chart's own rule waits for labels that only its own parts set."""
    names = [node.name for node in platform.nodes if node.gpu] or [OFF]
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": names}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


ADDON = Addon(
    NAME,
    files,
    destination=NAME,
    namespaces=(NAME,),
    chart=Chart("nvidia-device-plugin", "https://nvidia.github.io/k8s-device-plugin", "nvidia-device-plugin"),
    unchecked="whether the chart's pods run: nobody had a GPU here. They are privileged, to hand out its devices",
)
