"""`yard logs`: what the steps of a run printed, each line with its step unless only one is asked for."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Iterator

from pipelines.cli.argo import Argo
from pipelines.cli.runs import NAMESPACES, Run, Step, Try, all_runs, run_of
from pipelines.documents import suggest
from pipelines.errors import Exit, YardError


def logs(argo: Argo, name: str, step: str, *, follow: bool) -> None:
    """Raises YardError(NOT_FOUND) for a run or a step that does not exist."""
    run = _find(argo, name)
    if follow and run.finished is None:
        lines = _live(argo, run, step)
    else:
        wanted = [_known(run, step)] if step else run.steps
        lines = ((found.name, line) for found in wanted for line in printed(argo, run, found))
    width = max((len(found.name) for found in run.steps), default=0)
    some = False
    for label, line in lines:
        some = True
        print(line if step else f"{label:<{width}}  {line}", flush=follow)
    if not some:
        print(f"{name}: nothing was printed, or the pods are gone and left no log", file=sys.stderr)


def printed(argo: Argo, run: Run, step: Step) -> Iterator[str]:
    """All lines of a step, its tries one after the other."""
    for one in step.tries:
        yield from _lines(argo, run, step, one)


def tail(argo: Argo, run: Run, step: Step, count: int = 20) -> list[str]:
    """The last lines of a step's last try that are not empty; none if they cannot be had."""
    try:
        lines = deque(_lines(argo, run, step, step.tries[-1], count), count) if step.tries else []
    except YardError:
        return []
    return [line.rstrip() for line in lines if line.strip()]


def _lines(argo: Argo, run: Run, step: Step, one: Try, tail: int = 0) -> Iterator[str]:
    """What a try printed: as it was archived, else from its pod, which on a cluster goes soon after."""
    some, failed = False, None
    if one.kept:
        try:
            for text in argo.kept_log(run.namespace, run.name, one.node):
                some = True
                yield text
            return
        except YardError as error:  # the server says 500 for whatever it cannot fetch
            if some:
                raise
            failed = error
    for line in argo.log(run.namespace, run.name, one.pod, tail=tail):
        some = True
        yield line.text
    if failed and not some:
        raise failed


def _live(argo: Argo, run: Run, step: str) -> Iterator[tuple[str, str]]:
    """What finished steps printed, whose pods may be gone, then the other lines as they come.

    Which step a pod belongs to stands in its name: run-template-hash.
    """
    shown: set[str] = set()
    for found in run.steps:
        if found.finished and step in ("", found.name):
            shown |= {one.pod for one in found.tries}
            for text in printed(argo, run, found):
                yield found.name, text
    for line in argo.log(run.namespace, run.name, follow=True):
        label = line.pod.removeprefix(f"{run.name}-").rpartition("-")[0] or line.pod
        if step in ("", label) and line.pod not in shown:
            yield label, line.text


def _find(argo: Argo, name: str) -> Run:
    # the server would take another word for another question
    for namespace in NAMESPACES if re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name) else ():
        try:
            return run_of(argo.get(namespace, name))
        except YardError as error:
            if error.code != Exit.NOT_FOUND:
                raise
    names = [run.name for run in all_runs(argo)]
    todo = suggest(name, names) if names else "nothing has run yet"
    raise YardError(f"no run {name!r}", todo=todo if len(todo) < 200 else "yard runs", code=Exit.NOT_FOUND)


def _known(run: Run, name: str) -> Step:
    step = run.step(name)
    if step is None:
        todo = suggest(name, [known.name for known in run.steps]) if run.steps else "no step has begun"
        raise YardError(f"no step {name!r}", where=run.name, todo=todo, code=Exit.NOT_FOUND)
    return step
