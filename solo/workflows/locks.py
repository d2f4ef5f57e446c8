"""Mutexes. Who holds one stands in the status of the Workflow that holds it; nothing else remembers it.

A lock is `<namespace>/Mutex/<name>`, a holder `<namespace>/<workflow>` or, for a template's mutex, `…/<node id>`. The
Workflow that was created first gets a free lock first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Order = tuple[str, int]


class Waiter(NamedTuple):
    """Somebody who waits for a lock; `order` is when its Workflow was made."""

    order: Order
    holder: str


@dataclass(frozen=True)
class LockView:
    """What *other* Workflows hold and wait for, and this one's place in the order."""

    order: Order = ("", 0)
    held: Mapping[str, str] = field(default_factory=dict)
    waiting: Mapping[str, Sequence[Waiter]] = field(default_factory=dict)


class Attempt(NamedTuple):
    """What became of asking for all locks of one `synchronization` at once."""

    acquired: bool
    message: str = ""
    lock: str = ""


def lock_names(synchronization: Mapping[str, Any], namespace: str) -> list[str]:
    return [
        f"{mutex.get('namespace') or namespace}/Mutex/{mutex['name']}" for mutex in synchronization.get("mutexes") or []
    ]


def acquire(status: dict[str, Any], holder: str, wanted: Sequence[str], view: LockView) -> Attempt:
    """All of `wanted` for `holder`, or none; writes `status.synchronization`."""
    mutex = _mutex(status)
    held = {**view.held, **{entry["mutex"]: entry["holder"] for entry in mutex["holding"]}}
    for lock in wanted:
        if held.get(lock) == holder:
            continue
        ahead = [waiter for waiter in view.waiting.get(lock, ()) if waiter.order < view.order]
        if lock in held or ahead:
            blocker = held.get(lock) or min(ahead).holder
            waiting = [entry for entry in mutex["waiting"] if entry["mutex"] != lock]
            _store(status, mutex["holding"], [*waiting, {"mutex": lock, "holder": blocker}])
            free = 0 if lock in held else 1
            return Attempt(False, f"Waiting for {lock} lock. Lock status: {free}/1", lock)
    holding = [entry for entry in mutex["holding"] if entry["mutex"] not in wanted]
    holding += [{"mutex": lock, "holder": holder} for lock in wanted]
    _store(status, holding, [entry for entry in mutex["waiting"] if entry["mutex"] not in wanted])
    return Attempt(True)


def release(status: dict[str, Any], holder: str) -> bool:
    """Give back all that `holder` has; whether it had anything."""
    mutex = _mutex(status)
    kept = [entry for entry in mutex["holding"] if entry["holder"] != holder]
    if len(kept) == len(mutex["holding"]):
        return False
    _store(status, kept, mutex["waiting"])
    return True


def holding(workflow: Mapping[str, Any]) -> dict[str, str]:
    """lock → holder, of one Workflow."""
    return {entry["mutex"]: entry["holder"] for entry in _mutex(workflow.get("status") or {})["holding"]}


def waiting(workflow: Mapping[str, Any]) -> dict[str, str]:
    """lock → who of this Workflow waits for it."""
    status = workflow.get("status") or {}
    meta = workflow["metadata"]
    key = f"{meta['namespace']}/{meta['name']}"
    found: dict[str, str] = {}
    if status.get("phase") == "Pending":
        found = dict.fromkeys((entry["mutex"] for entry in _mutex(status)["waiting"]), key)
    for node in (status.get("nodes") or {}).values():
        lock = (node.get("synchronizationStatus") or {}).get("waiting")
        if lock:
            found[lock] = f"{key}/{node['id']}"
    return found


def _mutex(status: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    mutex = (status.get("synchronization") or {}).get("mutex") or {}
    return {"holding": mutex.get("holding") or [], "waiting": mutex.get("waiting") or []}


def _store(status: dict[str, Any], holding: list[dict[str, str]], waiting: list[dict[str, str]]) -> None:
    mutex = {key: value for key, value in (("holding", holding), ("waiting", waiting)) if value}
    status["synchronization"] = {"mutex": mutex}
