"""CronWorkflows: when one is due, and what is submitted then."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from solo.store import AlreadyExistsError, Object, Store
from solo.workflows import times
from solo.workflows.actions import finished, from_cron, submit, terminate
from solo.workflows.operation import LABEL
from solo.workflows.validate import ValidationError

# how late a run may start if `startingDeadlineSeconds` says nothing: solo was awake, it only had other work
PROMPT = timedelta(seconds=10)


class Due(NamedTuple):
    """`now`: the time of a run that should start; `next`: when to look again."""

    now: datetime | None
    next: datetime


def due(spec: Mapping[str, Any], since: datetime, now: datetime) -> Due:
    """The latest time after `since` that has come and is not too long ago. Raises ValidationError."""
    try:
        zone = ZoneInfo(spec.get("timezone") or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        raise ValidationError(f"spec.timezone: unknown time zone {spec.get('timezone')}") from None
    limit = spec.get("startingDeadlineSeconds")
    oldest = max(since, now - (timedelta(seconds=limit) if limit is not None else PROMPT))
    passed: list[datetime] = []
    upcoming: list[datetime] = []
    for index, schedule in enumerate(spec.get("schedules") or []):
        try:
            passed += takewhile(lambda time: time <= now, CronSim(schedule, oldest.astimezone(zone)))
            upcoming.append(next(CronSim(schedule, now.astimezone(zone))))
        except (CronSimError, StopIteration):
            raise ValidationError(f"spec.schedules[{index}]: '{schedule}' is not a cron schedule") from None
    if not upcoming:
        raise ValidationError("spec.schedules must have at least one schedule")
    return Due(max(passed).astimezone(UTC) if passed else None, min(upcoming).astimezone(UTC))


def run_cron(store: Store, cron: Object, handled: datetime | None, now: datetime) -> tuple[datetime | None, datetime]:
    """Start what is due of one CronWorkflow; `handled` is the last time that was dealt with.

    Returns the time dealt with, and when to look again. A run has its time in its name, so it can start only once.
    """
    meta, spec = cron["metadata"], cron["spec"]
    status: dict[str, Any] = dict(cron.get("status") or {})
    labels = {LABEL + "cron-workflow": meta["name"]}
    active = [wf for wf in store.list("Workflow", meta["namespace"], labels) if not finished(wf)]
    since = max(
        filter(
            None,
            [
                times.read(meta["creationTimestamp"]),
                times.read(status["lastScheduledTime"]) if status.get("lastScheduledTime") else None,
                handled,
            ],
        )
    )
    try:
        found = due(spec, since, now)
    except ValidationError as error:
        _save(store, cron, status | {"active": _refs(active), "conditions": [_condition("SpecError", str(error))]})
        return handled, now + timedelta(days=1)
    conditions = [item for item in status.get("conditions") or [] if item["type"] != "SpecError"]
    forbidden = spec.get("concurrencyPolicy") == "Forbid" and active
    if found.now is not None and not spec.get("suspend") and not forbidden:
        if spec.get("concurrencyPolicy") == "Replace":
            for workflow in active:
                terminate(store, meta["namespace"], workflow["metadata"]["name"])
        conditions = []
        try:
            workflow = from_cron(cron, times.write_seconds(found.now))
            workflow["metadata"]["name"] = f"{meta['name']}-{int(found.now.timestamp())}"
            active.append(submit(store, workflow))
            status |= {"lastScheduledTime": times.write_seconds(found.now), "phase": "Active"}
        except AlreadyExistsError:
            pass
        except ValidationError as error:
            conditions = [_condition("SubmissionError", f"Failed to submit Workflow: {error}")]
    _save(store, cron, status | {"active": _refs(active), "conditions": conditions})
    return found.now or handled, found.next


def _condition(kind: str, message: str) -> dict[str, str]:
    return {"type": kind, "status": "True", "message": message}


def _refs(workflows: list[Object]) -> list[dict[str, str]]:
    return [
        {"apiVersion": wf["apiVersion"], "kind": "Workflow"}
        | {key: wf["metadata"][key] for key in ("name", "namespace", "uid")}
        for wf in workflows
    ]


def _save(store: Store, cron: Object, status: dict[str, Any]) -> None:
    status = {key: value for key, value in status.items() if value}
    if status != (cron.get("status") or {}):
        store.update({**cron, "status": status})
