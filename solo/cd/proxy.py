"""A TCP connection through solo: one side from the client, one to a pod, bytes and half-closes passed on as they come.

Protocols and transports rather than streams: nothing is copied into a second buffer and no task runs per byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import struct
from collections.abc import Callable, Sequence
from typing import cast

Address = tuple[str, int]

HOLD = 1.0  # how long a connection waits for a pod that can take it
RETRY = 0.05  # a pod that just died still counts as ready until somebody notices
CONNECT = 3.0


class Side(asyncio.Protocol):
    """One end; what arrives here goes to `peer`."""

    transport: asyncio.Transport
    peer: Side

    def __init__(self) -> None:
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.peer.transport.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        if not self.peer.transport.is_closing():
            with contextlib.suppress(OSError):  # the other side has just vanished; connection_lost follows
                self.peer.transport.write_eof()
        if self.peer.ended:
            self.peer.transport.close()
        # an open half must stay open: a client may say all it has to say before it listens
        return not self.peer.ended

    def pause_writing(self) -> None:
        self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        # a reset must arrive as a reset: a clean end would make half an answer look whole
        if exc is None:
            self.peer.transport.close()
        else:
            reset(self.peer.transport)


def reset(transport: asyncio.Transport) -> None:
    """Close with RST."""
    with contextlib.suppress(OSError):  # closed already
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Client(Side):
    """The client's end: finds a pod first, and reads nothing until it has one."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self._backend = backend
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()
        self._backend.clients.add(self)
        self._task = asyncio.get_running_loop().create_task(self._connect())

    def connection_lost(self, exc: Exception | None) -> None:
        self._backend.clients.discard(self)
        if self._task is not None:
            self._task.cancel()
        if hasattr(self, "peer"):
            super().connection_lost(exc)

    async def _connect(self) -> None:
        peer = await self._backend.connect(self)
        self._task = None
        if peer is None:
            self._backend.clients.discard(self)
            self._refuse()
        elif self.transport.is_closing():
            peer.transport.close()
        else:
            self.peer = peer
            self.transport.resume_reading()

    def _refuse(self) -> None:
        body = json.dumps({"error": self._backend.why()}).encode() + b"\n"
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        # closing while the request is unread would reset the connection and lose the answer on its way
        self.transport.set_protocol(_Drain(self.transport))
        self.transport.write(head.encode() + body)
        self.transport.write_eof()
        self.transport.resume_reading()


class _Drain(asyncio.Protocol):
    """Reads what a refused client still sends, for a moment, and closes."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._timer = asyncio.get_running_loop().call_later(HOLD, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()


class Backend:
    """Where the connections of one Service port go."""

    def __init__(self, endpoints: Callable[[], Sequence[Address]], why: Callable[[], str]) -> None:
        self._endpoints, self.why = endpoints, why
        self.clients: set[Client] = set()
        self._turn = itertools.count()
        self._waiting: set[asyncio.Future[None]] = set()

    def changed(self) -> None:
        """There may be other endpoints now."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def connect(self, client: Side) -> Side | None:
        """A connection to the next endpoint that takes one; None if none did within `HOLD` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HOLD
        while True:
            endpoints = self._endpoints()
            first = next(self._turn)
            for index in range(len(endpoints)):
                host, port = endpoints[(first + index) % len(endpoints)]
                with contextlib.suppress(OSError, TimeoutError):
                    return await self._open(client, host, port)
            left = deadline - loop.time()
            if left <= 0:
                return None
            await self._change(min(left, RETRY) if endpoints else left)

    async def _open(self, client: Side, host: str, port: int) -> Side:
        side = Side()
        side.peer = client
        async with asyncio.timeout(CONNECT):
            await asyncio.get_running_loop().create_connection(lambda: side, host, port)
        return side

    async def _change(self, seconds: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=seconds)
        finally:
            self._waiting.discard(waiter)
