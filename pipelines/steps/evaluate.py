"""evaluate: measure the candidate on the held-out part, through the code that will serve it, beside the model that
serves now.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, TypedDict

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
    comparison.
    """
    x, y, slices = load_split(features / "test.npz")
    labels = sorted({str(label) for label in load_split(features / "train.npz")[1]}, key=_natural)
    make_bundle(bundle, model / "model.onnx", x[:GOLDEN_ROWS], labels, name=service)
    candidate = load_bundle(bundle)
    predicted, probabilities = candidate.predict(x)
    found: dict[str, Any] = dict(scores(y, predicted, probabilities, candidate.labels, {"label": y, **slices}))
    found["serving"] = None
    if serving:
        found["serving"] = _beside(serving, x, y, slices, predicted)
    text = json.dumps(found, sort_keys=True)
    report.mkdir(parents=True)
    (report / "metrics.json").write_text(text + "\n")
    print(json.dumps({"samples": found["samples"], **found["metrics"], "serving": found["serving"]}))
    return {"metrics": text}


def _beside(lock: str, x: Any, y: Any, slices: Any, predicted: Any) -> dict[str, Any]:
    registry = open_registry()
    digest = registry.get_lock(lock).versions["model"].digest
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        registry.fetch_tree(digest, Path(directory) / "bundle")
        model: Model = load_bundle(Path(directory) / "bundle")
        theirs, probabilities = model.predict(x)
    truth = [str(label) for label in y]
    right = [str(a) == t for a, t in zip(predicted, truth, strict=True)]
    right_there = [str(a) == t for a, t in zip(theirs, truth, strict=True)]
    return {
        "lock": lock,
        "metrics": scores(y, theirs, probabilities, model.labels, {})["metrics"],
        "samples": len(truth),
        "wins": sum(a and not b for a, b in zip(right, right_there, strict=True)),
        "losses": sum(b and not a for a, b in zip(right, right_there, strict=True)),
    }


def _natural(label: str) -> tuple[int, str]:
    return (int(label), "") if label.isdigit() else (1 << 62, label)
