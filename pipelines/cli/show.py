"""Tables and words for a terminal of 80 columns: aligned and coloured there, plain and never cut elsewhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice

from pipelines import platform
from pipelines.cli.addresses import Addresses, settings
from pipelines.cli.argo import Argo
from pipelines.cli.runs import BAD, Run, all_runs
from pipelines.documents import suggest
from pipelines.errors import Exit, YardError
from pipelines.gate import Check, Decision

FEW = 3  # slices that a summary names
COLOURS = {"Succeeded": "green", "Failed": "red", "Error": "red", "Running": "cyan", "Pending": "yellow"}


def runs(argo: Argo, service: str, limit: int) -> None:
    # reconcile runs every few minutes: worth a line only when it fails
    known = (run for run in all_runs(argo, service=service) if run.pipeline != "reconcile" or run.phase in BAD)
    found = list(islice(known, limit))
    if not found:
        todo = first_push(argo.addresses, service)
        print("nothing has run yet" + (f" for {service}" if service else "") + f"\n  → {todo}")
        return
    now = datetime.now(UTC)
    table(("RUN", "PHASE", "AT", "TOOK", "AGO"), [_row(run, now) for run in found])


def _row(run: Run, now: datetime) -> tuple[str, ...]:
    took = ((run.finished or now) - run.created).total_seconds() if run.created else 0.0
    ago = (now - run.created).total_seconds() if run.created else 0.0
    return run.name, run.phase, _at(run), duration(took), _rough(ago)


def _at(run: Run) -> str:
    """The step that a run stands or stopped at."""
    if run.phase in BAD:
        step = run.failed()
        return step.name if step else ""
    if run.elsewhere():
        return "(done before)"
    active = [step.name for step in run.steps if step.phase in ("Running", "Pending")]
    return "" if run.phase == "Succeeded" else "+".join(active)


def models(addresses: Addresses, service: str) -> None:
    from pipelines.registry import open_registry

    registry = open_registry(addresses.environment)
    names = [service] if service else registry.names("model")
    rows = []
    for name in names:
        alias = registry.get_alias(name, "serving")
        serving = registry.get_lock(alias.lock).versions["model"].number if alias else None
        for version in reversed(registry.versions("model", name)):
            metrics = version.info.get("metrics") or {}
            told = " ".join(f"{metric}={value:.4f}" for metric, value in sorted(metrics.items()))
            mark = "serving" if version.number == serving else ""
            rows.append((f"{name}/v{version.number}", mark, str(version.info.get("sha", ""))[:12], told))
    if not rows:
        todo = f"the first push that the gate accepts registers one: {first_push(addresses, service)}"
        print("no model is registered yet" + (f" for {service}" if service else "") + f"\n  → {todo}")
        return
    table(("MODEL", "NOW", "COMMIT", "METRICS"), rows)


def first_push(addresses: Addresses, service: str = "") -> str:
    """What starts the first run. Raises YardError(NOT_FOUND) for a service that the platform does not know."""
    found = settings()
    services = found.services if found else []
    known = [entry for entry in services if service in ("", entry.name)]
    if services and not known:
        todo = suggest(service, [entry.name for entry in services])
        raise YardError(f"no service {service!r}", where=platform.FILE, todo=todo, code=Exit.NOT_FOUND)
    if not known:
        return "push a service"
    url = f"{addresses.environment.get('GIT_URL', '')}/{known[0].repo}.git"
    return f"git push {url} HEAD:{known[0].branch}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """On a terminal in colour and no wider than it; else with every character, for `grep` and `awk`."""
    rows = [tuple(row) for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        shown = Table(*head, box=None, pad_edge=False, header_style="dim")
        for row in rows:
            shown.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
        Console(highlight=False).print(shown)
        return
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    for line in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"


def _rough(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def brief(text: str, width: int = 72) -> str:
    """As many of the gate's reasons as fit into a line (behind Git's "remote: "), and how many more there are."""
    *reasons, last = text.split("; ")
    more = re.fullmatch(r"and (\d+) more", last)
    reasons, hidden = (reasons, int(more[1])) if more else ([*reasons, last], 0)
    while True:
        line = "; ".join([*reasons, *([f"and {hidden} more"] if hidden else [])])
        if len(line) <= width or len(reasons) == 1:
            return line
        reasons, hidden = reasons[:-1], hidden + 1


def numbers(decision: Decision, *, every: bool = False) -> list[str]:
    """The gate's numbers against their thresholds, a line each.

    Of slices that all hold only the closest, of those that fail the worst few, unless `every` one is asked for.
    """
    lines = [str(check) for check in decision.checks if not _of_slice(check)]
    slices = [check for check in decision.checks if _of_slice(check)]
    failed = [check for check in slices if not check.passed]
    if slices and not failed:
        closest = min(slices, key=lambda check: (check.value or 0.0) - check.threshold)
        lines.append(f"{closest} (the closest of {len(slices)})")
    if every or len(failed) <= FEW:
        return lines + [str(check) for check in failed]
    worst = sorted(failed, key=lambda check: (check.value or 0.0) - check.threshold)[:FEW]
    return [*lines, *(str(check) for check in worst), f"and {len(failed) - FEW} more slices"]


def _of_slice(check: Check) -> bool:
    return "[" in check.name
