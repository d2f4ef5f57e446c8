"""One step of a Deployment's roll, as a pure function: (Deployment, ReplicaSets, Pods, time) → what to write.

The rules are those of Kubernetes' deployment and ReplicaSet controllers: new pods within `maxSurge`, old pods go only
as far as `maxUnavailable` allows and broken ones first, `progressDeadlineSeconds` since the last progress. Called again
after every change; when nothing is left to do it returns an empty plan.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from solo.cd.problems import COMMON, Problem, compare
from solo.store import Object

REVISION = "deployment.kubernetes.io/revision"
HASH = "pod-template-hash"
# Kubernetes' alphabet for generated names: no vowels, so no words
LETTERS = "bcdfghjklmnpqrstvwxz2456789"
LONGEST_PAUSE = 300.0  # between two replacements of a pod that keeps failing, as for CrashLoopBackOff

SHAPE = COMMON | {
    "spec!": {
        "replicas": int,
        "selector!": {"matchLabels!": {"*": str}},
        "template!": {
            "metadata!": {"labels!": {"*": str}, "annotations": {"*": str}},
            # the rest of a pod is checked where pods are run
            "spec!": {
                "containers!": [
                    {"name!": str, "ports": [{"containerPort!": int, "name": str, "protocol": {"TCP"}}], "*": object}
                ],
                "restartPolicy": {"Always"},
                "*": object,
            },
        },
        "strategy": {
            "type": {"RollingUpdate"},
            "rollingUpdate": {"maxSurge": (int, str), "maxUnavailable": (int, str)},
        },
        "minReadySeconds": int,
        "revisionHistoryLimit": int,
        "progressDeadlineSeconds": int,
    }
}


def check(deployment: Object) -> Iterator[Problem]:
    """What Kubernetes would refuse, and what solo does not honour, in a Deployment."""
    problems = list(compare(deployment, SHAPE))
    if problems:
        yield from problems
        return
    spec = deployment["spec"]
    for field in ("replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"):
        if spec.get(field, 0) < 0:
            yield Problem(f"spec.{field}", "must not be negative")
    if spec.get("progressDeadlineSeconds", 600) <= spec.get("minReadySeconds", 0):
        yield Problem("spec.progressDeadlineSeconds", "must be greater than minReadySeconds")
    if not spec["template"]["spec"]["containers"]:
        yield Problem("spec.template.spec.containers", "must have at least one container")
    labels = spec["template"]["metadata"]["labels"]
    if not spec["selector"]["matchLabels"]:
        yield Problem("spec.selector.matchLabels", "must not be empty")
    for key, value in spec["selector"]["matchLabels"].items():
        if labels.get(key) != value:
            yield Problem(
                f"spec.selector.matchLabels.{key}", "must be among spec.template.metadata.labels with this value"
            )
    budget = spec.get("strategy", {}).get("rollingUpdate", {})
    for field, value in budget.items():
        if not re.fullmatch(r"\d+" if isinstance(value, int) else r"\d+%", str(value)):
            yield Problem(
                f"spec.strategy.rollingUpdate.{field}", f"{value!r} is neither a number of pods nor a percentage"
            )
    if [str(budget.get(field, "25%")) in ("0", "0%") for field in ("maxSurge", "maxUnavailable")] == [True, True]:
        yield Problem(
            "spec.strategy.rollingUpdate.maxUnavailable", "must not be 0 when maxSurge is 0: no pod could move"
        )


class Plan(NamedTuple):
    """What to write in one transaction, and after how many seconds to look again though nothing changed."""

    create: list[Object]
    update: list[Object]
    delete: list[Object]
    wake: float | None


def plan(
    deployment: Object,
    sets: list[Object],
    pods: list[Object],
    at: datetime,
    *,
    ready_since: Callable[[Object], datetime],
    resumed: bool = False,
) -> Plan:
    """The next step. `resumed`: nobody looked until now, so the time before does not count towards the deadline."""
    step = _Step(deployment, sets, pods, at, ready_since)
    step.scale()
    step.move_pods()
    step.forget_old_sets()
    return step.result(resumed=resumed)


def template_hash(template: Object) -> str:
    """The name of a version of the pods: the same template, the same ReplicaSet."""
    number = int.from_bytes(hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()[:8], "big")
    letters = ""
    for _ in range(10):
        number, index = divmod(number, len(LETTERS))
        letters += LETTERS[index]
    return letters


def is_ready(pod: Object) -> bool:
    """Whether the pod is to get new connections."""
    status = pod.get("status", {})
    conditions = {entry["type"]: entry["status"] for entry in status.get("conditions", [])}
    return status.get("phase") == "Running" and conditions.get("Ready") == "True"


def owner_uid(obj: Object, kind: str) -> str | None:
    """The uid of the object's owner of that kind."""
    owners = obj["metadata"].get("ownerReferences", [])
    return next((owner["uid"] for owner in owners if owner["kind"] == kind), None)


