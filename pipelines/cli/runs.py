"""Workflows as runs and steps: what every command here shows, read from Argo's own status."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipelines.cli.argo import Argo, Workflow
from pipelines.errors import Exit, YardError
from pipelines.gate import Decision

PIPELINES = {"ci": "mlops-build", "ct": "mlops", "release": "mlops-release", "verify": "mlops-release"}
NAMESPACES = tuple(dict.fromkeys(PIPELINES.values()))
BAD = ("Failed", "Error")
DONE = ("Succeeded", *BAD)
# the steps that run the user's own code or files: their exit codes mean nothing to us
OWN = ("build", "test", "ingest", "process", "train", "train-cpu", "train-gpu")


class Try(NamedTuple):
    """One pod of a step; `kept` says whether its log was archived (`archiveLogs`), as a cluster does."""

    pod: str
    node: str
    kept: bool


class Step(NamedTuple):
    """One task of a run, all its tries together, the first one first."""

    name: str
    phase: str
    started: datetime | None
    finished: datetime | None
    message: str
    outputs: dict[str, str]
    exit_code: int | None
    tries: list[Try]

    @property
    def seconds(self) -> float:
        return (self.finished - self.started).total_seconds() if self.started and self.finished else 0.0

    def decision(self) -> Decision | None:
        """What the gate decided; None if it did not come to that."""
        try:
            return Decision.model_validate_json(self.outputs.get("decision", ""))
        except ValidationError:
            return None


class Run(NamedTuple):
    """One Workflow."""

    name: str
    namespace: str
    pipeline: str
    service: str
    sha: str
    labels: dict[str, str]
    delivery: str
    parameters: dict[str, str]
    phase: str
    message: str
    created: datetime | None
    finished: datetime | None
    steps: list[Step]

    @property
    def attempt(self) -> int:
        text = self.parameters.get("attempt", "1")
        return int(text) if text.isdigit() else 1

    def step(self, name: str) -> Step | None:
        return next((step for step in self.steps if step.name == name), None)

    def output(self, step: str, name: str) -> str:
        """An output parameter, "" if there is none (yet)."""
        found = self.step(step)
        return found.outputs.get(name, "") if found else ""

    def failed(self) -> Step | None:
        """The first step that failed."""
        return next((step for step in self.steps if step.phase in BAD), None)

    def elsewhere(self) -> bool:
        """Whether this run found its commit claimed by another run, and did nothing."""
        first = {"ci": "claim", "ct": "plan", "verify": "inspect"}.get(self.pipeline, "")
        return self.output(first, "claimed") == "false"


def run_of(workflow: Workflow) -> Run:
    meta, status = workflow["metadata"], workflow.get("status") or {}
    labels, spec = meta.get("labels") or {}, workflow.get("spec") or {}
    given = (spec.get("arguments") or {}).get("parameters") or []
    parameters = {str(entry.get("name")): str(entry.get("value", "")) for entry in given}
    pipeline = labels.get("trainyard/pipeline") or (spec.get("workflowTemplateRef") or {}).get("name", "")
    return Run(
        name=meta["name"],
        namespace=meta.get("namespace", ""),
        pipeline=pipeline,
        service=labels.get("trainyard/service") or parameters.get("service", ""),
        sha=labels.get("trainyard/sha") or parameters.get("sha") or parameters.get("commit", ""),
        labels=labels,
        delivery=(meta.get("annotations") or {}).get("trainyard/delivery", "") or parameters.get("delivery", ""),
        parameters=parameters,
        phase=status.get("phase") or "Pending",
        message=status.get("message") or "",
        created=time_of(meta.get("creationTimestamp")),
        finished=time_of(status.get("finishedAt")),
        steps=sorted(_steps(meta["name"], status.get("nodes") or {}), key=_order),
    )


def _order(step: Step) -> tuple[bool, datetime]:
    """By the end, since that is when a line about it is due."""
    return step.finished is None, step.finished or step.started or datetime.max.replace(tzinfo=UTC)


def _steps(workflow: str, nodes: dict[str, dict[str, Any]]) -> Iterator[Step]:
    """The nodes that ran something: a pod, or a Retry with its tries as children. The exit handler is not a step."""
    tries = {child for node in nodes.values() if node.get("type") == "Retry" for child in node.get("children") or []}
    for key, node in nodes.items():
        if key in tries or node.get("type") not in ("Pod", "Retry"):
            continue
        if node.get("phase") in ("Skipped", "Omitted") or node.get("name", "").startswith(f"{workflow}.onExit"):
            continue
        outputs = node.get("outputs") or {}
        code = outputs.get("exitCode")
        attempts = node.get("children") or [] if node["type"] == "Retry" else [key]
        made = [_try(workflow, nodes[each]) for each in attempts if each in nodes and not _hooked(nodes[each])]
        # a Retry says why it did not try again; why it had to is said by its last try
        last = nodes[made[-1].node] if made else node
        yield Step(
            name=node.get("displayName") or key,
            phase=node.get("phase") or "Pending",
            started=time_of(node.get("startedAt")),
            finished=time_of(node.get("finishedAt")),
            message=last.get("message") or node.get("message") or "",
            outputs={str(entry["name"]): str(entry.get("value", "")) for entry in outputs.get("parameters") or []},
            exit_code=int(code) if code is not None and re.fullmatch(r"-?\d+", str(code)) else None,
            tries=made,
        )


def _hooked(node: Mapping[str, Any]) -> bool:
    return bool((node.get("nodeFlag") or {}).get("hooked"))


def _try(workflow: str, node: Mapping[str, Any]) -> Try:
    """Argo's name of a node's pod: the workflow's, the template's, and what the node's id has after the workflow's.

    Source: workflow/util/pod_name.go, GeneratePodName, v4.1.4.
    """
    template = node.get("templateName") or (node.get("templateRef") or {}).get("template", "")
    ident = str(node["id"])
    pod = workflow if ident == workflow else f"{workflow}-{template}-{ident.removeprefix(f'{workflow}-')}"
    artifacts = (node.get("outputs") or {}).get("artifacts") or []
    return Try(pod, ident, any(artifact["name"] == "main-logs" for artifact in artifacts))


def time_of(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def all_runs(argo: Argo, **labels: str) -> list[Run]:
    """Runs of our pipelines that carry these labels (`sha` is `trainyard/sha`), the newest first."""
    wanted = {f"trainyard/{key}": value for key, value in labels.items() if value}
    found = [run_of(workflow) for namespace in NAMESPACES for workflow in argo.list(namespace, wanted)]
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted((run for run in found if run.pipeline), key=lambda run: run.created or oldest, reverse=True)


def full_sha(argo: Argo, text: str) -> str:
    """The commit that a user means: a full id, the beginning of a run's, or a name in the repository they stand in."""
    if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text):
        return text
    known = (
        {run.sha for run in all_runs(argo) if run.sha.startswith(text.lower())}
        if re.fullmatch(r"[0-9a-fA-F]{4,}", text)
        else set()
    )
    if len(known) > 1:
        raise YardError(f"{text} is the beginning of several commits", todo=f"one of {', '.join(sorted(known))}")
    if known:
        return known.pop()
    command = ["git", "rev-parse", "--quiet", "--verify", "--end-of-options", f"{text}^{{commit}}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.strip()
    todo = "give the full commit id, or stand in its repository"
    raise YardError(f"no commit {text!r} here, and no run of one", todo=todo, code=Exit.NOT_FOUND)


def outcome_code(step: Step) -> Exit:
    """What a failed step means for who waits: its own exit code if it is the platform's, FAILED if it is the user's."""
    if step.name not in OWN and step.exit_code in set(Exit) - {Exit.OK}:
        return Exit(step.exit_code)
    return Exit.FAILED
