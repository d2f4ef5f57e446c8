"""The gate: compares what was measured with what `mlops.yaml` asks for. What cannot be read or computed is refused.

Pure: no file, no clock, no network. The same report and the same thresholds give the same decision, byte for byte.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.config import METRICS, Gate, NonInferiority, SliceFloor

Op = Literal[">=", "<="]
LARGEST = 2.0**53  # what a report may hold: whole numbers up to here are exact as floats


class Check(BaseModel):
    """One comparison. `value` is None where there was nothing that could be compared; `why` then says so."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    value: float | None
    threshold: float
    op: Op
    passed: bool
    why: str = ""

    def __str__(self) -> str:
        """As in "accuracy 0.9722 ≥ 0.95"."""
        sign = {">=": "≥", "<=": "≤"} if self.passed else {">=": "<", "<=": ">"}
        if self.value is None:
            return f"{self.name}: {self.why}"
        value, threshold = _pair(self.value, self.threshold)
        return f"{self.name} {value} {sign[self.op]} {threshold}"


class Decision(BaseModel):
    """The recorded result. Accepted means that there were checks and every one passed; nothing else can be written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accepted: bool
    checks: list[Check]
    summary: list[str] = Field(min_length=2, max_length=2, description="for a person: what, and what serves now")

    @model_validator(mode="after")
    def _follows(self) -> Decision:
        if self.accepted != (bool(self.checks) and all(check.passed for check in self.checks)):
            raise ValueError("`accepted` does not follow from `checks`")
        return self


def decide(gate: Gate, metrics: object) -> Decision:
    """Judge the report of `evaluate` (its JSON as plain data, of any shape: what is not as it should be is refused).

    A report is `{samples, metrics: {name: number}, slices: {column: {value: {samples, <metric>}}}, serving}`, where
    `serving` is null (nothing serves yet), `{lock, metrics, samples, wins, losses}`: the rows that only the candidate,
    or only the serving model, got right, or `{lock, error}`: why the serving model cannot be scored on these rows.
    `{unreadable: why}` stands for a report that could not be read.
    """
    report = _dict(metrics)
    problem = "" if isinstance(metrics, dict) else "the report is not a JSON object"
    if "unreadable" in report:
        problem = f"the report cannot be read: {str(report['unreadable'])[:200]}"
    checks = list(_checks(gate, {} if problem else report))
    if problem:
        checks = [check.model_copy(update={"why": problem}) for check in checks]
    accepted = all(check.passed for check in checks)
    return Decision(accepted=accepted, checks=checks, summary=_summary(accepted, checks, report, problem))


def lower_bound(wins: int, losses: int, samples: int, confidence: float) -> float:
    """The one-sided lower confidence bound of (candidate's accuracy − serving model's accuracy) from paired counts.

    Tango's score interval: T. Tango, "Equivalence test and confidence interval for the difference in proportions for
    the paired-sample design", Statistics in Medicine 17 (1998) 891-908; among those recommended by Fagerland, Lydersen
    and Laake, "Recommended tests and confidence intervals for paired binomial proportions", Statistics in Medicine 33
    (2014) 2850-2875. It holds its level where Wald's does not: when the two models differ on few rows, or on none.
    By enumeration, with 300 to 1000 rows and margins of 0.01 to 0.05: at most 6.0 % errors where 5 % are promised.
    """
    if not 0 <= losses <= samples - wins <= samples or samples == 0:
        raise ValueError(f"{wins} wins and {losses} losses in {samples} pairs")
    z = NormalDist().inv_cdf(confidence)
    low, high = -1.0, (wins - losses) / samples  # the score falls from above z at low to 0 at high
    for _ in range(60):
        middle = (low + high) / 2
        if _score(wins, losses, samples, middle) >= z:
            low = middle
        else:
            high = middle
    return low


def _score(wins: int, losses: int, samples: int, delta: float) -> float:
    """Tango's statistic for a true difference of `delta`; q is the most likely share of losses if it is true."""
    a = 2 * samples
    b = -wins - losses + (2 * samples - wins + losses) * delta
    c = -losses * delta * (1 - delta)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = samples * (2 * q + delta * (1 - delta))
    distance = wins - losses - samples * delta
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


# --- the checks ------------------------------------------------------------------------------------------------------


class _Number(NamedTuple):
    """A number of the report, or why there is none."""

    value: float | None
    why: str = ""


def _checks(gate: Gate, report: dict[Any, Any]) -> Iterator[Check]:
    samples = _count(report.get("samples"))
    yield _compare("samples", samples, ">=", gate.samples)
    for name, threshold in gate.metrics.items():
        op: Op = ">=" if METRICS[name].bound == "min" else "<="
        bound = threshold.min if op == ">=" else threshold.max
        assert bound is not None  # the contract says so
        yield _compare(name, _number(_dict(report.get("metrics")).get(name), METRICS[name].highest), op, bound)
    for name, floor in gate.slices.items():
        yield from _slices(name, floor, _dict(_dict(report.get("slices")).get(floor.by)), samples)
    if gate.serving:
        yield _not_worse(gate.serving, report, samples)


