"""Tiny models (models/make.py), bundles of them, requests to them, and the real server in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np

from pipelines.serving.bundle import make_bundle

ROOT = Path(__file__).parents[2]
MODELS = Path(__file__).parent / "models"
GOLDEN = np.array([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 1]], dtype=np.float32)
CLASSES = {"words": ["cat", "dog", "emu"]}


def bundle(directory: Path, model: str = "linear") -> Path:
    """A bundle of one of the tiny models."""
    made = directory / "bundle"
    make_bundle(made, MODELS / f"{model}.onnx", GOLDEN, CLASSES.get(model, ["0", "1", "2"]), name="tiny")
    return made


class Server(NamedTuple):
    """A server process that said it is ready."""

    process: subprocess.Popen[str]
    url: str

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        return url.host, int(url.port or 0)

    def infer(self, rows: Any, **changes: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v2/models/tiny/infer", json=request(rows, **changes))

    def stop(self, deadline: float = 10) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(deadline)


class Answer(NamedTuple):
    """What an application in this process answered."""

    status_code: int
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


class App:
    """An ASGI application without a server around it; its exceptions are raised here, not turned into a 500."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def post(self, path: str, body: bytes | AsyncIterator[bytes]) -> Answer:
        return asyncio.run(self._post(path, body))

    async def _post(self, path: str, body: bytes | AsyncIterator[bytes]) -> Answer:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if isinstance(body, bytes):
                return {"type": "http.request", "body": body}
            return {"type": "http.request", "body": await anext(body), "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", "root_path": ""}
        await self.app(scope, receive, send)
        return Answer(sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]))


def request(rows: Any, **changes: Any) -> dict[str, Any]:
    """An inference request for `rows`; `changes` replace fields of its tensor."""
    tensor = {"name": "X", "datatype": "FP32", "shape": [len(rows), 4], "data": rows, **changes}
    return {"inputs": [tensor]}


def launch(directory: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.serving", "--bundle", str(directory)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PORT": "0", "DRAIN": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_ready(process: subprocess.Popen[str], deadline: float = 20) -> str:
    """The address in the line that the server prints once it listens."""
    assert process.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(deadline) else ""
    assert " on http://" in line, line or (process.kill(), process.communicate())[1]
    return line.split(" on ")[1].strip()
