"""From the outbox to the EventSources: each push is posted, signed, until every target has answered.

At least once: a file goes only after the last answer is recorded, so a crash in between sends the same delivery id
again, and whoever receives it must be able to see that. 2xx and 4xx are answers; refused connections and 5xx are tried
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from solo.git.hook import POKE
from solo.store import Store, now

KEPT = 1000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_SCHEMA = """CREATE TABLE IF NOT EXISTS git_deliveries (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, delivery TEXT NOT NULL, repository TEXT NOT NULL, ref TEXT NOT NULL,
  before TEXT NOT NULL, after TEXT NOT NULL, url TEXT NOT NULL, status INTEGER NOT NULL, answer TEXT NOT NULL,
  time TEXT NOT NULL, UNIQUE (delivery, url))"""
_COLUMNS = ["delivery", "repository", "ref", "before", "after", "url", "status", "answer", "time"]

log = logging.getLogger(__name__)


class Deliverer:
    """`targets` says whom a push of `owner/name` concerns now: (url, secret to sign with, or ""); nobody is fine."""

    def __init__(self, home: Path, store: Store, targets: Callable[[str], Sequence[tuple[str, str]]]) -> None:
        self.home, self.store, self.targets = home, store, targets
        self._poked = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        store.db.execute(_SCHEMA)

    async def run(self) -> None:
        """Deliver for ever, beginning with what was pushed while nobody looked."""
        outbox, fifo = self.home / "outbox", self.home / POKE
        outbox.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(fifo, 0o600)
        # open for writing too: so it never ends when a hook closes its side
        end = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        loop = asyncio.get_running_loop()
        loop.add_reader(end, self._hear, end)
        try:
            async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
                while True:
                    self._poked.clear()
                    for path in sorted(outbox.glob("[0-9]*.json")):
                        if path.name not in self._tasks:
                            self._begin(path, client)
                    await self._poked.wait()
        finally:
            loop.remove_reader(end)
            os.close(end)
            for task in self._tasks.values():
                task.cancel()

    def _hear(self, end: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(end, 65536)
        self._poked.set()

    def _begin(self, path: Path, client: httpx.AsyncClient) -> None:
        task = asyncio.create_task(self._deliver(path, client))
        self._tasks[path.name] = task
        task.add_done_callback(lambda done: self._end(path.name, done))

    def _end(self, name: str, task: asyncio.Task[None]) -> None:
        del self._tasks[name]
        if not task.cancelled() and (error := task.exception()):
            log.error("delivery %s stays in the outbox", name, exc_info=error)

    async def _deliver(self, path: Path, client: httpx.AsyncClient) -> None:
        try:
            delivery = json.loads(path.read_text())
            repository = delivery["payload"]["repository"]["full_name"]
        except (ValueError, KeyError, TypeError) as error:
            log.error("%s is no delivery: %r", path, error)
            path.rename(path.with_suffix(".broken"))
            return
        targets = self.targets(repository)
        await asyncio.gather(*(self._post(delivery, url, secret, client) for url, secret in targets))
        if not targets:
            self._record(delivery, "", 0, "no EventSource asks for this repository")
        path.unlink()

    async def _post(self, delivery: dict[str, Any], url: str, secret: str, client: httpx.AsyncClient) -> None:
        if self._answered(delivery["delivery"], url):
            return
        body = json.dumps(delivery["payload"]).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "GitHub-Hookshot/solo",
            "X-GitHub-Event": delivery["event"],
            "X-GitHub-Delivery": delivery["delivery"],
        }
        if secret:
            for header, algorithm in (("X-Hub-Signature-256", hashlib.sha256), ("X-Hub-Signature", hashlib.sha1)):
                digest = hmac.new(secret.encode(), body, algorithm)
                headers[header] = f"{digest.name.removeprefix('hmac-')}={digest.hexdigest()}"
        pause = _FIRST_PAUSE
        while True:
            try:
                answer = await client.post(url, content=body, headers=headers)
            except httpx.TransportError as error:
                log.debug("%s: %r", url, error)
            else:
                if answer.status_code < 500:
                    self._record(delivery, url, answer.status_code, answer.text[:300])
                    return
                log.warning("%s: %s %s", url, answer.status_code, answer.text[:200])
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _answered(self, delivery: str, url: str) -> bool:
        query = "SELECT 1 FROM git_deliveries WHERE delivery=? AND url=?"
        return self.store.db.execute(query, (delivery, url)).fetchone() is not None

    def _record(self, delivery: dict[str, Any], url: str, status: int, answer: str) -> None:
        push = delivery["payload"]
        place = (delivery["delivery"], push["repository"]["full_name"], push["ref"], push["before"], push["after"])
        with self.store.transaction():
            self.store.db.execute(
                f"INSERT OR REPLACE INTO git_deliveries ({', '.join(_COLUMNS)}) VALUES (?,?,?,?,?,?,?,?,?)",  # noqa: S608
                (*place, url, status, answer, now()),
            )
            self.store.db.execute(
                "DELETE FROM git_deliveries WHERE seq <= (SELECT max(seq) FROM git_deliveries) - ?", (KEPT,)
            )


def deliveries(store: Store, *, sha: str = "", limit: int = 100) -> list[dict[str, Any]]:
    """What became of pushes, newest first (of one commit if given; a prefix will do): who answered what.

    `status` is the HTTP status, or 0 with an empty `url` if nobody wanted the push.
    """
    store.db.execute(_SCHEMA)
    rows = store.db.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM git_deliveries WHERE substr(after, 1, length(?1)) = ?1"  # noqa: S608
        " ORDER BY seq DESC LIMIT ?2",
        (sha, limit),
    )
    return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
