"""The add-on `nfs`: volumes on an NFS server, by csi-driver-nfs. Its class is asked for by name, never the default.

A volume is a folder of the export, named after its claim, and stays when the claim goes: what several nodes write to is
more likely missed than in the way.
"""

from __future__ import annotations

from pipelines.platform import Nfs, Platform
from pipelines.templates import namespaces
from pipelines.templates._parts import Images
from pipelines.templates.addons._addon import Addon, Chart, Manifest, Pins
from pipelines.templates.addons._objects import OFF, kustomization, meta

NAME = "nfs"
DRIVER = "nfs.csi.k8s.io"


def files(platform: Platform, images: Images, pins: Pins) -> dict[str, list[Manifest]]:
    share = platform.addons.nfs or Nfs(server=f"{OFF}.invalid", path=f"/{OFF}")
    return {
        "kustomization.yaml": [kustomization("namespace.yaml", "storage-class.yaml")],
        # it mounts for the node: the chart's pods are privileged, on the node's network and folders
        "namespace.yaml": namespaces.manifests(NAME),
        "storage-class.yaml": [storage_class(share)],
        "values.yaml": [values()],
    }


def storage_class(share: Nfs) -> Manifest:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        # k3s' own is the default; two defaults would let the newer one win
        "metadata": meta(NAME, **{"storageclass.kubernetes.io/is-default-class": "false"}),
        "provisioner": DRIVER,
        "parameters": {
            "server": share.server,
            "share": share.path,
            "subDir": "${pvc.metadata.namespace}/${pvc.metadata.name}",
        },
        "reclaimPolicy": "Retain",
        "volumeBindingMode": "Immediate",
        "allowVolumeExpansion": True,
        "mountOptions": ["nfsvers=4.1", "hard"],
    }


def values() -> Manifest:
    return {
        "controller": {
            # snapshots would need the snapshot controller and its CRDs, and nothing here takes any
            "enableSnapshotter": False,
            "priorityClassName": "system-cluster-critical",
        },
        "storageClass": {"create": False},
    }


ADDON = Addon(
    NAME,
    files,
    destination=NAME,
    namespaces=(NAME,),
    chart=Chart(
        "csi-driver-nfs",
        "https://raw.githubusercontent.com/kubernetes-csi/csi-driver-nfs/master/charts",
        "csi-driver-nfs",
    ),
    unchecked="whether the chart's pods run; they are privileged, with the node's folders and network, to mount for it",
)