class _Group:
    """A ReplicaSet and its pods."""

    def __init__(self, replica_set: Object, pods: list[Object], *, created: bool = False) -> None:
        self.before = None if created else replica_set
        self.set = copy.deepcopy(replica_set)
        self.failures: int = replica_set.get("status", {}).get("solo", {}).get("failures", 0)
        self.failed = [pod for pod in pods if pod.get("status", {}).get("phase") in ("Failed", "Succeeded")]
        self.pods = sorted(
            (pod for pod in pods if pod not in self.failed),
            key=lambda pod: (not is_ready(pod), pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]),
        )
        self.available = 0
        self.removed: list[Object] = []
        self.added: list[Object] = []

    @property
    def wanted(self) -> int:
        return int(self.set["spec"]["replicas"])

    @wanted.setter
    def wanted(self, number: int) -> None:
        self.set["spec"]["replicas"] = number

    @property
    def revision(self) -> int:
        return int(self.set["metadata"]["annotations"].get(REVISION, 0))

    def status(self) -> Object:
        count = len(self.pods) + len(self.added)
        status = {
            "replicas": count,
            "fullyLabeledReplicas": count,
            "readyReplicas": sum(map(is_ready, self.pods)),
            "availableReplicas": self.available,
        }
        return status | ({"solo": {"failures": self.failures}} if self.failures else {})


