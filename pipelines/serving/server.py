"""The process around the application: listens once the model is verified, and leaves without dropping a request.

On SIGTERM it is not ready any more, at once; for a few seconds it goes on answering, since whoever sends requests here
hears of it later, and tells each client to close its connection; then it finishes what is in flight and exits 0.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from pipelines.errors import Exit, YardError
from pipelines.serving.app import Service

QUIET = 0.5  # seconds without a connection after which nobody can be left to wait for
LAST_REQUESTS = 20  # seconds for requests in flight; less than the pod's grace period


def serve(service: Service, host: str, port: int, drain: float) -> None:
    """Run until SIGTERM or SIGINT. Raises YardError(UNAVAILABLE) if the port is taken."""
    listener = listen(host, port)
    # no access log: /metrics counts, and a log line a request costs as much as a prediction
    config = uvicorn.Config(
        service.app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=LAST_REQUESTS,
    )
    address = f"[{host}]" if ":" in host else host
    ready = f"serving {service.settings.name} on http://{address}:{listener.getsockname()[1]}"
    asyncio.run(_Server(config, service, drain, ready).serve([listener]))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 = any. Raises YardError(UNAVAILABLE) if it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise YardError(
            f"cannot listen: {error.strerror or error}",
            where=f"{host}:{port}",
            todo="set PORT to a free one (0 = any), HOST to an address of this machine",
            code=Exit.UNAVAILABLE,
        ) from None
    # Connections inherit it. asyncio sets it only on sockets it made, and without it each answer waits 40 ms for an ACK
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service, drain: float, ready: str) -> None:
        super().__init__(config)
        self._service, self._drain, self._ready = service, drain, ready
        self._leaving: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Instead of uvicorn's own, which stop listening at once and end the process by the signal."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._ready, flush=True)

    def _leave(self) -> None:
        self._service.draining = True
        if self._leaving:  # asked twice: now
            self.should_exit = True
        else:
            self._leaving = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._drain
        quiet = loop.time() + QUIET
        while loop.time() < min(end, quiet):
            if self.server_state.connections:
                quiet = loop.time() + QUIET
            await asyncio.sleep(0.02)
        self.should_exit = True
