"""The work queue under every loop of this package: keys that need another look.

A key waits at most once, is never looked at twice at a time, and is looked at again if asked for meanwhile: twenty
events about one object cost one or two looks. Nothing here is kept: after a restart every loop begins with all keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from solo.store import Change, Store

K = TypeVar("K")
LOG = logging.getLogger(__name__)


class Work(Generic[K]):
    """Keys to look at, now or later."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: set[K] = set()
        self._busy: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}

    def add(self, key: K) -> None:
        """Look at `key` as soon as possible."""
        if key not in self._waiting:
            self._waiting.add(key)
            if key not in self._busy:
                self._queue.put_nowait(key)

    def add_later(self, key: K, seconds: float | None) -> None:
        """Look at `key` after this many seconds (None: not by the clock); forgets what was asked for earlier."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if seconds is not None:
            self._timers[key] = asyncio.get_running_loop().call_later(max(0.0, seconds), self.add, key)

    async def run(self, look: Callable[[K], Awaitable[None]], *, workers: int = 1) -> None:
        """Call `look` for one key after the other, for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._work(look))
        finally:
            for timer in self._timers.values():
                timer.cancel()

    async def _work(self, look: Callable[[K], Awaitable[None]]) -> None:
        while True:
            key = await self._queue.get()
            self._waiting.discard(key)
            self._busy.add(key)
            try:
                await look(key)
                self._failures.pop(key, None)
            except Exception:
                # one object that trips over a bug must not stop the others
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                LOG.exception("a bug: %s failed; trying again", key)
                self.add_later(key, min(2.0**failures, 60.0))
            finally:
                self._busy.discard(key)
                if key in self._waiting:
                    self._queue.put_nowait(key)


@contextlib.asynccontextmanager
async def following(store: Store, handlers: Mapping[str, Callable[[Change], None]]) -> AsyncIterator[None]:
    """Calls a kind's handler for each later change of it. Subscribed before the body runs, so list inside of it."""
    queues = {kind: store.subscribe(kind) for kind in handlers}

    async def follow(kind: str) -> None:
        while True:
            change = await queues[kind].get()
            try:
                handlers[kind](change)
            except Exception:
                LOG.exception("a bug: a change of %s %s was not noticed", kind, change.object["metadata"]["name"])

    tasks = [asyncio.create_task(follow(kind)) for kind in handlers]
    try:
        yield
    finally:
        for queue in queues.values():
            store.unsubscribe(queue)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
