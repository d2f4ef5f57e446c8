"""Servers of the tiny models, which end with the tests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny import Server, bundle, launch, wait_ready


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers: `start(model="linear", LIMIT_ROWS="3")`; they end with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(model: str = "linear", **env: str) -> Server:
        directory = tmp_path / str(len(started))
        started.append(launch(bundle(directory, model), **env))
        return Server(started[-1], wait_ready(started[-1]))

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server of `linear` for tests that only ask it."""
    env = {"MODEL_VERSION": "3", "LOCK": "sha256:aa", "LIMIT_BODY": "4096", "LIMIT_ROWS": "20"}
    process = launch(bundle(tmp_path_factory.mktemp("served")), **env)
    try:
        yield Server(process, wait_ready(process))
    finally:
        process.kill()
        process.communicate()
