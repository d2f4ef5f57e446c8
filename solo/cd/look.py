"""One look at an Application, in a transaction: the comparison, the sync if the policy wants one, and the status."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import NamedTuple

from solo.cd import health, sync
from solo.cd.git import SourceError
from solo.cd.kinds import KINDS
from solo.cd.rollout import parse_time
from solo.cd.spec import NAMESPACE
from solo.store import Object, Store, now

HEAL_PAUSE = 5.0  # as Argo CD's self-heal timeout: whoever changes an object back and forth must not occupy us


class Target(NamedTuple):
    revision: str
    objects: list[Object]


class Look:
    """`take()` syncs if it has to and writes what it saw into `app`; `wake`: look again after so many seconds."""

    def __init__(self, store: Store, app: Object, invalid: list[str], target: Target | SourceError | None) -> None:
        self.store, self.app, self.invalid, self.target = store, app, invalid, target
        self.name, self.spec = app["metadata"]["name"], app.get("spec", {})
        self.status: Object = app.setdefault("status", {})
        self.wake: float | None = None

    def take(self) -> None:
        if self.invalid or self.target is None:
            self._set_conditions([("InvalidSpecError", message) for message in self.invalid])
            self.status["sync"] = self._sync_status("Unknown")
            self._set_health("Unknown")
        elif isinstance(self.target, SourceError):
            self._set_conditions([("ComparisonError", f"Failed to load target state: {self.target}")])
            live = [obj for obj in live_objects(self.store).values() if sync.is_tracked(obj, self.name)]
            self.status["sync"] = self._sync_status("Unknown")
            self.status["resources"] = [_row(sync.key_of(obj)) | {"status": "Unknown"} for obj in live]
            self._set_health(health.worst(health.of(obj) for obj in live))
        else:
            self._compare(self.target)

    def _compare(self, target: Target) -> None:
        live = live_objects(self.store)
        items = sync.compare(self.name, target.objects, live)
        error = self._sync(target.revision, items, live)
        items = sync.compare(self.name, target.objects, live_objects(self.store))
        self._set_conditions([("SyncError", error)] if error else [])
        synced = all(item.synced for item in items)
        self.status["sync"] = self._sync_status("Synced" if synced else "OutOfSync") | {"revision": target.revision}
        self.status["sourceType"] = "Directory"
        self.status["resources"] = [
            _row(item.key)
            | {"status": "Synced" if item.synced else "OutOfSync"}
            | ({"requiresPruning": True} if item.target is None else {})
            for item in items
        ]
        self.status["resourceHealthSource"] = "appTree"
        if images := sorted({image for item in items for image in _images(item.live)}):
            self.status["summary"] = {"images": images}
        self._set_health(health.worst(health.of(i.live) if i.live else health.Health("Missing") for i in items))

    def _sync(self, revision: str, items: list[sync.Item], live: dict[sync.Key, Object]) -> str | None:
        """Apply and prune what differs, if the policy says so. Returns why it could not."""
        policy = self.spec["syncPolicy"]["automated"]
        prune = policy.get("prune", False)
        todo = [item for item in items if not item.synced and (item.target is not None or prune)]
        if not todo:
            return None
        if all(item.target is None for item in items):
            return f"Skipping sync attempt to {revision}: auto-sync will wipe out all resources"
        last = self.status.get("operationState", {})
        result = last.get("syncResult", {})
        again = result.get("revision") == revision and result.get("source") == self.spec["source"]
        if healing := again and last["phase"] == "Succeeded":
            if not policy.get("selfHeal", False):
                return None
            left = HEAL_PAUSE - (datetime.now(UTC) - parse_time(last["finishedAt"])).total_seconds()
            if left > 0:
                self.wake = left
                return None
        project = self.store.get("AppProject", NAMESPACE, self.spec["project"])
        if refused := list(sync.refusals(self.app, project, todo, live)):
            reason = "; ".join(dict.fromkeys(why for _, why in refused))
            message = f"one or more synchronization tasks are not valid, reason: {reason}"
            rows = [_row(key) | {"status": "SyncFailed", "message": why, "syncPhase": "Sync"} for key, why in refused]
            if not (again and last["message"] == message):
                self._set_operation("Failed", message, revision, rows)
            return f"Failed last sync attempt to {revision}: {message}"
        self._create_namespace(todo, live)
        rows = [_row(item.key) | self._apply(item, prune=prune) for item in items]
        self._set_operation("Succeeded", "successfully synced (all tasks run)", revision, rows)
        if not healing:
            self._add_to_history(revision)
        return None

    def _create_namespace(self, todo: list[sync.Item], live: dict[sync.Key, Object]) -> None:
        name = self.spec["destination"]["namespace"]
        key = ("Namespace", "", name)
        wanted = any(item.key[1] == name for item in todo) and sync.creates_namespace(self.app, name)
        if wanted and key not in live and not any(item.key == key for item in todo):
            self.store.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "namespace": ""}})

    def _apply(self, item: sync.Item, *, prune: bool) -> Object:
        result = {"status": "Synced", "hookPhase": "Running", "syncPhase": "Sync"}
        kind, _, name = item.key
        what = f"{kind.lower()}{'.' if KINDS[kind].group else ''}{KINDS[kind].group}/{name}"
        if item.target is None:
            if not prune:
                return result | {"status": "PruneSkipped", "message": "ignored (no prune)"}
            self.store.delete(*item.key)
            return result | {"status": "Pruned", "message": "pruned"}
        if item.live is None:
            self.store.create(copy.deepcopy(item.target))
        elif not item.synced:
            self.store.update(copy.deepcopy(item.target))
        verb = "created" if item.live is None else "unchanged" if item.synced else "configured"
        return result | {"message": f"{what} {verb}"}

    def _set_operation(self, phase: str, message: str, revision: str, rows: list[Object]) -> None:
        policy, stamp = self.spec["syncPolicy"], now()
        operation = {"prune": policy["automated"].get("prune", False), "revision": revision}
        if options := policy.get("syncOptions"):
            operation["syncOptions"] = options
        self.status["operationState"] = {
            "operation": {"initiatedBy": {"automated": True}, "retry": policy.get("retry", {}), "sync": operation},
            "phase": phase,
            "message": message,
            "startedAt": stamp,
            "finishedAt": stamp,
            "syncResult": {"resources": rows, "revision": revision, "source": self.spec["source"]},
        }

    def _add_to_history(self, revision: str) -> None:
        history, stamp = self.status.setdefault("history", []), now()
        history.append(
            {
                "id": history[-1]["id"] + 1 if history else 0,
                "revision": revision,
                "deployStartedAt": stamp,
                "deployedAt": stamp,
                "source": self.spec["source"],
                "initiatedBy": {"automated": True},
            }
        )
        del history[: -self.spec.get("revisionHistoryLimit", 10)]

    def _sync_status(self, status: str) -> Object:
        spec = self.spec if isinstance(self.spec, dict) else {}
        return {"status": status, "comparedTo": {key: spec.get(key) for key in ("source", "destination")}}

    def _set_conditions(self, found: list[tuple[str, str]]) -> None:
        before = {(entry["type"], entry["message"]): entry for entry in self.status.get("conditions", [])}
        self.status["conditions"] = [
            before.get((type_, message)) or {"type": type_, "message": message, "lastTransitionTime": now()}
            for type_, message in found
        ]

    def _set_health(self, status: str) -> None:
        if self.status.get("health", {}).get("status") != status:
            self.status["health"] = {"status": status, "lastTransitionTime": now()}


def live_objects(store: Store) -> dict[sync.Key, Object]:
    return {sync.key_of(obj): obj for kind in KINDS for obj in store.list(kind)}


def _row(key: sync.Key) -> Object:
    kind, namespace, name = key
    row = {
        "group": KINDS[kind].group,
        "version": KINDS[kind].version,
        "kind": kind,
        "namespace": namespace,
        "name": name,
    }
    return {field: value for field, value in row.items() if value}


def _images(obj: Object | None) -> list[str]:
    if obj is None or obj["kind"] != "Deployment":
        return []
    return [container["image"] for container in obj["spec"]["template"]["spec"]["containers"] if "image" in container]
