"""The web application: Open Inference Protocol v2 (REST) for one model, with health, metrics and limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines import __version__
from pipelines.errors import YardError
from pipelines.serving.metrics import Metrics
from pipelines.serving.model import Model
from pipelines.serving.protocol import RequestError, parse, render

# Up to this many rows are predicted on the event loop: a hop to a thread and back costs more than they do
INLINE_ROWS = 64
# A body too large is read to its end, if that is near, and dropped: who still sends does not hear the answer
PATIENCE = 8
BODY_SECONDS = 10.0  # a sender that is slower holds memory for nothing


class Settings(NamedTuple):
    """Who this server says it is, and how much it takes."""

    name: str
    version: str = "1"
    lock: str = ""
    bundle: str = ""
    limit_body: int = 1 << 20
    limit_rows: int = 1024


class Service:
    """The endpoints. `draining` is set once the process is to end: not ready, and each answer closes its connection."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.draining = False
        self._executor = ThreadPoolExecutor(1, "predict")
        self._metrics = Metrics(
            {"name": settings.name, "version": settings.version, "lock": settings.lock, "bundle": settings.bundle}
        )
        self._frame = {
            "model_name": settings.name,
            "model_version": settings.version,
            "parameters": {"lock": settings.lock},
        }
        self.app: ASGIApp = self._closing(
            Starlette(
                routes=self._routes(),
                exception_handlers={RequestError: _refused, HTTPException: _unrouted, Exception: _broken},
            )
        )

    def _routes(self) -> list[Route]:
        model = "/v2/models/{name}"
        version = model + "/versions/{version}"
        return [
            *(Route(path + "/infer", self.infer, methods=["POST"]) for path in (model, version)),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            *(Route(path + "/ready", self.model_ready) for path in (model, version)),
            *(Route(path, self.model_metadata) for path in (model, version)),
            Route("/v2", self.server_metadata),
            Route("/metrics", self.metrics),
        ]

    async def infer(self, request: Request) -> Response:
        started, code, rows = time.perf_counter(), 500, 0
        try:
            self._named(request)
            body = await self._body(request)
            started = time.perf_counter()
            asked = parse(body, self.model, self.settings.limit_rows)
            label, probabilities = await self._predict(asked.rows)
            answer = render(asked, label, probabilities, self.model, self._frame)
            code, rows = 200, len(asked.rows)
            return Response(answer, media_type="application/json")
        except RequestError as error:
            code = error.status
            raise
        except YardError as error:  # the numbers are fine, yet the model has no answer to them
            code = 422
            raise RequestError(code, error.what) from None
        finally:
            self._metrics.count(code, rows, time.perf_counter() - started)

    async def live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, _: Request) -> Response:
        return JSONResponse({"ready": not self.draining}, 503 if self.draining else 200)

    async def model_ready(self, request: Request) -> Response:
        self._named(request)
        return JSONResponse({"name": self.settings.name, "ready": not self.draining}, 503 if self.draining else 200)

    async def server_metadata(self, _: Request) -> Response:
        return JSONResponse({"name": "trainyard", "version": __version__, "extensions": []})

    async def model_metadata(self, request: Request) -> Response:
        self._named(request)
        parameters = {"lock": self.settings.lock, "bundle": self.settings.bundle, "labels": self.model.labels}
        return JSONResponse(
            {
                "name": self.settings.name,
                "versions": [self.settings.version],
                "platform": "onnxruntime_onnx",
                "inputs": [self.model.input._asdict()],
                "outputs": [tensor._asdict() for tensor in self.model.outputs],
                "parameters": parameters,
            }
        )

    async def metrics(self, _: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=1.0.0")

    async def _body(self, request: Request) -> bytes:
        limit = self.settings.limit_body
        too_large = RequestError(413, f"the body is larger than {limit} bytes, the limit of one request")
        declared = int(request.headers.get("content-length", 0))
        if declared > limit and (declared > limit * PATIENCE or "expect" in request.headers):
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    size += len(part)
                    if size <= limit:
                        parts.append(part)
                    elif size > limit * PATIENCE:
                        break
        except TimeoutError:
            raise RequestError(408, f"the body did not arrive within {BODY_SECONDS:.0f} s") from None
        except ClientDisconnect:
            raise RequestError(400, "the body was cut off") from None
        if size > limit:
            raise too_large
        return b"".join(parts)

    async def _predict(self, rows: Any) -> tuple[Any, Any]:
        if len(rows) <= INLINE_ROWS:
            return self.model.predict(rows)
        return await asyncio.get_running_loop().run_in_executor(self._executor, self.model.predict, rows)

    def _named(self, request: Request) -> None:
        wanted = request.path_params
        if wanted["name"] != self.settings.name:
            raise RequestError(404, f"no model {wanted['name']!r} here, only {self.settings.name!r}")
        if wanted.get("version", self.settings.version) != self.settings.version:
            has = self.settings.version
            raise RequestError(404, f"no version {wanted['version']!r} of {wanted['name']!r} here, only {has!r}")

    def _closing(self, app: ASGIApp) -> ASGIApp:
        async def closing(scope: Scope, receive: Receive, send: Send) -> None:
            async def sending(message: Message) -> None:
                # asked for here, not when the request began: it may have waited for its body since
                if self.draining and message["type"] == "http.response.start":
                    message["headers"].append((b"connection", b"close"))
                await send(message)

            await app(scope, receive, sending)

        return closing


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    unread = error.status in (408, 413)
    return _error(error.status, str(error), {"connection": "close"} if unread else None)


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}", error.headers)


async def _broken(_: Request, error: Exception) -> Response:
    return _error(500, "an error of the server; its log has more")
