"""Fixtures of the tests about events."""

import pytest
from event_world import World


@pytest.fixture
def world():
    return World()
