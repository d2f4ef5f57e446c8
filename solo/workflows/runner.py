"""The loop around `operate`: hears of changes, operates the Workflows concerned, writes the results.

It keeps nothing that the Store does not have. After a crash it lists everything and operates again: a Pod's name
follows from its node, so what was made before the crash is found, not made twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from solo.expressions import warm
from solo.store import AlreadyExistsError, Change, NotFoundError, Object, Store
from solo.workflows import locks, times
from solo.workflows.actions import delete, finished
from solo.workflows.cron import run_cron
from solo.workflows.locks import LockView, Waiter
from solo.workflows.operate import Result, fail, operate
from solo.workflows.operation import LABEL, Settings

Key = tuple[str, str, str]  # kind, namespace, name
log = logging.getLogger("solo.workflows")


class Runner:
    """Runs all Workflows and CronWorkflows of a Store. `clock` tells the time (UTC)."""

    def __init__(
        self, store: Store, *, scratch_bucket: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.store, self.clock = store, clock
        self.settings = Settings(bucket=scratch_bucket)
        self._bell = asyncio.Event()
        self._dirty: dict[Key, None] = {}
        self._wake: dict[Key, datetime] = {}
        # caches of what the Store has: unfinished Workflows in the order they came, and the Pods of each
        self._open: dict[Key, Object] = {}
        self._arrival: dict[Key, int] = {}
        self._pods: dict[Key, dict[str, Object]] = {}
        self._written: dict[Key, str] = {}
        self._handled: dict[Key, datetime | None] = {}

    async def run(self) -> None:
        """Until cancelled."""
        # building the parsers takes a tenth of a second, which the first Workflow need not wait for
        warm()
        kinds = ("Workflow", "Pod", "CronWorkflow")
        queues = [self.store.subscribe(kind) for kind in kinds]
        for kind in kinds:
            objects = self.store.list(kind)
            # the oldest first: that is the order in which they wait for mutexes
            for obj in sorted(objects, key=lambda obj: str(obj["metadata"].get("creationTimestamp", ""))):
                self._note(Change("MODIFIED", obj))
        pumps = [asyncio.create_task(self._pump(queue)) for queue in queues]
        try:
            while True:
                self._bell.clear()
                self.work()
                # not wait_for: in Python 3.11 it forgets a cancellation that comes with the bell, and solo never ends
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._sleep()):
                        await self._bell.wait()
        finally:
            for pump in pumps:
                pump.cancel()
            for queue in queues:
                self.store.unsubscribe(queue)

    def work(self) -> None:
        """Deal with all that has changed or is due."""
        now = self.clock()
        for key in [key for key, at in self._wake.items() if at <= now]:
            del self._wake[key]
            self._dirty[key] = None
        while self._dirty:
            key = next(iter(self._dirty))
            del self._dirty[key]
            try:
                with self.store.transaction():
                    self._cron(key) if key[0] == "CronWorkflow" else self._workflow(key)
            except Exception:
                # a bug; the other Workflows must not suffer from it
                log.exception("%s %s/%s", *key)

    async def _pump(self, queue: asyncio.Queue[Change]) -> None:
        while True:
            self._note(await queue.get())
            self._bell.set()

    def _sleep(self) -> float | None:
        if self._dirty:
            return 0
        if not self._wake:
            return None
        # at most an hour: a laptop may have slept, and its clock jumped
        return min(max((min(self._wake.values()) - self.clock()) / timedelta(seconds=1), 0), 3600)

    def _note(self, change: Change) -> None:
        obj = change.object
        meta = obj["metadata"]
        key = (obj["kind"], meta["namespace"], meta["name"])
        if obj["kind"] == "Pod":
            self._note_pod(change)
        elif change.type == "DELETED":
            self._forget(key)
        elif self._written.get(key) != meta["resourceVersion"]:
            self._dirty[key] = None

    def _note_pod(self, change: Change) -> None:
        meta = change.object["metadata"]
        name = (meta.get("labels") or {}).get(LABEL + "workflow")
        if name is None:
            return
        key = ("Workflow", meta["namespace"], name)
        pods = self._pods.setdefault(key, {})
        if change.type == "DELETED":
            pods.pop(meta["name"], None)
        else:
            pods[meta["name"]] = change.object
        # a Pod just made says nothing new
        if change.type != "ADDED":
            self._dirty[key] = None

    def _forget(self, key: Key) -> None:
        workflow = self._open.pop(key, None)
        if workflow is not None:
            self._wake_waiting(key, set(locks.holding(workflow)) | set(locks.waiting(workflow)))
        for cache in (self._arrival, self._pods, self._written, self._handled, self._wake, self._dirty):
            cache.pop(key, None)

    # one Workflow

    def _workflow(self, key: Key) -> None:
        workflow = self.store.find(*key)
        if workflow is None:
            self._forget(key)
        elif finished(workflow):
            self._expire(key, workflow)
        else:
            self._operate(key, workflow)

    def _operate(self, key: Key, workflow: Object) -> None:
        self._arrival.setdefault(key, len(self._arrival))
        pods = self._pods.setdefault(key, {})
        namespace = key[1]
        try:
            result = operate(
                workflow,
                lambda name: self.store.find("WorkflowTemplate", namespace, name),
                pods,
                self.clock(),
                view=self._view(key, workflow),
                settings=self.settings,
            )
        except Exception as error:
            log.exception("Workflow %s/%s", namespace, key[2])
            result = Result(fail(workflow, f"solo has a bug, please report it: {error!r}", self.clock()))
        for pod in result.create:
            pods[pod["metadata"]["name"]] = self._create_pod(pod)
        for name in result.stop:
            self._stop_pod(namespace, name)
        after = result.workflow
        if after != workflow:
            self._written[key] = self.store.update(after)["metadata"]["resourceVersion"]
        before = self._open.get(key, workflow)
        self._open[key] = after
        left = {*locks.holding(before), *locks.waiting(before)} - {*locks.holding(after), *locks.waiting(after)}
        self._wake_waiting(key, left)
        if finished(after):
            self._expire(key, after)
        elif result.wake_at is not None:
            self._wake[key] = result.wake_at
        else:
            self._wake.pop(key, None)

    def _create_pod(self, pod: Object) -> Object:
        """The Pod, made now or before a crash; one left over from an earlier Workflow of this name gives way."""
        try:
            return self.store.create(pod)
        except AlreadyExistsError:
            meta = pod["metadata"]
            found = self.store.get("Pod", meta["namespace"], meta["name"])
            if found["metadata"]["ownerReferences"] == meta["ownerReferences"]:
                return found
            self.store.delete("Pod", meta["namespace"], meta["name"])
            return self.store.create(pod)

    def _stop_pod(self, namespace: str, name: str) -> None:
        pod = self.store.find("Pod", namespace, name)
        if pod is not None and not pod["solo"]["stop"]:
            pod["solo"]["stop"] = True
            self.store.update(pod)

    def _expire(self, key: Key, workflow: Object) -> None:
        """Forget a finished Workflow, and delete it when its `ttlStrategy` says so."""
        cron = (workflow["metadata"].get("labels") or {}).get(LABEL + "cron-workflow")
        if self._open.pop(key, None) is not None and cron:
            self._dirty["CronWorkflow", key[1], cron] = None
        self._pods.pop(key, None)
        status = workflow["status"]
        spec = status.get("storedWorkflowTemplateSpec") or workflow["spec"]
        ttl = spec.get("ttlStrategy") or {}
        outcome = "secondsAfterSuccess" if status["phase"] == "Succeeded" else "secondsAfterFailure"
        seconds = ttl.get(outcome, ttl.get("secondsAfterCompletion"))
        if seconds is None:
            return
        at = times.read(status["finishedAt"]) + timedelta(seconds=seconds)
        if self.clock() < at:
            self._wake[key] = at
        else:
            with suppress(NotFoundError):
                delete(self.store, key[1], key[2])

    # mutexes

    def _view(self, key: Key, workflow: Object) -> LockView:
        """What the other Workflows hold and wait for."""
        held: dict[str, str] = {}
        waiting: dict[str, list[Waiter]] = {}
        for other, obj in self._open.items():
            if other == key or "synchronization" not in (obj.get("status") or {}):
                continue
            held |= locks.holding(obj)
            for lock, holder in locks.waiting(obj).items():
                waiting.setdefault(lock, []).append(Waiter(self._order(other, obj), holder))
        return LockView(self._order(key, workflow), held, waiting)

    def _order(self, key: Key, workflow: Object) -> locks.Order:
        return str(workflow["metadata"]["creationTimestamp"]), self._arrival.get(key, 0)

    def _wake_waiting(self, key: Key, free: set[str]) -> None:
        """Operate those who wait for one of these locks, the one that came first first."""
        if not free:
            return
        waiting = [
            (self._order(other, obj), other) for other, obj in self._open.items() if free & set(locks.waiting(obj))
        ]
        for _, other in sorted(waiting):
            if other != key:
                self._dirty[other] = None
                self._bell.set()

    # CronWorkflows

    def _cron(self, key: Key) -> None:
        cron = self.store.find(*key)
        if cron is None:
            self._forget(key)
            return
        self._handled[key], self._wake[key] = run_cron(self.store, cron, self._handled.get(key), self.clock())
        self._written[key] = self.store.get(*key)["metadata"]["resourceVersion"]
