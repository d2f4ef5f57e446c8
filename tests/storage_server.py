"""The emulator in a thread of the test, on a port of its own, with faults to order; see the fixtures in conftest.py."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage as gcs
from google.oauth2.credentials import Credentials

from solo.storage import Storage, app

# the client would otherwise read the bucket in the background, and faults would hit that request
os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")


@contextmanager
def serve(asgi):
    """Run an ASGI app; gives its address. Requests made before it is up wait in the listener's queue."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as in solo/storage/__main__.py
    config = uvicorn.Config(asgi, log_level="critical", lifespan="off", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@dataclass
class Fault:
    """What happens to the next `times` requests with this method and `path` in their path, after the first `skip`.

    before: 503, nothing done · after: done, then 503 · lost: done, then the connection breaks · full: 507, nothing done
    · corrupt: one byte of the answer is wrong
    """

    kind: str
    method: str
    path: str = ""
    times: int = 1
    skip: int = 0
    hits: int = 0


@dataclass
class Faults:
    """ASGI middleware in front of the emulator. `requests` is what came by, as (method, path)."""

    inner: object
    plan: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def order(self, kind, method, path="", times=1, skip=0):
        fault = Fault(kind, method, path, times, skip)
        self.plan.append(fault)
        return fault

    def clear(self):
        self.plan.clear()
        self.requests.clear()

    def _take(self, scope):
        self.requests.append((scope["method"], scope["raw_path"].decode()))
        for fault in self.plan:
            if fault.method == scope["method"] and fault.path in scope["raw_path"].decode() and fault.times:
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                fault.hits += 1
                return fault.kind
        return None

    async def __call__(self, scope, receive, send):
        kind = self._take(scope)
        if kind is None:
            await self.inner(scope, receive, send)
        elif kind in ("before", "full"):
            while (await receive()).get("more_body"):
                pass
            await self._answer(send, 503 if kind == "before" else 507)
        elif kind == "corrupt":
            await self.inner(scope, receive, _Corrupter(send))
        else:
            sent = []

            async def swallow(message):
                sent.append(message)

            await self.inner(scope, receive, swallow)
            assert sent[0]["status"] < 500
            if kind == "after":
                await self._answer(send, 503)
            else:
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9999")]})

    async def _answer(self, send, status):
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"oops"})


class _Corrupter:
    def __init__(self, send):
        self.send = send

    async def __call__(self, message):
        if message["type"] == "http.response.body" and message.get("body"):
            message = {**message, "body": bytes([message["body"][0] ^ 1]) + message["body"][1:]}
        await self.send(message)


@dataclass
class StorageServer:
    """`url` for clients; `storage` is the same store in-process; `tokens` may be changed while it runs."""

    url: str
    storage: Storage
    tokens: dict
    faults: Faults

    def client(self, token=None):
        """The real client. Without a token it is anonymous."""
        credentials = Credentials(token) if token else AnonymousCredentials()
        options = ClientOptions(api_endpoint=self.url)
        return gcs.Client(project="test", credentials=credentials, client_options=options)


@contextmanager
def storage_server(home):
    """A server on a directory; the same directory can be served again afterwards."""
    storage = Storage(home)
    tokens = {}
    faults = Faults(app(storage, tokens))
    try:
        with serve(faults) as url:
            yield StorageServer(url, storage, tokens, faults)
    finally:
        storage.close()
