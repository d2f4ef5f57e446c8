"""`yard watch`: follow one commit until it serves or stops. The Git host's hook shows this to whoever pushes.

A line for every finished step, flushed at once; at the first failure two lines that say why. Watching changes nothing:
the chain runs on whether somebody looks or not.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any

from pipelines.cli.addresses import Addresses, settings
from pipelines.cli.argo import Argo, Workflow
from pipelines.cli.logs import tail
from pipelines.cli.runs import BAD, DONE, NAMESPACES, PIPELINES, Run, Step, all_runs, full_sha, outcome_code, run_of
from pipelines.cli.show import brief, duration, numbers
from pipelines.errors import Exit, YardError

START = 60.0  # seconds until a run must have begun
AGAIN = 1.0  # seconds between two tries to open a lost stream, and between two looks at what the Sensors said
LOST = 120.0  # seconds without a server after which watching is given up

Say = Callable[[str], None]


def watch(addresses: Addresses, repo: str, sha: str, ref: str) -> int:
    """Print what happens to a commit; returns the exit code that its end stands for."""
    argo = Argo(addresses)
    if ref and not ref.startswith("refs/heads/"):
        print(f"{ref}: only branches are built")
        return Exit.OK
    if re.fullmatch(r"0+", sha):
        print(f"{ref.removeprefix('refs/heads/') or 'branch'}: deleted, nothing to build")
        return Exit.OK
    if ref and repo == _releases():
        # the pipeline itself pushes here, and must not wait for its own end
        print(f"verify looks at this release; to follow it: yard watch {sha[:12]}")
        return Exit.OK
    return Watch(argo, repo, full_sha(argo, sha), lambda line: print(line, flush=True)).follow()


def _releases() -> str:
    found = settings()
    return found.releases if found else ""


class Watch:
    """What is known of one commit's chain, and what was said about it."""

    def __init__(self, argo: Argo, repo: str, sha: str, say: Say) -> None:
        self.argo, self.repo, self.sha, self.say = argo, repo, sha, say
        self.seen: queue.SimpleQueue[Workflow | YardError] = queue.SimpleQueue()
        self.runs: dict[str, Run] = {}
        self.told: set[tuple[str, str]] = set()
        self.watched: set[str] = set()
        self.address = ""

    def follow(self) -> int:
        begun = time.monotonic()
        # what is there already, in the order of the chain; then what changes, as it comes
        self._list()
        code = self._advance()
        for namespace in NAMESPACES:
            self._listen(namespace, self.sha)
        while code is None:
            if self._hear():
                self._catch_up()
                code = self._advance()
            elif not self.runs:
                code = self._nothing(time.monotonic() - begun)
        return code

    # --- hearing -----------------------------------------------------------------------------------------------------

    def _hear(self) -> bool:
        """Take all the news there are, waiting AGAIN seconds for some; False if there are none."""
        some = False
        while True:
            try:
                news = self.seen.get(timeout=0 if some else AGAIN)
            except queue.Empty:
                return some
            if isinstance(news, YardError):
                raise news
            self._take(run_of(news))
            some = True

    def _listen(self, namespace: str, sha: str) -> None:
        """Put every change of the runs of a commit into the queue, over lost connections."""
        if f"{namespace}/{sha}" in self.watched:
            return
        self.watched.add(f"{namespace}/{sha}")

        def listen() -> None:
            heard = time.monotonic()
            while True:
                try:
                    for workflow in self.argo.watch(namespace, {"trainyard/sha": sha}):
                        self.seen.put(workflow)
                        heard = time.monotonic()
                    heard = time.monotonic()
                except YardError as error:
                    if error.code != Exit.UNAVAILABLE or time.monotonic() - heard > LOST:
                        self.seen.put(error)
                        return
                except (OSError, ValueError, HTTPException):  # quiet for long, or broken, perhaps within a line
                    heard = time.monotonic()
                time.sleep(AGAIN)

        threading.Thread(target=listen, daemon=True).start()

    def _take(self, run: Run) -> None:
        """Keep the newest attempt of each pipeline. A run that found its work claimed by another one does not count."""
        known = self.runs.get(run.pipeline)
        if run.pipeline not in PIPELINES or (known and known.name != run.name and run.attempt <= known.attempt):
            return
        if self.repo and run.pipeline != "verify" and run.parameters.get("repo") != self.repo:
            return  # the same commit in a fork
        if run.pipeline == "ci":  # an attempt begins: what earlier ones left does not belong to it
            self.runs = {name: other for name, other in self.runs.items() if other.attempt >= run.attempt}
        self.runs[run.pipeline] = run

    def _catch_up(self) -> None:
        """Ask for what a slower connection has not brought yet: when a run begins, those before it are done."""
        for earlier, last, later in (("ci", "built", "ct"), ("ct", "accepted", "release")):
            run = self.runs.get(earlier)
            step = run.step(last) if run else None
            if later in self.runs and (step is None or step.phase not in DONE):
                with contextlib.suppress(YardError):
                    self._list()
                return

    def _list(self) -> None:
        for run in sorted(all_runs(self.argo, sha=self.sha), key=lambda run: run.attempt):
            self._take(run)

    # --- telling -----------------------------------------------------------------------------------------------------

    def _advance(self) -> int | None:
        """Say what is new; the exit code if this is the end."""
        newest = max((run.attempt for run in self.runs.values() if run.pipeline != "verify"), default=1)
        for pipeline in PIPELINES:
            run = self.runs.get(pipeline)
            if run is None or (pipeline != "verify" and run.attempt != newest):
                continue
            for step in run.steps:
                if step.finished and (run.name, step.name) not in self.told:
                    self.told.add((run.name, step.name))
                    self._line(run, step)
            code = self._end(run)
            if code is not None:
                return code
        return None

    def _line(self, run: Run, step: Step) -> None:
        detail = ""
        if step.phase in BAD:
            detail = "refused" if step.name == "gate" and step.decision() else "failed"
        elif step.name == "build":
            detail = _short_digest(step.outputs.get("image", ""))
        elif step.name == "register":
            detail = _versions(step)
        elif step.name == "release":
            detail = f"{step.outputs.get('outcome', '')} {step.outputs.get('commit', '')[:12]}".strip()
        elif step.name == "wait":
            detail = self.address = step.outputs.get("address", "")
        self.say(f"{run.pipeline:<8} {step.name:<10} {duration(step.seconds):>8}  {detail}".rstrip())
        decision = step.decision() if step.name == "gate" else None
        for text in numbers(decision) if decision else []:
            self.say(f"{'':<19} {text}")

    def _end(self, run: Run) -> int | None:
        failed = run.failed()
        if run.pipeline == "verify":
            # the end of verify is the end of the chain; a failed step is followed by taking the release back
            return None if run.finished is None else self._verified(run, failed)
        if failed:
            return self._failed(run, failed)
        if run.phase in BAD:
            self.say(f"{run.name}: {run.message or run.phase}")
            self.say(f"  → {self._link(run)}")
            return Exit.FAILED
        if run.elsewhere() and run.finished:
            self.say(f"{self.sha[:12]} was built before; to do it again: yard rerun {self.sha[:12]}")
            return Exit.OK
        if run.pipeline == "release":
            return self._released(run)
        return None

    def _released(self, run: Run) -> int | None:
        outcome, commit = run.output("release", "outcome"), run.output("release", "commit")
        if outcome == "superseded":
            self.say("superseded: a newer commit of this branch is out already")
            return Exit.OK
        if outcome == "unchanged":
            self.say("unchanged: this very model is out already")
            return Exit.OK
        if commit:
            self._listen(PIPELINES["verify"], commit)
        return None

    def _verified(self, run: Run, failed: Step | None) -> int:
        taken_back = run.output("revert", "commit")
        cause = next((step for step in run.steps if step.phase in BAD and step.name != "revert"), None)
        if cause is None and run.phase == "Succeeded":
            if run.output("wait", "outcome") == "superseded":
                self.say("superseded: a newer release replaced it before it was looked at")
            elif run.elsewhere():
                self.say("verified before by another run")
            else:
                self.say(f"{self._model()} serves{f' at {self.address}' if self.address else ''}{self._took(run)}")
            return Exit.OK
        if cause is None:
            self.say(f"{run.name}: {run.message or run.phase}")
            self.say(f"  → {self._link(run)}")
            return Exit.FAILED
        why, _ = self._why(run, cause)
        self.say(f"{cause.name}: {why}")
        if taken_back:
            self.say(f"  → the release is taken back by {taken_back[:12]}; what served before serves on")
            return Exit.REVERTED
        self.say(f"  → the release was NOT taken back; yard logs {run.name} --step {(failed or cause).name}")
        return Exit.FAILED

    def _failed(self, run: Run, step: Step) -> int:
        decision = step.decision()
        if decision and not decision.accepted:
            for text in decision.summary:
                self.say(brief(text))
            return Exit.REFUSED
        why, todo = self._why(run, step)
        self.say(f"{step.name}: {why}")
        self.say(f"  → {todo}")
        return outcome_code(step)

    def _why(self, run: Run, step: Step) -> tuple[str, str]:
        """What a step said last, and what to do next: its own advice, or where to read more."""
        lines = tail(self.argo, run, step)
        more = f"yard logs {run.name} --step {step.name}"
        if len(lines) > 1 and lines[-1].lstrip().startswith("→"):
            return lines[-2], lines[-1].lstrip(" →")
        last = lines[-1] if lines else ""
        return (last or step.message or step.phase)[:300], more

    def _nothing(self, waited: float) -> int | None:
        """No run yet: the reason, once there is one."""
        refusals = [] if waited < AGAIN else _refusals(self.argo, self.sha)
        if refusals:
            self.say("nothing runs for this push:")
            for text in refusals[:5]:
                self.say(f"  {text}")
            return Exit.OK
        if waited < START:
            return None
        self.say(f"no run of {self.sha[:12]} began within {START:.0f} s")
        self.say(f"  → without a webhook it begins within five minutes: watch again, or yard trace {self.sha[:12]}")
        return Exit.UNAVAILABLE

    def _model(self) -> str:
        run = self.runs.get("ct")
        step = run.step("register") if run else None
        return f"model {_model_version(step)}" if step and _model_version(step) else "the model"

    def _took(self, run: Run) -> str:
        first = self.runs.get("ci")
        if first is None or first.created is None:
            return ""
        began = "rerun" if first.delivery.startswith("rerun-") else "push"
        return f", {duration(((run.finished or datetime.now(UTC)) - first.created).total_seconds())} after the {began}"

    def _link(self, run: Run) -> str:
        return f"{self.argo.url}/workflows/{run.namespace}/{run.name}"


