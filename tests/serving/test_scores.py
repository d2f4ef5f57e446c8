"""Scores by hand; that they are scikit-learn's is shown in tests/examples, where it is installed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from pipelines.errors import Exit, YardError
from pipelines.evaluate import scores

TRUTH = np.array([0, 0, 1, 1, 2])
TOLD = np.array([0, 1, 1, 1, 2])
SURE = np.array([[0.8, 0.1, 0.1], [0.4, 0.5, 0.1], [0.2, 0.7, 0.1], [0.0, 1.0, 0.0], [0.1, 0.1, 0.8]])
CLASSES = ["0", "1", "2"]


def test_scores_are_what_one_computes_by_hand() -> None:
    found = scores(TRUTH, TOLD, SURE, CLASSES, {"label": TRUTH, "region": np.array(["n", "n", "s", "s", "s"])})
    assert found["samples"] == 5
    assert found["metrics"]["accuracy"] == 0.8
    assert found["metrics"]["macro_f1"] == pytest.approx((2 / 3 + 4 / 5 + 1) / 3)
    assert found["metrics"]["log_loss"] == pytest.approx(-sum(map(math.log, (0.8, 0.4, 0.7, 1, 0.8))) / 5)
    assert found["slices"] == {
        "label": {
            "0": {"samples": 2, "accuracy": 0.5},
            "1": {"samples": 2, "accuracy": 1.0},
            "2": {"samples": 1, "accuracy": 1.0},
        },
        "region": {"n": {"samples": 2, "accuracy": 0.5}, "s": {"samples": 3, "accuracy": 1.0}},
    }
    json.dumps(found, allow_nan=False)


def test_a_number_and_its_text_are_the_same_label() -> None:
    assert scores(TRUTH.astype(str), TOLD, SURE, CLASSES, {}) == scores(TRUTH, TOLD.astype(str), SURE, CLASSES, {})


def test_a_probability_of_nothing_for_the_truth_costs_much_but_not_everything() -> None:
    loss = scores(np.array([0]), np.array([1]), np.array([[0, 1]], np.float32), ["0", "1"], {})["metrics"]["log_loss"]
    assert loss == pytest.approx(-math.log(np.finfo(np.float32).eps))


def test_a_class_that_the_model_never_saw_cannot_be_judged() -> None:
    with pytest.raises(YardError, match="the label '7' is to be judged by, but the model knows only 0, 1, 2") as raised:
        scores(np.array([0, 7]), np.array([0, 1]), SURE[:2], CLASSES, {})
    assert raised.value.code == Exit.FAILED
