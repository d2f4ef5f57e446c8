"""gate: the step that decides. No is the default: what cannot be read or computed is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, TypedDict

from pipelines import config as contract
from pipelines.errors import Exit
from pipelines.gate import decide
from pipelines.registry import open_registry
from pipelines.steps._step import InputPath, StepFailedError, step


class Decided(TypedDict):
    decision: str


@step
def gate(*, service: str, sha: str, workflow: str, owner: str, config: str, report: InputPath) -> Decided:
    """Compare `report/metrics.json` with the thresholds of mlops.yaml.

    A refusal is kept as a run record, is handed over as output `decision`, and exits with REFUSED.
    """
    found = contract.Config.model_validate_json(config)
    try:
        metrics: Any = json.loads((report / "metrics.json").read_text())
    except (OSError, ValueError, RecursionError) as error:
        metrics = {"unreadable": str(error)}
    decision = decide(found.gate, metrics)
    text = decision.model_dump_json()
    for line in decision.summary:
        print(line)
    if not decision.accepted:
        evidence = {"decision.json": text, "metrics.json": json.dumps(metrics), "config.json": config}
        open_registry().write_run(
            workflow,
            {name: content.encode() for name, content in evidence.items()},
            {"service": service, "sha": sha, "workflow": workflow, "uid": owner, "outcome": "refused"},
            datetime.now(UTC),
        )
        raise StepFailedError("the gate refused this model", results={"decision": text}, code=Exit.REFUSED)
    return {"decision": text}
