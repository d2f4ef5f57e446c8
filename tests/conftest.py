"""Fixtures that several areas share."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import settings

settings.register_profile("trainyard", deadline=None)  # how fast an example is depends on what else the machine does
settings.load_profile("trainyard")


@pytest.fixture(scope="session")
def _storage_server(tmp_path_factory):
    from storage_server import storage_server

    with storage_server(tmp_path_factory.mktemp("storage")) as server:
        yield server


@pytest.fixture
def storage_server(_storage_server):
    """The object store (tests/storage_server.py), one for a worker's tests; faults and tokens end with the test."""
    yield _storage_server
    _storage_server.faults.clear()
    _storage_server.tokens.clear()


@pytest.fixture
def bucket(storage_server):
    """The name of a new, empty bucket, open to everyone."""
    name = f"test-{uuid.uuid4().hex}"
    storage_server.storage.create_bucket(name)
    return name
