"""Runs every benchmark and prints one table each. Never a test: nothing here fails on a number."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench import push, solo
from bench.machine import Machine, describe

if __name__ == "__main__":
    print(describe())
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, Machine(Path(folder) / "solo") as machine:
        push.run(machine, Path(folder))
        solo.run(machine)
    from bench import serving

    serving.main([])
