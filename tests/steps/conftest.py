"""A platform around the steps: real repositories, the real storage emulator, one HTTP server for the rest."""

from __future__ import annotations

import pytest
from step_world import World, http_world

from pipelines.registry import open_registry


@pytest.fixture
def registry(storage_server, bucket, monkeypatch):
    monkeypatch.setenv("STORAGE_URL", storage_server.url)
    monkeypatch.setenv("REGISTRY_BUCKET", bucket)
    monkeypatch.delenv("REGISTRY_CREDENTIALS", raising=False)
    return open_registry(deadline=5.0)


@pytest.fixture
def web(monkeypatch):
    """Kubernetes, the event bus and the deployed services, at one address; see `step_world.Web`."""
    monkeypatch.setattr("pipelines.steps._http.PAUSE", 0.001)
    with http_world() as web:
        monkeypatch.setenv("KUBERNETES_URL", web.url)
        monkeypatch.setenv("EVENTS_URL", web.url)
        monkeypatch.setenv("SERVING_URL", web.url + "/{service}/{namespace}")
        yield web


@pytest.fixture
def world(registry, tmp_path, monkeypatch):
    """The repositories acme/digits, acme/iris and acme/releases, and a registry; see `step_world.World`."""
    for name, value in {
        "GIT_URL": f"file://{tmp_path}/host",
        "RELEASES_REPO": "acme/releases",
        "BOT_NAME": "trainyard",
        "BOT_EMAIL": "bot@example.com",
        "PIPELINES_IMAGE": "pipelines:1",
        "SERVING_IMAGE": "serving:1",
        "PLATFORM_VERSION": "1",
        "TEMPLATES_DIGEST": "sha256:" + "0" * 64,
        "TMPDIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    return World(tmp_path, registry)
