"""The bus: events in SQLite, given to every Sensor once.

An event is on the bus when it is committed; the sender's 200 means that. For each firing trigger the Workflow and the
mark that it was made are one transaction, so a crash at any moment neither loses nor repeats it. What was decided about
an event stays as its record, for `trace`; the last thousand are kept.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import secrets
import string
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from solo.events.event import Event
from solo.events.jsontext import dump, load
from solo.events.sensors import Verdict, verdicts
from solo.store import AlreadyExistsError, Object, Store

KEPT, REFUSED_KEPT = 1000, 100
_LETTERS = string.ascii_lowercase + string.digits
_SCHEMA = """
CREATE TABLE IF NOT EXISTS bus_events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, state TEXT NOT NULL, namespace TEXT NOT NULL, source TEXT NOT NULL,
  event TEXT NOT NULL, type TEXT NOT NULL, id TEXT NOT NULL, time TEXT NOT NULL, delivery TEXT NOT NULL,
  repository TEXT NOT NULL, ref TEXT NOT NULL, sha TEXT NOT NULL, data TEXT NOT NULL, sensors TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS bus_events_by_state ON bus_events (state, seq);
CREATE TABLE IF NOT EXISTS bus_actions (
  seq INTEGER NOT NULL, sensor TEXT NOT NULL, trigger TEXT NOT NULL, dependency TEXT NOT NULL, outcome TEXT NOT NULL,
  PRIMARY KEY (seq, sensor, trigger, dependency)) WITHOUT ROWID;
