"""What an Application wants compared with what is there, and what keeps it from making the two equal."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from solo.cd.kinds import KINDS
from solo.cd.projects import refusal
from solo.store import Object

TRACKING = "argocd.argoproj.io/tracking-id"
# annotations that controllers write on the objects that we own
THEIRS = ("deployment.kubernetes.io/",)

Key = tuple[str, str, str]


class Item(NamedTuple):
    """One object of an Application: `target` as it is to be (None: to go), `live` as it is (None: not there)."""

    key: Key
    target: Object | None
    live: Object | None

    @property
    def synced(self) -> bool:
        return self.target is not None and self.target == self.live


def compare(app: str, wanted: Sequence[Object], live: Mapping[Key, Object]) -> list[Item]:
    """Every object that the Application wants or has."""
    items = {}
    for obj in wanted:
        key = key_of(obj)
        items[key] = Item(key, merge(obj, live.get(key), tracking(app, key)), live.get(key))
    for key, obj in live.items():
        if key not in items and is_tracked(obj, app):
            items[key] = Item(key, None, obj)
    return [items[key] for key in sorted(items)]


def merge(wanted: Object, live: Object | None, tracked: str) -> Object:
    """The object to store: all that Git says, plus only what the API server and controllers add."""
    obj = copy.deepcopy(wanted)
    meta = obj["metadata"]
    meta.setdefault("annotations", {})[TRACKING] = tracked
    if live is None:
        if "spec" in obj:
            meta["generation"] = 1
        return obj
    for key, value in live["metadata"].items():
        if key in ("uid", "creationTimestamp", "resourceVersion", "generation"):
            meta[key] = value
    for key, value in (live["metadata"].get("annotations") or {}).items():
        if key.startswith(THEIRS):
            meta["annotations"][key] = value
    if "status" in live:
        obj["status"] = live["status"]
    if "generation" in meta and obj.get("spec") != live.get("spec"):
        meta["generation"] += 1
    return obj


def refusals(
    app: Object, project: Object, items: Sequence[Item], live: Mapping[Key, Object]
) -> Iterator[tuple[Key, str]]:
    """What a sync may not do: (object, reason)."""
    name, server = app["metadata"]["name"], app["spec"]["destination"]["server"]
    namespaces = {key[2] for key in live if key[0] == "Namespace"} | {
        item.key[2] for item in items if item.key[0] == "Namespace"
    }
    missing: set[str] = set()
    for item in items:
        kind, namespace, _ = item.key
        if reason := refusal(project, server, kind, namespace) or _conflict(name, item):
            yield item.key, reason
        elif namespace and namespace not in namespaces:
            missing.add(namespace)
    for namespace in sorted(missing):
        key = ("Namespace", "", namespace)
        if not creates_namespace(app, namespace):
            yield key, f'namespaces "{namespace}" not found; syncOption CreateNamespace=true makes the destination\'s'
        elif reason := refusal(project, server, "Namespace", ""):
            yield key, reason


def creates_namespace(app: Object, namespace: str) -> bool:
    options = app["spec"]["syncPolicy"].get("syncOptions", [])
    return "CreateNamespace=true" in options and namespace == app["spec"]["destination"]["namespace"]


def tracking(app: str, key: Key) -> str:
    """Argo CD's mark on an object that an Application manages."""
    kind, namespace, name = key
    return f"{app}:{KINDS[kind].group}/{kind}:{namespace}/{name}"


def is_tracked(obj: Object, app: str) -> bool:
    # compared as a whole: a copied annotation (a ReplicaSet has its Deployment's) does not make an object ours
    return bool((obj["metadata"].get("annotations") or {}).get(TRACKING) == tracking(app, key_of(obj)))


def tracker(obj: Object) -> str | None:
    """The Application that manages the object."""
    app = str((obj["metadata"].get("annotations") or {}).get(TRACKING, "")).partition(":")[0]
    return app if app and is_tracked(obj, app) else None


def key_of(obj: Object) -> Key:
    return obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _conflict(app: str, item: Item) -> str | None:
    target, live = item.target, item.live
    if target is None or live is None:
        return None
    kind, _, name = item.key
    other = tracker(live)
    if other not in (None, app):
        return f"{kind}/{name} is part of applications {app} and {other}"
    if kind == "Deployment" and target["spec"]["selector"] != live["spec"]["selector"]:
        return (
            f'Deployment.apps "{name}" is invalid: spec.selector: field is immutable; give the Deployment another name'
        )
    return None