class _Step:
    def __init__(
        self,
        deployment: Object,
        sets: list[Object],
        pods: list[Object],
        at: datetime,
        ready_since: Callable[[Object], datetime],
    ) -> None:
        self.deployment, self.at, self.ready_since = deployment, at, ready_since
        self.spec = deployment["spec"]
        self.replicas: int = self.spec.get("replicas", 1)
        self.generation: int = deployment["metadata"].get("generation", 1)
        self.wakes: list[float] = []
        self.forgotten: list[Object] = []
        groups = [
            _Group(set_, [pod for pod in pods if owner_uid(pod, "ReplicaSet") == set_["metadata"]["uid"]])
            for set_ in sets
        ]
        name = template_hash(self.spec["template"])
        found = next((group for group in groups if group.set["metadata"]["labels"].get(HASH) == name), None)
        self.created = found is None
        self.new = found or _Group(_replica_set(deployment, name), [], created=True)
        self.old = sorted((group for group in groups if group is not self.new), key=lambda group: group.revision)
        if not self.old or self.new.revision <= self.old[-1].revision:
            newest = self.old[-1].revision if self.old else 0
            self.new.set["metadata"]["annotations"][REVISION] = str(max(self.new.revision, newest + 1))
        for group in self.groups:
            group.available = sum(self._is_available(pod) for pod in group.pods)

    @property
    def groups(self) -> list[_Group]:
        return [*self.old, self.new]

    def scale(self) -> None:
        """How many pods each ReplicaSet is to have."""
        surge, unavailable = _budget(self.spec, self.replicas)
        total = sum(group.wanted for group in self.groups)
        if self.new.wanted > self.replicas:
            self.new.wanted = self.replicas
        else:
            self.new.wanted += max(0, min(self.replicas + surge - total, self.replicas - self.new.wanted))
        least = self.replicas - unavailable
        missing = self.new.wanted - min(self.new.available, self.new.wanted)
        spare = sum(group.wanted for group in self.groups) - least - missing
        # old pods that do not serve go first: they block the roll and nobody misses them
        for group in self.old:
            broken = min(spare, max(0, group.wanted - group.available))
            if broken > 0:
                group.wanted -= broken
                spare -= broken
        spare = min(spare, sum(min(group.available, group.wanted) for group in self.groups) - least)
        for group in self.old:
            going = min(max(0, spare), group.wanted)
            group.wanted -= going
            spare -= going

    def move_pods(self) -> None:
        """Make and remove pods until each ReplicaSet has as many as it is to have."""
        for group in self.groups:
            if group.available >= group.wanted:
                group.failures = 0
            kept = self._replace_failed(group)
            surplus = len(group.pods) + len(kept) - group.wanted
            for pod in [*kept, *reversed(group.pods)][: max(0, surplus)]:
                group.removed.append(pod)
                if pod in group.pods:
                    group.pods.remove(pod)
                    group.available -= self._is_available(pod)
            group.added = [_pod(group.set) for _ in range(-surplus)]

    def forget_old_sets(self) -> None:
        empty = [group for group in self.old if not (group.wanted or group.pods or group.removed or group.failed)]
        surplus = len(empty) - int(self.spec.get("revisionHistoryLimit", 10))
        for group in empty[: max(0, surplus)]:
            self.old.remove(group)
            self.forgotten.append(group.set)

    def result(self, *, resumed: bool) -> Plan:
        create, update = [], []
        for group in self.groups:
            group.set["status"] = group.status()
            if group.before is None:
                create.append(group.set)
            elif group.set != group.before:
                update.append(group.set)
            create += group.added
        deployment = copy.deepcopy(self.deployment)
        deployment["metadata"].setdefault("generation", self.generation)
        deployment["metadata"].setdefault("annotations", {})[REVISION] = str(self.new.revision)
        deployment["status"] = self._status(resumed=resumed)
        if deployment != self.deployment:
            update.append(deployment)
        removed = [pod for group in self.groups for pod in group.removed]
        return Plan(create, update, [*removed, *self.forgotten], min(self.wakes, default=None))

    def _is_available(self, pod: Object) -> bool:
        if not is_ready(pod):
            return False
        seconds = self.spec.get("minReadySeconds", 0)
        left: float = seconds - (self.at - self.ready_since(pod)).total_seconds() if seconds else 0.0
        if left > 0:
            self.wakes.append(left)
        return left <= 0

    def _replace_failed(self, group: _Group) -> list[Object]:
        """The failed pods that stay until it is time to try again; the others are removed, which makes room."""
        kept = []
        for pod in group.failed:
            finished = pod["status"].get("finishTime")
            pause = min(LONGEST_PAUSE, 2.0 ** (group.failures - 1)) if group.failures else 0.0
            left = pause - (self.at - parse_time(finished)).total_seconds() if finished else 0.0
            if left > 0:
                kept.append(pod)
                self.wakes.append(left)
            else:
                group.removed.append(pod)
                group.failures += 1
        return kept

    def _status(self, *, resumed: bool) -> Object:
        groups = [group.status() for group in self.groups]
        total = {key: sum(group[key] for group in groups) for key in ("replicas", "readyReplicas", "availableReplicas")}
        status = {
            "observedGeneration": self.generation,
            "replicas": total["replicas"],
            "updatedReplicas": groups[-1]["replicas"],
            "readyReplicas": total["readyReplicas"],
            "availableReplicas": total["availableReplicas"],
            "unavailableReplicas": max(0, sum(group.wanted for group in self.groups) - total["availableReplicas"]),
        }
        before = self.deployment.get("status", {})
        return status | {"conditions": self._conditions(before, status, resumed=resumed)}

    def _conditions(self, before: Object, status: Object, *, resumed: bool) -> list[Object]:
        conditions = {entry["type"]: entry for entry in before.get("conditions", [])}
        _, unavailable = _budget(self.spec, self.replicas)
        available = status["availableReplicas"] >= self.replicas - unavailable
        self._set(
            conditions,
            "Available",
            available,
            "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable",
            f"Deployment {'has' if available else 'does not have'} minimum availability.",
        )
        self._set_progress(conditions, before, status, resumed=resumed)
        return [conditions["Available"], conditions["Progressing"]]

    def _set_progress(self, conditions: dict[str, Object], before: Object, status: Object, *, resumed: bool) -> None:
        last = conditions.get("Progressing")
        name = f'ReplicaSet "{self.new.set["metadata"]["name"]}"'
        if status["updatedReplicas"] == status["replicas"] == status["availableReplicas"] == self.replicas:
            self._set(conditions, "Progressing", True, "NewReplicaSetAvailable", f"{name} has successfully progressed.")
            return
        if self.created:
            self._set(conditions, "Progressing", True, "NewReplicaSetCreated", f"Created new {name}", renew=True)
        elif last is None or self._progressed(before, status) or (resumed and last["reason"] in _UNDER_WAY):
            self._set(conditions, "Progressing", True, "ReplicaSetUpdated", f"{name} is progressing.", renew=True)
        elif last["reason"] not in _UNDER_WAY:
            return
        # times are kept to the second: one second more, so that the deadline never comes early
        deadline = self.spec.get("progressDeadlineSeconds", 600) + 1
        left = deadline - (self.at - parse_time(conditions["Progressing"]["lastUpdateTime"])).total_seconds()
        if left > 0:
            self.wakes.append(left)
        else:
            self._set(
                conditions, "Progressing", False, "ProgressDeadlineExceeded", f"{name} has timed out progressing."
            )

    def _progressed(self, before: Object, status: Object) -> bool:
        def old(counts: Object) -> int:
            return int(counts.get("replicas", 0)) - int(counts.get("updatedReplicas", 0))

        more = ("updatedReplicas", "readyReplicas", "availableReplicas")
        return (
            before.get("observedGeneration") != self.generation
            or old(status) < old(before)
            or any(status[key] > before.get(key, 0) for key in more)
        )

    def _set(
        self, conditions: dict[str, Object], type_: str, value: bool, reason: str, message: str, *, renew: bool = False
    ) -> None:
        stamp, status, last = self.at.strftime("%Y-%m-%dT%H:%M:%SZ"), str(value), conditions.get(type_)
        if last and last["status"] == status and last["reason"] == reason and not renew:
            return
        conditions[type_] = {
            "type": type_,
            "status": status,
            "reason": reason,
            "message": message,
            "lastUpdateTime": stamp,
            "lastTransitionTime": last["lastTransitionTime"] if last and last["status"] == status else stamp,
        }


