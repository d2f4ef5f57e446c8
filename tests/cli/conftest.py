"""`yard` as a user runs it, against a server of the test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from fake_argo import Fake, serve

from pipelines.cli import main

ROOT = Path(__file__).parents[2]


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def yard(capsys, monkeypatch):
    """Runs one command line in this process; how the developer reaches a cluster of theirs does not matter."""
    for name in ("ARGO_TOKEN", "ARGO_INSECURE_SKIP_VERIFY", "KUBERNETES_TOKEN", "TRAINYARD_PLATFORM"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["yard", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Said(int(ended.value.code), captured.out, captured.err)

    return run


@pytest.fixture
def argo(monkeypatch):
    """A server that ARGO_SERVER names."""
    fake = Fake()
    with serve(fake) as url:
        monkeypatch.setenv("ARGO_SERVER", url)
        monkeypatch.setenv("KUBERNETES_URL", url)
        fake.url = url
        yield fake


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A directory outside any checkout, with no platform running."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARGO_SERVER", raising=False)
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    return tmp_path
