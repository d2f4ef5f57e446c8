"""A solo on free ports for a benchmark, and what machine this is."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
YARD = str(Path(sys.executable).with_name("yard"))
END = ("Succeeded", "Failed", "Error")


class Machine:
    """`with Machine(home)`: started on entry (`start` is how long that took, in seconds), stopped on exit."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __enter__(self) -> Machine:
        begun = time.monotonic()
        command = [YARD, "solo", "up", "--any-port", "--home", str(self.home)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        self.start = time.monotonic() - begun
        self.state: dict[str, Any] = json.loads((self.home / "solo.json").read_text())
        self.endpoints: dict[str, str] = self.state["endpoints"]
        self.http = httpx.Client(base_url=self.endpoints["ARGO_URL"], timeout=30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.http.close()
        subprocess.run([YARD, "solo", "down", "--home", str(self.home)], check=True, stdout=subprocess.DEVNULL)

    def ended(self, selector: str, count: int = 1) -> list[dict[str, Any]]:
        """Workflows with these labels when `count` of them have ended."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            items = self.http.get("/api/v1/workflows/", params={"listOptions.labelSelector": selector}).json()["items"]
            done: list[dict[str, Any]] = [item for item in items if item.get("status", {}).get("phase") in END]
            if len(done) >= count:
                return done
            time.sleep(0.02)
        raise SystemExit(f"no {count} ended run(s) with {selector} in 300 s: `yard runs` tells why")


def describe() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {platform.system()}"
