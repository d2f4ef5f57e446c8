"""The registry: blobs, versions, locks, aliases, claims and run records on one bucket, by google-cloud-storage.

Where things are:

    blobs/sha256/<hex>                        content by digest, created once
    <axis>/<name>/versions/000007.json        one version of data, feature, model or app, created once
    model/<service>/aliases/<alias>.json      what an alias names now, by compare-and-swap
    claims/<key>.json                         whose run it is, created once
    runs/<UTC>-<id>/…                         evidence of a run; complete once its manifest.json is there

A lock is a blob. Nothing here is imported before it is used: the client takes half a second, pydantic a tenth.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.registry.aliases import Alias
    from pipelines.registry.lock import Lock, LockedVersion
    from pipelines.registry.registry import Registry
    from pipelines.registry.versions import AXES, Version

__all__ = ["AXES", "Alias", "Lock", "LockedVersion", "Registry", "Version", "open_registry"]

_HOMES = {
    "AXES": "versions",
    "Alias": "aliases",
    "Lock": "lock",
    "LockedVersion": "lock",
    "Registry": "registry",
    "Version": "versions",
}


def open_registry(env: Mapping[str, str] = os.environ, *, deadline: float = 30.0) -> Registry:
    """The registry that STORAGE_URL, REGISTRY_BUCKET and REGISTRY_CREDENTIALS name; tries for `deadline` seconds.

    Raises YardError(INVALID) for settings that cannot be used; nothing is asked of the bucket yet.
    """
    from pipelines.registry.bucket import Bucket
    from pipelines.registry.registry import Registry

    return Registry(Bucket.open(env, deadline))


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
