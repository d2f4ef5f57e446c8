"""What solo adds to a step: the first after a submit, and a chain of trivial ones; beside `bash` starting `python`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

import psutil

from bench.machine import Machine

STEPS = 20
COMMAND = f"{sys.executable} -c pass"


def run(machine: Machine) -> None:
    """Print the table."""
    floor = statistics.median(_timed(lambda: subprocess.run(["bash", "-c", COMMAND], check=True)) for _ in range(STEPS))
    first = statistics.median(_first(machine) for _ in range(5))
    chain = statistics.median(_chain(machine) for _ in range(3)) / STEPS
    memory = psutil.Process(machine.state["pid"]).memory_info().rss / 2**20
    print(f"\n{'trivial step':<44}{'ms':>8}")
    print(f"{'  bash starts python -c pass (the floor)':<44}{floor * 1000:8.1f}")
    print(f"{f'  one of {STEPS} in a row, in a Workflow':<44}{chain * 1000:8.1f}  {chain / floor:.2f} × the floor")
    print(f"{'  beyond the floor':<44}{(chain - floor) * 1000:8.1f}")
    print(f"{'  from submit to the first step running':<44}{first * 1000:8.1f}")
    print(f"{'memory of the solo process, MiB':<44}{memory:8.1f}")


def _workflow(count: int, command: str) -> dict[str, Any]:
    names = [f"s{index:02}" for index in range(count)]
    tasks = [
        {"name": name, "template": "step", **({"depends": names[index - 1]} if index else {})}
        for index, name in enumerate(names)
    ]
    container = {"image": "debian", "command": ["bash", "-c"], "args": [command]}
    return {
        "metadata": {"generateName": "bench-", "labels": {"bench": "1"}},
        "spec": {
            "entrypoint": "main",
            "templates": [{"name": "main", "dag": {"tasks": tasks}}, {"name": "step", "container": container}],
        },
    }


def _first(machine: Machine) -> float:
    """Seconds from the submit until the step's own command runs: it writes the time."""
    begun = time.time()
    name = _submit(machine, _workflow(1, "date +%s.%N"))
    _wait(machine, name)
    with machine.http.stream(
        "GET", f"/api/v1/workflows/mlops/{name}/log", params={"logOptions.container": "main"}
    ) as lines:
        import json

        return float(json.loads(next(lines.iter_lines()))["result"]["content"]) - begun


def _chain(machine: Machine) -> float:
    begun = time.monotonic()
    _wait(machine, _submit(machine, _workflow(STEPS, COMMAND)))
    return time.monotonic() - begun


def _submit(machine: Machine, workflow: dict[str, Any]) -> str:
    answer = machine.http.post("/api/v1/workflows/mlops", json={"workflow": workflow})
    answer.raise_for_status()
    return str(answer.json()["metadata"]["name"])


def _wait(machine: Machine, name: str) -> None:
    with machine.http.stream(
        "GET", "/api/v1/workflow-events/mlops", params={"listOptions.fieldSelector": f"metadata.name={name}"}
    ) as events:
        import json

        for line in events.iter_lines():
            if line.startswith("data: "):
                phase = json.loads(line[6:])["result"]["object"].get("status", {}).get("phase")
                if phase in ("Succeeded", "Failed", "Error"):
                    assert phase == "Succeeded", name
                    return


def _timed(call: Any) -> float:
    begun = time.monotonic()
    call()
    return time.monotonic() - begun
