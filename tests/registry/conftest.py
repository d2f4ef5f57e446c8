from __future__ import annotations

import pytest

from pipelines.registry import open_registry


@pytest.fixture
def registry(storage_server, bucket):
    """A registry on an empty bucket; gives up after a second instead of thirty."""
    return open_registry({"STORAGE_URL": storage_server.url, "REGISTRY_BUCKET": bucket}, deadline=1.0)


@pytest.fixture
def faults(storage_server):
    return storage_server.faults
