"""evaluate: measure the candidate on the held-out part, through the code that will serve it, beside the model that
serves now.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, TypedDict

from pipelines.errors import Exit, YardError
from pipelines.evaluate import load_split, scores
from pipelines.registry import open_registry
from pipelines.serving.bundle import load_bundle, make_bundle
from pipelines.serving.model import Model
from pipelines.steps._step import InputPath, OutputPath, step

GOLDEN_ROWS = 4


class Metrics(TypedDict):
    metrics: str


@step
def evaluate(
    *, service: str, serving: str, features: InputPath, model: InputPath, bundle: OutputPath, report: OutputPath
) -> Metrics:
    """Make the serving bundle from `model/model.onnx`, load it as the server would, and score it on `test.npz`.

    `serving` is the lock of the model that serves ("" = none): it is scored on the same rows, for the paired
    comparison. If it cannot be, the report says why, and the gate decides whether that matters.
    """
    x, y, slices = load_split(features / "test.npz")
    labels = sorted({str(label) for label in load_split(features / "train.npz")[1]})
    make_bundle(bundle, model / "model.onnx", x[:GOLDEN_ROWS], labels, name=service)
    candidate = load_bundle(bundle)
    predicted, probabilities = candidate.predict(x)
    found: dict[str, Any] = dict(scores(y, predicted, probabilities, candidate.labels, {"label": y, **slices}))
    found["serving"] = _beside(serving, x, y, predicted) if serving else None
    text = json.dumps(found, sort_keys=True)
    report.mkdir(parents=True)
    (report / "metrics.json").write_text(text + "\n")
    print(json.dumps({"samples": found["samples"], **found["metrics"], "serving": found["serving"]}))
    return {"metrics": text}


def _beside(lock: str, x: Any, y: Any, predicted: Any) -> dict[str, Any]:
    """The serving model on the same rows; `{lock, error}` if it cannot take them: other columns, other classes."""
    try:
        model = _served(lock)
        theirs, probabilities = model.predict(x)
        measured = scores(y, theirs, probabilities, model.labels, {})["metrics"]
    except YardError as error:
        if error.code == Exit.UNAVAILABLE:  # the store: trying again may help
            raise
        print(f"the serving model {lock} cannot be scored on these rows: {error}")
        return {"lock": lock, "error": error.what}
    truth = [str(label) for label in y]
    right = [str(a) == t for a, t in zip(predicted, truth, strict=True)]
    right_there = [str(a) == t for a, t in zip(theirs, truth, strict=True)]
    return {
        "lock": lock,
        "metrics": measured,
        "samples": len(truth),
        "wins": sum(a and not b for a, b in zip(right, right_there, strict=True)),
        "losses": sum(b and not a for a, b in zip(right, right_there, strict=True)),
    }


def _served(lock: str) -> Model:
    registry = open_registry()
    digest = registry.get_lock(lock).versions["model"].digest
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        registry.fetch_tree(digest, Path(directory) / "bundle")
        return load_bundle(Path(directory) / "bundle")
