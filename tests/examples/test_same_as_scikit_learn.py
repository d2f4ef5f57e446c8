"""What the platform computes with numpy alone, and what was made with other tools, beside the original."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluate import scores

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parents[1] / "serving" / "models"
ORIGINAL = """
import json, sys, numpy as np
from sklearn.metrics import accuracy_score, f1_score, log_loss
found = []
for path in sys.argv[1:]:
    case = np.load(path)
    truth, told, p = case["truth"], case["told"], case["p"]
    found.append({
        "accuracy": accuracy_score(truth, told),
        "macro_f1": f1_score(truth, told, average="macro", zero_division=0),
        "log_loss": log_loss(truth, p, labels=list(range(p.shape[1]))),
    })
print(json.dumps(found))
"""


def test_the_metrics_are_those_of_scikit_learn(digits_python: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    cases = []
    for number in range(12):
        rows, classes = int(random.integers(1, 300)), int(random.integers(2, 12))
        kind = np.float32 if number % 2 else np.float64
        p = random.dirichlet(np.full(classes, 0.02 if number % 3 else 1), rows).astype(kind)
        truth = random.integers(0, classes, rows)
        cases.append((truth, np.where(random.random(rows) < 0.5, truth, p.argmax(axis=1)), p))
        np.savez(tmp_path / f"{number}.npz", truth=truth, told=cases[-1][1], p=p)
    paths = [tmp_path / f"{number}.npz" for number in range(len(cases))]
    ran = subprocess.run([digits_python, "-c", ORIGINAL, *paths], check=True, capture_output=True, text=True)
    for (truth, told, p), original in zip(cases, json.loads(ran.stdout), strict=True):
        ours = scores(truth, told, p, [str(label) for label in range(p.shape[1])], {})["metrics"]
        assert ours == pytest.approx(original, rel=1e-5)


def test_the_committed_test_models_are_what_their_script_makes(digits_python: Path, tmp_path: Path) -> None:
    subprocess.run([digits_python, MODELS / "make.py", tmp_path], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.glob("*.onnx")}
    assert made == {path.name: path.read_bytes() for path in MODELS.glob("*.onnx")}
