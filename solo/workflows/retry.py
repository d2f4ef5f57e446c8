"""`retryStrategy`: whether a failed try is followed by another, and when."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from solo.expressions import ExpressionError, evaluate_bool, nest
from solo.expressions.golang import to_text
from solo.workflows import times
from solo.workflows.operation import FULFILLED, UNSUCCESSFUL, Operation, WorkflowError

POLICIES = ("Always", "OnFailure", "OnError", "OnTransientError")


class Verdict(NamedTuple):
    """`wait`: do nothing until the operation is woken. `before`: the next try must end by then."""

    wait: bool = False
    before: datetime | None = None


def policy(strategy: Mapping[str, Any]) -> str:
    return strategy.get("retryPolicy") or ("Always" if strategy.get("expression") else "OnFailure")


def review(op: Operation, node: dict[str, Any], strategy: Mapping[str, Any]) -> Verdict:
    """Look at the tries of a Retry node and finish it if there is nothing more to try."""
    tries = op.attempts(node)
    if node["phase"] in FULFILLED or not tries or tries[-1]["phase"] not in FULFILLED:
        return Verdict()
    last = tries[-1]

    def end(message: str | None) -> Verdict:
        op.mark(node, last["phase"], message)
        return Verdict()

    if last["phase"] not in UNSUCCESSFUL:
        if "outputs" in last:
            node["outputs"] = last["outputs"]
        op.mark(node, "Succeeded")
        return Verdict()
    if op.shutdown:
        return end(op.stopped_message())
    if op.deadline_passed():
        assert op.deadline is not None
        return end(f"retry exceeded workflow deadline {op.deadline:%Y-%m-%d %H:%M:%S} +0000 UTC")
    try:
        limit = None if strategy.get("limit") in (None, "") else int(strategy["limit"])
        verdict = _back_off(op, node, strategy.get("backoff"), tries, limit)
        if isinstance(verdict, str):
            return end(verdict)
        if verdict.wait:
            return verdict
        chosen = policy(strategy)
        # solo's own failures are never transient: there is no network between its parts
        again = {"Always": UNSUCCESSFUL, "OnFailure": ("Failed",), "OnError": ("Error",)}.get(chosen, ())
        if last["phase"] not in again:
            return end(last.get("message", ""))
        if limit is not None and len(tries) > limit:
            return end("No more retries left")
        if strategy.get("expression") and not evaluate_bool(strategy["expression"], _variables(op, tries)):
            return end("retryStrategy.expression evaluated to false")
    except (ValueError, ExpressionError) as error:
        raise WorkflowError(f"retryStrategy: {error}") from None
    return verdict


def _back_off(
    op: Operation,
    node: dict[str, Any],
    backoff: Mapping[str, Any] | None,
    tries: list[dict[str, Any]],
    limit: int | None,
) -> Verdict | str:
    """A verdict, or why it is over."""
    if not backoff:
        return Verdict()
    latest = None
    if backoff.get("maxDuration"):
        latest = op.started(tries[0]) + times.duration(backoff["maxDuration"])
        if op.now > latest:
            return "Max duration limit exceeded"
    if not backoff.get("duration"):
        raise ValueError("no base duration specified for retryStrategy")
    wait, factor = times.duration(backoff["duration"]), int(backoff.get("factor") or 0)
    if factor > 0:
        # a year stands for ever, and a timedelta can hold it
        wait = timedelta(seconds=min(wait.total_seconds() * float(factor) ** (len(tries) - 1), 365 * 86400))
    until = times.read(tries[-1]["finishedAt"]) + wait
    if latest is not None and until > latest:
        return "Backoff would exceed max duration limit"
    if op.now < until and limit is not None and len(tries) <= limit:
        op.wake(until)
        op.mark(node, node["phase"], f"Backoff for {times.in_words(wait)}")
        return Verdict(wait=True)
    op.mark(node, node["phase"], "")
    return Verdict(before=latest)


def _variables(op: Operation, tries: list[dict[str, Any]]) -> dict[str, Any]:
    last = tries[-1]
    return nest(
        {
            "retries": str(len(tries) - 1),
            "lastRetry.exitCode": str((last.get("outputs") or {}).get("exitCode", "-1")),
            "lastRetry.status": last["phase"],
            "lastRetry.duration": to_text(op.seconds(last)),
            "lastRetry.message": last.get("message", ""),
        }
    )