_UNDER_WAY = ("NewReplicaSetCreated", "ReplicaSetUpdated")


def parse_time(text: str) -> datetime:
    """RFC 3339 in UTC, with or without a fraction."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def _budget(spec: Object, replicas: int) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) in pods: percentages round up and down, and one of them is at least 1."""
    given = spec.get("strategy", {}).get("rollingUpdate", {})
    surge = _share(given.get("maxSurge", "25%"), replicas, up=True)
    unavailable = min(_share(given.get("maxUnavailable", "25%"), replicas, up=False), replicas)
    return surge, unavailable if surge or unavailable else 1


def _share(value: int | str, whole: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    return (int(value.rstrip("%")) * whole + (99 if up else 0)) // 100


def _replica_set(deployment: Object, name: str) -> Object:
    spec, meta = deployment["spec"], deployment["metadata"]
    template = copy.deepcopy(spec["template"])
    template["metadata"]["labels"][HASH] = name
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{meta['name']}-{name}",
            "namespace": meta["namespace"],
            "uid": str(uuid.uuid4()),
            "labels": dict(template["metadata"]["labels"]),
            "annotations": {},
            "ownerReferences": [_owner(deployment)],
        },
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {**spec["selector"]["matchLabels"], HASH: name}},
            "template": template,
        },
    }


def _pod(replica_set: Object) -> Object:
    template = copy.deepcopy(replica_set["spec"]["template"])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{replica_set['metadata']['name']}-",
            "namespace": replica_set["metadata"]["namespace"],
            "labels": template["metadata"]["labels"],
            "annotations": template["metadata"].get("annotations", {}),
            "ownerReferences": [_owner(replica_set)],
        },
        "spec": {**template["spec"], "restartPolicy": "Always"},
    }


def _owner(obj: Object) -> dict[str, Any]:
    return {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "name": obj["metadata"]["name"],
        "uid": obj["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