"""
_COLUMNS = (
    "seq",
    "state",
    "namespace",
    "source",
    "event",
    "type",
    "id",
    "time",
    "delivery",
    "repository",
    "ref",
    "sha",
)

log = logging.getLogger(__name__)


class Bus:
    """`create_workflow` stores a Workflow; it raises AlreadyExistsError, or ValueError with what is wrong with it."""

    def __init__(self, store: Store, create_workflow: Callable[[Object], object]) -> None:
        self.store, self.create_workflow = store, create_workflow
        self._wake = asyncio.Event()
        create_tables(store)

    def publish(self, event: Event) -> None:
        """Commit an event; Sensors see it soon after."""
        self._insert("waiting", event, {})
        self._wake.set()

    def refuse(self, namespace: str, source: str, name: str, why: str, delivery: str | None) -> None:
        """Record a request that made no event."""
        self._insert(
            "refused", Event(namespace, source, name, "", None), {"refused": why[:500]}, (delivery or "")[:100]
        )
        self._prune("refused", REFUSED_KEPT)

    def routes(self) -> list[Route]:
        """`GET /solo/v1/events?sha=…&delivery=…&state=…`: the `history` as JSON."""

        async def events(request: Request) -> JSONResponse:
            asked = request.query_params
            found = history(
                self.store, sha=asked.get("sha", ""), delivery=asked.get("delivery", ""), state=asked.get("state", "")
            )
            return JSONResponse(found)

        return [Route("/solo/v1/events", events)]

    async def run(self) -> None:
        """Hand out events for ever, beginning with those of before a crash."""
        while True:
            self._wake.clear()
            while self.step():
                await asyncio.sleep(0)
            await self._wake.wait()

    def step(self) -> bool:
        """Deal with the oldest waiting event; False if there is none."""
        row = self.store.db.execute(
            "SELECT seq, namespace, source, event, type, id, time, data FROM bus_events"
            " WHERE state='waiting' ORDER BY seq LIMIT 1"
        ).fetchone()
        if row is None:
            return False
        seq, namespace, source, subject, type_, id_, time, data = row
        event = Event(namespace, source, subject, type_, load(data), id_, time)
        record = [self._sensor(seq, sensor, event) for sensor in self.store.list("Sensor", namespace)]
        with self.store.transaction():
            self.store.db.execute(
                "UPDATE bus_events SET state='done', data='', sensors=? WHERE seq=?",
                (json.dumps([verdict for part in record for verdict in part]), seq),
            )
            self.store.db.execute("DELETE FROM bus_actions WHERE seq=?", (seq,))
            self._prune("done", KEPT)
        return True

    def _sensor(self, seq: int, sensor: Object, event: Event) -> list[dict[str, Any]]:
        try:
            found = verdicts(sensor, event)
        except Exception as error:  # a Sensor that nobody checked must not stop the others
            log.exception("Sensor %s", sensor["metadata"]["name"])
            return [{"sensor": sensor["metadata"]["name"], "error": f"internal error: {error!r}"}]
        return [summary(verdict) | (self._act(seq, verdict) if verdict.workflow else {}) for verdict in found]

    def _act(self, seq: int, verdict: Verdict) -> dict[str, Any]:
        """Create the Workflow, once: what happened is read back if it happened before a crash."""
        assert verdict.workflow is not None
        key = (seq, verdict.sensor, verdict.trigger, verdict.dependency)
        row = self.store.db.execute(
            "SELECT outcome FROM bus_actions WHERE seq=? AND sensor=? AND trigger=? AND dependency=?", key
        ).fetchone()
        if row is not None:
            outcome: dict[str, Any] = json.loads(row[0])
            return outcome
        workflow = copy.deepcopy(verdict.workflow)
        meta = workflow["metadata"]
        meta.setdefault("name", meta.get("generateName", "") + "".join(secrets.choice(_LETTERS) for _ in range(5)))
        outcome = {"created": f"{meta['namespace']}/{meta['name']}"}
        try:
            with self.store.transaction():
                self.create_workflow(workflow)
                self._record(key, outcome)
        except AlreadyExistsError as error:
            log.info("%s: %s", verdict.sensor, error)
            outcome = {"error": f"AlreadyExists: {error}", "duplicate": True}
        except ValueError as error:
            log.warning("%s: %s", verdict.sensor, error)
            outcome = {"error": str(error)}
        except Exception as error:  # the event must not be tried for ever
            log.exception("Sensor %s, trigger %s", verdict.sensor, verdict.trigger)
            outcome = {"error": f"internal error: {error!r}"}
        else:
            return outcome
        self._record(key, outcome)
        return outcome

    def _record(self, key: tuple[int, str, str, str], outcome: dict[str, Any]) -> None:
        self.store.db.execute("INSERT INTO bus_actions VALUES (?,?,?,?,?)", (*key, json.dumps(outcome)))

    def _insert(self, state: str, event: Event, sensors: dict[str, Any], delivery: str = "") -> None:
        facts = event.facts()
        self.store.db.execute(
            "INSERT INTO bus_events (state, namespace, source, event, type, id, time, delivery, repository, ref, sha,"
            " data, sensors) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                state,
                event.namespace,
                event.source,
                event.subject,
                event.type,
                event.id,
                event.time,
                delivery or facts["delivery"],
                facts["repository"],
                facts["ref"],
                facts["sha"],
                dump(event.data),
                json.dumps(sensors),
            ),
        )

    def _prune(self, state: str, kept: int) -> None:
        self.store.db.execute(
            "DELETE FROM bus_events WHERE state=? AND seq <= (SELECT seq FROM bus_events WHERE state=?"
            " ORDER BY seq DESC LIMIT 1 OFFSET ?)",
            (state, state, kept),
        )


def summary(verdict: Verdict) -> dict[str, Any]:
    """A verdict for the record: without the Workflow's body."""
    out = asdict(verdict)
    del out["workflow"]
    return out


def history(
    store: Store, *, sha: str = "", delivery: str = "", state: str = "", limit: int = 100
) -> list[dict[str, Any]]:
    """What became of events, newest first; of one commit (a prefix will do) or delivery if given. For `trace`.

    Each has seq, state (waiting, done, refused), namespace, source, event, type, id, time, delivery, repository, ref,
    sha; `refused` with why, or `sensors`: the verdicts, with `created` (namespace/name) or `error` of those that fired.
    """
    create_tables(store)
    rows = store.db.execute(
        f"SELECT {', '.join(_COLUMNS)}, sensors FROM bus_events WHERE substr(sha, 1, length(?1)) = ?1"  # noqa: S608 - constants
        " AND (?2 = '' OR delivery = ?2) AND (?3 = '' OR state = ?3) ORDER BY seq DESC LIMIT ?4",
        (sha, delivery, state, limit),
    ).fetchall()
    out = []
    for row in rows:
        entry, decided = dict(zip(_COLUMNS, row[:-1], strict=True)), json.loads(row[-1])
        out.append(entry | (decided if isinstance(decided, dict) else {"sensors": decided}))
    return out


def create_tables(store: Store) -> None:
    for statement in _SCHEMA.split(";"):  # executescript would commit a transaction in progress
        store.db.execute(statement)