def verdicts(argo: Argo, sha: str) -> list[dict[str, Any]]:
    """What solo's Sensors said of each delivery of this commit, newest first. A cluster keeps no such record: []
    (its Argo Server answers with a page of its UI).
    """
    try:
        found = argo.json("/solo/v1/events", f"sha={sha}")
    except YardError as error:
        if error.code == Exit.UNAVAILABLE:
            raise
        return []
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _refusals(argo: Argo, sha: str) -> list[str]:
    """Why no Sensor took this commit; [] if one did, or nothing is known yet."""
    events = [entry for entry in verdicts(argo, sha) if entry.get("state") != "waiting"]
    if any(
        verdict.get("created") or verdict.get("duplicate") for entry in events for verdict in entry.get("sensors", [])
    ):
        return []
    return [text for entry in events for text in reasons(entry)]


def reasons(entry: dict[str, Any]) -> list[str]:
    """Why an event started nothing, one line for each trigger (of its first filter that said no)."""
    if entry.get("refused"):
        return [f"{entry.get('source')}: {entry['refused']}"]
    told = []
    for verdict in entry.get("sensors", []):
        name = verdict.get("trigger") or verdict.get("sensor")
        if verdict.get("error"):
            told.append(f"{name}: {verdict['error']}")
            continue
        no = next((one for one in verdict.get("filters", []) if not one.get("passed")), None)
        if no:
            told.append(f"{name}: {no.get('asked')}: {no.get('why')}")
    return told or ["no Sensor waits for this event"]


def _versions(step: Step) -> str:
    found = re.findall(r'"(\w+)": ?"([\w./-]+)"', step.outputs.get("versions", ""))
    return " ".join(f"{axis} {version.rpartition('/')[2]}" for axis, version in sorted(found))


def _model_version(step: Step) -> str:
    match = re.search(r'"model": ?"([\w./-]+)"', step.outputs.get("versions", ""))
    return match[1] if match else ""


def _short_digest(image: str) -> str:
    """name@sha256:… with twelve digits of the digest: enough to recognise, short enough for a line."""
    name, _, digest = image.partition("@sha256:")
    return f"{name.rpartition('/')[2]}@{digest[:12]}" if digest else image
