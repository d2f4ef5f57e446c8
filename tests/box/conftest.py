"""A machine that is a folder, and a server with k3s' files."""

from __future__ import annotations

import http.server
import os
import threading
from functools import partial

import pytest
from box_world import World


@pytest.fixture
def world(tmp_path, monkeypatch):
    made = World(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("K3S_TOKEN", "of another cluster")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("TRAINYARD_PLATFORM", raising=False)
    monkeypatch.chdir(made.checkout)
    return made


@pytest.fixture
def address(world):
    """The folder of k3s' files, served over HTTP."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(world.files))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
