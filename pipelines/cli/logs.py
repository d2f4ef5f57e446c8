"""`yard logs`: what the steps of a run printed, each line with its step unless only one is asked for."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from pipelines.cli.argo import Argo
from pipelines.cli.runs import NAMESPACES, Run, Step, all_runs, run_of
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
    for label, line in lines:
        print(line if step else f"{label:<{width}}  {line}", flush=follow)


def printed(argo: Argo, run: Run, step: Step) -> Iterator[str]:
    """All lines of a step, its tries one after the other."""
    for pod, node in step.pods:
        some = False
        for line in argo.log(run.namespace, run.name, pod):
            some = True
            yield line.text
        if not some and step.finished:
            yield from _kept(argo, run, node)


def tail(argo: Argo, run: Run, step: Step, count: int = 20) -> list[str]:
    """The last lines of a step's last try that are not empty; none if they cannot be had."""
    if not step.pods:
        return []
    pod, node = step.pods[-1]
    try:
        lines = [line.text for line in deque(argo.log(run.namespace, run.name, pod, tail=count), count)]
        lines = lines or list(deque(_kept(argo, run, node), count))
    except (YardError, OSError, ValueError):
        return []
    return [line.rstrip() for line in lines if line.strip()]


def _kept(argo: Argo, run: Run, node: str) -> Iterator[str]:
    try:
        yield from argo.kept_log(run.namespace, run.name, node)
    except YardError as error:
        if error.code == Exit.UNAVAILABLE:
            raise


def _live(argo: Argo, run: Run, step: str) -> Iterator[tuple[str, str]]:
    """The whole run's lines as they come; which step a pod belongs to stands in its name: run-template-hash."""
    for line in argo.log(run.namespace, run.name, follow=True):
        label = line.pod.removeprefix(f"{run.name}-").rpartition("-")[0] or line.pod
        if step in ("", label):
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
