"""What may run beside the core: `applications/<name>/`. ADDONS is the table; the rest of a name is in its module.

The folders are always rendered, so that what an add-on would be can be read and is checked. What makes one run is its
Application in Argo CD, and there is one for each add-on that is on: one that is off leaves no object in the cluster.
"""

from __future__ import annotations

import json

from pipelines.platform import Platform
from pipelines.templates import storage
from pipelines.templates._parts import Images
from pipelines.templates.addons import _docs, backup, gpu, harbor, monitoring, nfs, postgresql, tunnel
from pipelines.templates.addons._addon import Addon, Chart, Manifest, Pins, Secret

__all__ = ["ADDONS", "OWNED", "Addon", "Chart", "Pins", "Secret", "files", "markdown", "on", "secrets"]

STORAGE = Addon(
    storage.NAME,
    lambda platform, images, _: {
        "storage.yaml": storage.manifests(platform, images),
        "kustomization.yaml": [storage.kustomization()],
    },
    destination=storage.NAME,
    namespaces=(storage.NAME,),
    wave=-1,
)

ADDONS: dict[str, Addon] = {
    addon.name: addon
    for addon in (
        STORAGE,
        postgresql.ADDON,
        nfs.ADDON,
        gpu.ADDON,
        harbor.ADDON,
        monitoring.ADDON,
        tunnel.ADDON,
        backup.ADDON,
    )
}
OWNED = tuple(f"applications/{name}" for name in ADDONS)


def on(platform: Platform) -> list[Addon]:
    """Those that have an Application, in the order of the table."""
    wanted = platform.addons.on()
    return [addon for addon in ADDONS.values() if addon.name in wanted]


def files(platform: Platform, images: Images, pins: Pins) -> dict[str, list[Manifest]]:
    """Path → objects of every add-on, on or off."""
    found: dict[str, list[Manifest]] = {}
    for addon in ADDONS.values():
        for name, objects in addon.files(platform, images, pins).items():
            # copies: PyYAML writes what appears twice in a document as an anchor and its alias
            found[f"applications/{addon.name}/{name}"] = [json.loads(json.dumps(body)) for body in objects]
    return found


def markdown(pins: Pins) -> str:
    return _docs.markdown(ADDONS.values(), pins)


def secrets() -> list[Secret]:
    """The Secrets that controllers make for add-ons, on or off."""
    return [secret for addon in ADDONS.values() for secret in addon.secrets]
