"""Fixtures of the tests about the git host."""

import pytest
from git_world import Checkout

from solo.git import create_repo


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    create_repo(tmp_path / "home", "acme/digits")
    return tmp_path / "home"


@pytest.fixture
def checkout(home, tmp_path):
    return Checkout(home, tmp_path / "checkout")
