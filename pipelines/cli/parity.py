"""`yard parity`: the same Workflow on solo and on a cluster, and where what became of it differs.

Each Workflow is submitted by reference to a WorkflowTemplate made of its spec, as a cluster with
`templateReferencing: Strict` wants it. Both are deleted afterwards, whatever happens.
"""

from __future__ import annotations

import itertools
import re
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipelines.cli.addresses import Addresses, find
from pipelines.cli.argo import Argo, Workflow
from pipelines.cli.runs import DONE
from pipelines.cli.show import table
from pipelines.errors import Exit, YardError

JOBS = 4  # Workflows that run at a time, both sides together: a small cluster has other work too
POLL = 0.5  # seconds between two looks at a Workflow
LABEL = "trainyard/parity"  # on everything that is made here, to find what a killed `yard` left
BAD = ("DIFFERS", "NEITHER RAN")  # verdicts
TRIES = 3  # a controller may not have heard yet of a template that was made just before its Workflow


class Alike(NamedTuple):
    """Words that differ from run to run and mean the same: `text` stands for them on both sides."""

    what: str
    pattern: str
    text: str
    why: str


ALIKE = (
    Alike("pod names, node ids", r"{name}-[-a-z0-9]*\d{{4,}}", "<pod>", "hashes of names that hold the Workflow's"),
    Alike("the Workflow's name", r"{name}", "<workflow>", "each run has its own"),
    Alike("the Workflow's uid", r"{uid}", "<uid>", "each run has its own"),
)


class Known(NamedTuple):
    """A difference that is meant: `field` and both values match these patterns ("" is: not there)."""

    field: str
    solo: str
    cluster: str
    why: str


KNOWN = (
    Known(
        r"outputs\.artifacts\.main-logs",
        "",
        "there",
        "archiveLogs: a cluster stores each pod's log as an artifact, for the pod goes; solo keeps the log itself",
    ),
    Known(
        r"message",
        r"wait: Error \(exit code 64\): output (parameter|artifact) .*no such file or directory",
        r"wait: Error \(exit code 64\): (open|stat) .*: no such file or directory(; )?",
        "solo names the output and its path in the step; the executor only the path where its own container sees it",
    ),
    Known(
        r"message",
        r"(?s)Invalid 'when' expression '.*",
        r"(?s)Invalid 'when' expression '.*",
        "a condition that cannot be read: solo shows where, in the words of its own parser",
    ),
    Known(
        r"message",
        r"Step exceeded its deadline",
        r"Pod was active on the node longer than the specified deadline",
        "the Workflow's deadline: on a cluster the kubelet often ends the pod before the controller looks",
    ),
    Known(r"outputs\.exitCode", "", "143", "the kubelet then tells how the container ended"),
)


class Case(NamedTuple):
    """One file: a Workflow, and the WorkflowTemplates that it names."""

    name: str
    workflow: dict[str, Any]
    templates: list[dict[str, Any]]


class Difference(NamedTuple):
    """`node` is "" for the Workflow itself; `why` is "" unless the difference is known."""

    node: str
    field: str
    solo: str
    cluster: str
    why: str


class Report(NamedTuple):
    """What is said of one Workflow: its line, its name first and the verdict last, and what differs."""

    summary: tuple[str, ...]
    found: list[Difference]


Outcome = dict[tuple[str, str], str]


def parity(paths: Sequence[Path], *, server: str, solo: str, namespace: str, timeout: float, markdown: bool) -> int:
    """Print what differs; OK if nothing does but what is known. Raises YardError: INVALID or NOT_FOUND for a file,
    UNAVAILABLE if a side does not answer.
    """
    if not server:
        todo = "name its Argo Server with --server or ARGO_SERVER"
        raise YardError("parity needs a cluster to compare solo with", todo=todo, code=Exit.USAGE)
    cases = load(paths)
    sides = [Argo(Addresses(solo.rstrip("/"), {}) if solo else find("")), Argo(find(server))]
    for side in sides:
        side.json("/api/v1/version")
    both = _run_all(sides, cases, namespace, timeout)
    reports = [_report(case.name, here, there) for case, (here, there) in zip(cases, both, strict=True)]
    explained = Counter((one.field, one.why) for report in reports for one in report.found if one.why)
    sections = (
        (("WORKFLOW", "ENDED", "NODES", "EQUAL", "EXPLAINED", "VERDICT"), [report.summary for report in reports]),
        (
            ("WORKFLOW", "NODE", "FIELD", "SOLO", "CLUSTER"),
            [
                (report.summary[0], one.node, one.field, _line(one.solo), _line(one.cluster))
                for report in reports
                for one in report.found
                if not one.why
            ],
        ),
        (("EXPLAINED", "FIELD", "WHY"), [(str(times), *one) for one, times in sorted(explained.items())]),
    )
    for index, (head, rows) in enumerate(section for section in sections if section[1]):
        if index:
            print()
        if markdown:
            print(markdown_table(head, rows))
        else:
            table(head, rows)
    return Exit.FAILED if any(report.summary[-1] in BAD for report in reports) else Exit.OK