def _slices(name: str, floor: SliceFloor, found: dict[Any, Any], samples: _Number) -> Iterator[Check]:
    counts = {value: _count(_dict(entry).get("samples")) for value, entry in found.items()}
    total = sum(count.value or 0 for count in counts.values())
    if not found or total != samples.value:
        what = f"covers {total:g} of {samples.value:g} samples" if found and samples.value else "is not in the report"
        yield Check(
            name=f"{name} by {floor.by}",
            value=None,
            threshold=floor.min,
            op=">=",
            passed=False,
            why=f"the slice column {floor.by} {what}",
        )
    for value, entry in found.items():
        label = f"{name}[{floor.by}={_plain(str(value))}]"
        count = counts[value]
        if count.value is None or count.value < floor.samples:
            why = count.why or f"too few samples: {count.value:g}, {floor.samples} needed"
            yield _compare(label, _Number(None, why), ">=", floor.min)
        else:
            yield _compare(label, _number(_dict(entry).get(name), METRICS[name].highest), ">=", floor.min)


def _not_worse(asked: NonInferiority, report: dict[Any, Any], samples: _Number) -> Check:
    name = f"{asked.metric} against the serving model"
    threshold = -asked.margin
    if "serving" in report and report["serving"] is None:
        return Check(name=name, value=None, threshold=threshold, op=">=", passed=True, why="nothing serves yet")
    there = _dict(report.get("serving"))
    if "error" in there:
        why = f"cannot be compared: {_plain(str(there['error']), 200)}; remove gate.serving for this release"
        return _compare(name, _Number(None, why), ">=", threshold)
    n, wins, losses = (_count(there.get(key)) for key in ("samples", "wins", "losses"))
    if n.value is None or wins.value is None or losses.value is None:
        why = "the comparison is not in the report" if not there else (n.why or wins.why or losses.why)
        return _compare(name, _Number(None, why), ">=", threshold)
    if n.value != samples.value or n.value == 0 or wins.value + losses.value > n.value:
        why = f"{wins.value:g} better and {losses.value:g} worse of {n.value:g} rows cannot be"
        return _compare(name, _Number(None, why), ">=", threshold)
    here, theirs = (_number(_dict(part.get("metrics")).get(asked.metric), 1.0) for part in (report, there))
    if here.value is None or theirs.value is None:
        return _compare(name, _Number(None, here.why or theirs.why), ">=", threshold)
    difference = (here.value - theirs.value) * n.value
    if abs(difference - (wins.value - losses.value)) > 0.5:  # half a row: more than any rounding
        why = f"the metrics differ by {difference:+.1f} rows, the counts by {wins.value - losses.value:+g}"
        return _compare(name, _Number(None, why), ">=", threshold)
    bound = lower_bound(int(wins.value), int(losses.value), int(n.value), asked.confidence)
    sure = f"{asked.confidence * 100:g} % sure"
    lost = f"may lose {max(-bound, 0.0):.4f} ({sure}), {asked.margin:g} allowed"
    return _compare(
        name, _Number(bound), ">=", threshold, why=f"{wins.value:g} rows better, {losses.value:g} worse, {lost}"
    )


def _compare(name: str, number: _Number, op: Op, threshold: float, why: str = "") -> Check:
    value = number.value
    passed = value is not None and (value >= threshold if op == ">=" else value <= threshold)
    return Check(name=name, value=value, threshold=threshold, op=op, passed=passed, why=number.why or why)


def _number(value: object, highest: float) -> _Number:
    if value is None:
        return _Number(None, "not measured")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _Number(None, f"not a number: {_show(value)}")
    if abs(value) > LARGEST or math.isnan(value):
        return _Number(None, f"not a finite number: {_show(value)}")
    if not 0 <= value <= highest:
        return _Number(None, f"outside 0…{highest:g}: {value:g}")
    return _Number(float(value))


def _count(value: object) -> _Number:
    if isinstance(value, bool) or (value is not None and not isinstance(value, int)):
        return _Number(None, f"not a whole number: {_show(value)}")
    return _number(value, LARGEST)


def _show(value: object) -> str:
    if isinstance(value, str):
        return repr(_plain(value))
    return str(value) if isinstance(value, bool | float) else f"a {type(value).__name__}"


def _dict(value: object) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


# --- for a person ----------------------------------------------------------------------------------------------------


def _summary(accepted: bool, checks: list[Check], report: dict[Any, Any], problem: str) -> list[str]:
    if accepted:
        told = ", ".join(str(check) for check in checks if "[" not in check.name)
        return [f"accepted: {told}", "this model goes on to release"]
    failed = [_short(check) for check in checks if not check.passed]
    more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
    return [f"refused: {problem or '; '.join(failed[:3]) + more}", _stays(report)]


def _stays(report: dict[Any, Any]) -> str:
    lock = _dict(report.get("serving")).get("lock")
    if isinstance(lock, str):
        return f"the model that serves now (lock {_plain(lock.removeprefix('sha256:'))[:12]}) goes on serving"
    if "serving" in report and report["serving"] is None:
        return "nothing serves yet, and this model will not"
    return "what serves now goes on serving"


def _short(check: Check) -> str:
    if check.why:
        return f"{check.name}: {check.why}"
    assert check.value is not None  # else there is a reason
    return f"{check}, by {abs(check.value - check.threshold):.2g}"


def _plain(text: str, longest: int = 40) -> str:
    """Names out of the user's data, fit for a terminal."""
    return "".join(char if char.isprintable() else "�" for char in text)[:longest]


def _pair(value: float, threshold: float) -> tuple[str, str]:
    """Both numbers, with as many digits as it takes to tell them apart."""
    for digits in range(4, 17):
        texts = f"{value:.{digits}g}", f"{threshold:.{digits}g}"
        if texts[0] != texts[1] or value == threshold:
            return texts
    return repr(value), repr(threshold)
