"""The loop that rolls Deployments: after every change it takes the next step that `rollout` finds, in one transaction.

A pod that goes is deleted from the Store. In that same instant it is out of its Service's endpoints (`services` reads
the Store's changes before it chooses); whoever runs pods sees the deletion later, sends SIGTERM and waits for
`terminationGracePeriodSeconds`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from solo.cd import rollout
from solo.cd.work import Work, following
from solo.store import Change, Object, Store

Key = tuple[str, str]


class Deployments:
    """Makes ReplicaSets and pods of Deployments, and removes those whose owner is gone."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._work: Work[Key] = Work()
        self._ready_since: dict[str, datetime] = {}
        self._resumed: set[Key] = set()

    async def run(self) -> None:
        """Until cancelled. Whatever was under way when solo died goes on from what the Store says."""
        handlers = {"Deployment": self._on_deployment, "ReplicaSet": self._on_set, "Pod": self._on_pod}
        async with following(self._store, handlers):
            self._collect_orphans()
            for deployment in self._store.list("Deployment"):
                self._resumed.add(_key(deployment))
                self._work.add(_key(deployment))
            await self._work.run(self._look)

    async def _look(self, key: Key) -> None:
        with self._store.transaction():
            # first: an earlier Deployment of the same name may have left ReplicaSets with the names that this one needs
            self._collect_orphans(key[0])
            deployment = self._store.find("Deployment", *key)
            if deployment is None:
                self._work.add_later(key, None)
                return
            uid = deployment["metadata"]["uid"]
            sets = [s for s in self._store.list("ReplicaSet", key[0]) if rollout.owner_uid(s, "Deployment") == uid]
            uids = {replica_set["metadata"]["uid"] for replica_set in sets}
            pods = [p for p in self._store.list("Pod", key[0]) if rollout.owner_uid(p, "ReplicaSet") in uids]
            plan = rollout.plan(
                deployment, sets, pods, datetime.now(UTC), ready_since=self._since, resumed=key in self._resumed
            )
            for obj in plan.delete:
                self._delete(obj)
            for obj in plan.create:
                self._store.create(obj)
            for obj in plan.update:
                self._store.update(obj)
        self._resumed.discard(key)
        self._work.add_later(key, plan.wake)

    def _collect_orphans(self, namespace: str | None = None) -> None:
        """As Kubernetes' garbage collector: a ReplicaSet goes with its Deployment, a pod with its ReplicaSet."""
        with self._store.transaction():
            deployments = {deployment["metadata"]["uid"] for deployment in self._store.list("Deployment", namespace)}
            alive = set()
            for replica_set in self._store.list("ReplicaSet", namespace):
                if rollout.owner_uid(replica_set, "Deployment") in deployments:
                    alive.add(replica_set["metadata"]["uid"])
                else:
                    self._delete(replica_set)
            for pod in self._store.list("Pod", namespace):
                owner = rollout.owner_uid(pod, "ReplicaSet")
                if owner is not None and owner not in alive:
                    self._delete(pod)

    def _delete(self, obj: Object) -> None:
        self._store.delete(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])

    def _since(self, pod: Object) -> datetime:
        """When the pod became Ready; if whoever runs it does not say, when we first saw it so."""
        condition = next(entry for entry in pod["status"]["conditions"] if entry["type"] == "Ready")
        if text := condition.get("lastTransitionTime"):
            return rollout.parse_time(text)
        return self._ready_since.setdefault(pod["metadata"]["uid"], datetime.now(UTC))

    def _on_deployment(self, change: Change) -> None:
        self._work.add(_key(change.object))

    def _on_set(self, change: Change) -> None:
        for owner in change.object["metadata"].get("ownerReferences", []):
            self._work.add((change.object["metadata"]["namespace"], owner["name"]))

    def _on_pod(self, change: Change) -> None:
        pod = change.object
        if change.type == "DELETED" or not rollout.is_ready(pod):
            self._ready_since.pop(pod["metadata"]["uid"], None)
        for owner in pod["metadata"].get("ownerReferences", []):
            if owner["kind"] == "ReplicaSet":
                replica_set = self._store.find("ReplicaSet", pod["metadata"]["namespace"], owner["name"])
                if replica_set is not None:
                    self._on_set(Change(change.type, replica_set))


def _key(obj: Object) -> Key:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]