def _report(name: str, here: Outcome | YardError, there: Outcome | YardError) -> Report:
    if isinstance(here, YardError) or isinstance(there, YardError):
        solo, cluster = (str(side) if isinstance(side, YardError) else "ran" for side in (here, there))
        verdict = BAD[0] if "ran" in (solo, cluster) else BAD[1]
        return Report((name, "-", "-", "-", "-", verdict), [Difference("", "run", solo, cluster, "")])
    found = differences(here, there)
    known = sum(bool(one.why) for one in found)
    verdict = "equal" if not found else "explained" if known == len(found) else BAD[0]
    ends = dict.fromkeys((here["", "phase"], there["", "phase"]))
    nodes = {node for node, _ in (*here, *there) if node}
    equal = len({*here, *there}) - len(found)
    return Report((name, " / ".join(ends), str(len(nodes)), str(equal), str(known), verdict), found)


def _line(text: str) -> str:
    return text.replace("\n", "\\n") or "-"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As docs hold it."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def known() -> str:
    """What docs/solo.md says of the comparison: both tables, in Markdown; the patterns are regular expressions."""
    alike = [(row.what, f"`{row.text}`", row.why) for row in ALIKE]
    differ = [(*(f"`{text}`" if text else "-" for text in row[:3]), row.why) for row in KNOWN]
    return "\n\n".join(
        [
            markdown_table(("differs from run to run", "is compared as", "why"), alike),
            markdown_table(("field", "solo", "cluster", "why"), differ),
        ]
    )


# --- comparing -------------------------------------------------------------------------------------------------------


def outcome(workflow: Workflow) -> Outcome:
    """What became of a Workflow, as (node's name, field) → value. Times, hosts and the store's keys are left out."""
    meta, status = workflow["metadata"], workflow.get("status") or {}

    def same(text: object) -> str:
        found = str(text)
        for row in ALIKE:
            pattern = row.pattern.format(name=re.escape(meta["name"]), uid=re.escape(meta["uid"]))
            found = re.sub(pattern, row.text, found)
        return found

    nodes = status.get("nodes") or {}
    found: Outcome = {}

    def names(ids: Iterable[str]) -> str:
        return ", ".join(sorted(same(nodes[one]["name"]) for one in ids if one in nodes))

    for node, body in (("", status), *((same(node["name"]), node) for node in nodes.values())):
        template = body.get("templateName") or (body.get("templateRef") or {}).get("template")
        values = {
            "phase": body.get("phase"),
            "message": body.get("message"),
            "type": body.get("type"),
            "template": template,
            "displayName": body.get("displayName"),
            "scope": body.get("templateScope"),
            "boundary": names([body.get("boundaryID", "")]),
            "children": names(body.get("children") or []),
            "outbound": names(body.get("outboundNodes") or []),
            "flags": ", ".join(sorted(flag for flag, on in (body.get("nodeFlag") or {}).items() if on)),
            "progress": body.get("progress"),
            "conditions": ", ".join(sorted(f"{one['type']}={one['status']}" for one in body.get("conditions") or [])),
            **dict(_ports("inputs", body.get("inputs") or {})),
            **dict(_ports("outputs", body.get("outputs") or {})),
        }
        found |= {(node, field): same(value) for field, value in values.items() if value not in (None, "")}
    return found


