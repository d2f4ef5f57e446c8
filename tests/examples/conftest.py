"""The environment of examples/digits, installed from its own hashed requirements; made once for all workers."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture(scope="session")
def digits_python(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The interpreter of that environment."""
    requirements = DIGITS / "requirements.txt"
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent
    environment = base / f"digits-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    with (base / "digits.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (environment / "done").exists():
            uv = [sys.executable, "-m", "uv", "--quiet"]
            python = environment / "bin" / "python"
            subprocess.run([*uv, "venv", "--clear", "--python", sys.executable, environment], check=True)
            subprocess.run(
                [*uv, "pip", "install", "--python", python, "--require-hashes", "-r", requirements], check=True
            )
            (environment / "done").touch()
    return environment / "bin" / "python"
