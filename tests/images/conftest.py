from __future__ import annotations

import hashlib

import pytest
from image_world import REGISTRIES, registry


@pytest.fixture(scope="module", params=REGISTRIES)
def _registry(request, tmp_path_factory):
    with registry(request.param, tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def hub(_registry, monkeypatch):
    """A registry as the steps' environment names it; each kind in turn."""
    for name, value in _registry.env.items():
        monkeypatch.setenv(name, value)
    return _registry


@pytest.fixture
def repository(hub, request):
    """A repository of its own for each test."""
    return hub.repository(name_of(request))


@pytest.fixture
def name(request):
    """The repository's name without the registry's part."""
    return name_of(request)


def name_of(request):
    return f"acme/{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:20]}"
