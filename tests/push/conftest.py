"""Solo for the tests of whole pushes: one each, or one for a module."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from push_harness import ROOT, YARD, Platform, Work


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    found = Platform(tmp_path / "home")
    found.up()
    yield found
    found.down()
    subprocess.run([YARD, "solo", "down", "--home", str(found.home)], cwd=ROOT, capture_output=True, check=False)


@pytest.fixture
def work(platform: Platform, tmp_path: Path) -> Work:
    return Work(platform, tmp_path / "work")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Platform, Work]]:
    """One solo for the tests that release nothing."""
    folder = tmp_path_factory.mktemp("shared")
    found = Platform(folder / "home")
    found.up()
    yield found, Work(found, folder / "work")
    found.down()