def _ports(side: str, ports: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for parameter in ports.get("parameters") or []:
        if "value" in parameter:  # one that is empty is there all the same; what a failed step did not write is not
            yield f"{side}.parameters.{parameter['name']}", repr(str(parameter["value"]))
    for artifact in ports.get("artifacts") or []:
        yield f"{side}.artifacts.{artifact['name']}", artifact.get("path") or "there"
    for field in ("result", "exitCode"):
        yield f"{side}.{field}", ports.get(field)


def differences(solo: Outcome, cluster: Outcome) -> list[Difference]:
    found = []
    for key in sorted({*solo, *cluster}):
        here, there = solo.get(key, ""), cluster.get(key, "")
        if here != there:
            found.append(Difference(*key, here, there, _why(key[1], here, there)))
    return found


def _why(field: str, solo: str, cluster: str) -> str:
    values = (field, solo, cluster)
    return next((row.why for row in KNOWN if all(map(re.fullmatch, row[:3], values))), "")


# --- running ---------------------------------------------------------------------------------------------------------


def load(paths: Sequence[Path]) -> list[Case]:
    """The Workflows in files and folders. Raises YardError: NOT_FOUND, INVALID."""
    files = [file for path in paths for file in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
    if not files:
        raise YardError("no *.yaml here", where=", ".join(map(str, paths)), code=Exit.NOT_FOUND)
    return [_case(file) for file in files]


def _case(file: Path) -> Case:
    try:
        documents = [one for one in yaml.safe_load_all(file.read_text()) if one]
        kinds = [one["kind"] for one in documents]
        names = [one["metadata"]["name"] for one in documents if one["kind"] == "WorkflowTemplate"]
    except OSError as error:
        raise YardError(str(error.strerror), where=str(file), code=Exit.NOT_FOUND) from None
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise YardError(f"not a file of Kubernetes objects: {error}", where=str(file)) from None
    if kinds.count("Workflow") != 1 or len(names) + 1 != len(kinds):
        todo = "one Workflow in a file, and the WorkflowTemplates that it names"
        raise YardError(f"holds {', '.join(kinds)}", where=str(file), todo=todo)
    (workflow,) = (one for one in documents if one["kind"] == "Workflow")
    return Case(file.stem, workflow, [one for one in documents if one["kind"] == "WorkflowTemplate"])


def _run_all(
    sides: Sequence[Argo], cases: Sequence[Case], namespace: str, timeout: float
) -> list[tuple[Outcome | YardError, Outcome | YardError]]:
    stop = threading.Event()
    with ThreadPoolExecutor(JOBS) as pool:
        jobs = [[pool.submit(_run, side, case, namespace, timeout, stop) for side in sides] for case in cases]
        try:
            return [(here.result(), there.result()) for here, there in jobs]
        except BaseException:  # Ctrl-C too: every job cleans up behind itself, and then this ends
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _run(argo: Argo, case: Case, namespace: str, timeout: float, stop: threading.Event) -> Outcome | YardError:
    stem = re.sub(r"[^a-z0-9]+", "-", case.name.lower()).strip("-")[:24].strip("-")
    for attempt in itertools.count(1):
        run = _Run(argo, namespace, f"parity-{stem}-{uuid.uuid4().hex[:6]}", timeout, stop)
        found: Outcome | YardError
        try:
            ended = run.to_the_end(case)
            found, said = outcome(ended), "" if ended["status"].get("nodes") else ended["status"].get("message", "")
        except YardError as error:
            found, said = error, error.what
        if attempt == TRIES or not re.search(r"workflow ?template.*not found", said):
            break
    return found


class _Run:
    """One Workflow and its templates on one side, under names of their own."""

    def __init__(self, argo: Argo, namespace: str, name: str, timeout: float, stop: threading.Event) -> None:
        self.argo, self.namespace, self.name, self.timeout, self.stop = argo, namespace, name, timeout, stop
        self.made: list[tuple[str, str]] = []

    def to_the_end(self, case: Case) -> Workflow:
        """The finished Workflow. Raises YardError: as the server refuses it; UNAVAILABLE after `timeout` seconds."""
        try:
            return self._follow(self._submit(case))
        finally:
            self._clean()

    def _submit(self, case: Case) -> str:
        given = [one["metadata"]["name"] for one in case.templates]
        for one in case.templates:
            self._make("workflow-templates", f"{self.name}-{one['metadata']['name']}", self._renamed(one, given))
        workflow = self._renamed(case.workflow, given)
        spec = workflow["spec"]
        if "workflowTemplateRef" not in spec:
            self._make("workflow-templates", self.name, {"kind": "WorkflowTemplate", "spec": spec})
            arguments = {"arguments": spec["arguments"]} if spec.get("arguments") else {}
            workflow = {**workflow, "spec": {"workflowTemplateRef": {"name": self.name}, **arguments}}
        self._make("workflows", self.name, workflow)
        return self.name

    def _renamed(self, part: Any, names: Sequence[str]) -> Any:
        """A copy that names the templates as they are called here."""
        if isinstance(part, list):
            return [self._renamed(one, names) for one in part]
        if not isinstance(part, dict):
            return part
        copy = {key: self._renamed(value, names) for key, value in part.items()}
        for key in ("templateRef", "workflowTemplateRef"):
            if isinstance(copy.get(key), dict) and copy[key].get("name") in names:
                copy[key] = {**copy[key], "name": f"{self.name}-{copy[key]['name']}"}
        return copy

    def _make(self, collection: str, name: str, body: Mapping[str, Any]) -> None:
        meta = body.get("metadata") or {}
        kept = {key: meta[key] for key in ("annotations",) if key in meta}
        labels = {**(meta.get("labels") or {}), LABEL: "true"}
        # noted first: a request whose answer was lost may have made it
        self.made.append((collection, name))
        metadata = {"name": name, "namespace": self.namespace, "labels": labels, **kept}
        kind = "Workflow" if collection == "workflows" else "WorkflowTemplate"
        made = {"apiVersion": "argoproj.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": body["spec"]}
        self.argo.create(collection, self.namespace, made)

    def _follow(self, name: str) -> Workflow:
        deadline = time.monotonic() + self.timeout
        while True:
            workflow = self.argo.get(self.namespace, name)
            phase = (workflow.get("status") or {}).get("phase", "Pending")
            if phase in DONE:
                return workflow
            if time.monotonic() > deadline:
                what = f"not finished after {self.timeout:.0f} s: {phase}"
                raise YardError(what, where=f"{self.argo.url} {name}", todo="--timeout", code=Exit.UNAVAILABLE)
            if self.stop.wait(POLL):
                raise YardError("stopped", where=name, code=Exit.UNAVAILABLE)

    def _clean(self) -> None:
        for collection, name in reversed(self.made):
            try:
                self.argo.delete(collection, self.namespace, name)
            except YardError as error:
                if error.code != Exit.NOT_FOUND:
                    print(f"{collection}/{name} is left in {self.namespace}: {error}", file=sys.stderr)
