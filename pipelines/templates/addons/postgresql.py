"""The add-on `postgresql`: CloudNativePG, and the database `archive`, which keeps finished Workflows.

One instance on one or two nodes; three where three nodes are, so that one of them may go. Harbor's database is in
`applications/harbor`. A cluster's own copies are not here: `applications/backup` dumps each database.
"""

from __future__ import annotations

from pipelines.platform import Platform
from pipelines.templates import namespaces, network
from pipelines.templates._parts import Images
from pipelines.templates.addons import _objects as k
from pipelines.templates.addons._addon import Addon, Manifest, Pins, Secret
from pipelines.templates.base import remote

NAME = "postgresql"
OPERATOR = "cnpg-system"
COMPONENT = "cloudnative-pg"
PORT, STATUS, METRICS = 5432, 8000, 9187
ARCHIVE, ARGO = "archive", "argo"  # the cluster, its database and its owner have one name


def files(platform: Platform, images: Images, pins: Pins) -> dict[str, list[Manifest]]:
    version = pins.components[COMPONENT]
    base = remote(platform, "cloudnative-pg/cloudnative-pg", "config/default", version)
    return {
        "kustomization.yaml": [
            # upstream's release is this folder with this image
            k.kustomization(
                base,
                "archive.yaml",
                images=[{"name": "controller", "newName": f"ghcr.io/cloudnative-pg/{COMPONENT}", "newTag": version}],
                patches=[{"patch": _security()}],
            )
        ],
        "archive.yaml": [
            cluster(platform, pins, ARCHIVE, ARGO, "5Gi"),
            callers(ARCHIVE, ARGO, {"": [PORT, STATUS]}),
        ],
    }


def cluster(platform: Platform, pins: Pins, name: str, namespace: str, size: str) -> Manifest:
    """A Cluster with one database; the operator writes its login to the Secret `<name>-app`."""
    instances = 3 if len(platform.nodes) >= 3 else 1
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        # data: taking the add-on away asks a person before it takes this
        "metadata": k.meta(name, namespace, **{"argocd.argoproj.io/sync-options": "Delete=confirm,Prune=confirm"}),
        "spec": {
            "instances": instances,
            "imageName": pins.images[NAME],
            "bootstrap": {"initdb": {"database": name, "owner": name, "dataChecksums": True}},
            "storage": {"size": size},
            "postgresql": {"parameters": {"max_connections": "100", "shared_buffers": "128MB"}},
            "resources": k.resources("100m", "512Mi"),
            # a budget for a single instance would keep its node from ever being drained
            "enablePDB": instances > 1,
            "affinity": {"podAntiAffinityType": "required" if instances > 1 else "preferred"},
        },
    }


def callers(name: str, namespace: str, ports: dict[str, list[int]]) -> Manifest:
    """A NetworkPolicy: besides `ports`, the operator asks for the instances' state, monitoring for numbers."""
    pods = {"matchLabels": {"cnpg.io/cluster": name}}
    called = f"{name}-database"
    # an instance asks the API server what it is to do, and the others for what they have
    others = network._to([network._pods(pods["matchLabels"])], PORT, STATUS)
    out = (network._dns(), *network._api(), others)
    return k.from_namespaces(
        called, namespace, pods, {**ports, OPERATOR: [STATUS, PORT], "monitoring": [METRICS]}, *out
    )


def _security() -> str:
    """The operator's namespace holds nothing but the operator, which passes `restricted`."""
    level = "restricted"
    key, version = namespaces.POD_SECURITY, namespaces.POD_SECURITY_VERSION
    modes = ("enforce", "audit", "warn")
    labels = "".join(f"    {key}/{mode}: {level}\n    {key}/{mode}-version: {version}\n" for mode in modes)
    return f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {OPERATOR}\n  labels:\n{labels}"


ADDON = Addon(
    NAME,
    files,
    destination=OPERATOR,
    namespaces=(OPERATOR,),
    wave=-1,
    secrets=(Secret(ARGO, f"{ARCHIVE}-app", ("username", "password"), "the archive's login", "CloudNativePG"),),
)
