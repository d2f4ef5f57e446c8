"""The gate says no to whatever it cannot decide, and exactly at a threshold it says yes."""

from __future__ import annotations

import copy
import json
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config import Gate
from pipelines.gate import Decision, decide

GATE = Gate.model_validate(
    {
        "samples": 300,
        "metrics": {"accuracy": {"min": 0.95}, "macro_f1": {"min": 0.94}, "log_loss": {"max": 0.3}},
        "slices": {"accuracy": {"by": "label", "min": 0.85, "samples": 20}},
        "serving": {"metric": "accuracy", "margin": 0.02, "confidence": 0.95},
    }
)
LOCK = "sha256:" + "ab" * 32
GOOD = {
    "samples": 400,
    "metrics": {"accuracy": 0.97, "macro_f1": 0.96, "log_loss": 0.1},
    "slices": {"label": {"0": {"samples": 200, "accuracy": 0.98}, "1": {"samples": 200, "accuracy": 0.96}}},
    "serving": {"lock": LOCK, "metrics": {"accuracy": 0.965}, "samples": 400, "wins": 5, "losses": 3},
}


def changed(value, *path):
    report = copy.deepcopy(GOOD)
    place = report
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return report


def without(*path):
    report = copy.deepcopy(GOOD)
    place = report
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return report


def test_a_good_report_is_accepted_and_says_by_what_numbers():
    decision = decide(GATE, GOOD)
    assert decision.accepted
    first, second = decision.summary
    assert "samples 400 ≥ 300, accuracy 0.97 ≥ 0.95, macro_f1 0.96 ≥ 0.94, log_loss 0.1 ≤ 0.3" in first
    assert second == "this model goes on to release"


@pytest.mark.parametrize(
    ("path", "at", "direction"),
    [
        (("samples",), 300, -1),
        (("metrics", "accuracy"), 0.95, -1),
        (("metrics", "macro_f1"), 0.94, -1),
        (("metrics", "log_loss"), 0.3, 1),
        (("slices", "label", "0", "accuracy"), 0.85, -1),
    ],
)
def test_at_the_threshold_is_accepted_and_just_beyond_is_refused(path, at, direction):
    gate = GATE.model_copy(update={"serving": None})

    def report(value):
        found = changed(value, *path)
        if path == ("samples",):
            found["slices"]["label"] = {"0": {"samples": value, "accuracy": 0.9}}
        return found

    beyond = at + direction if isinstance(at, int) else math.nextafter(at, direction * math.inf)
    better = at - direction if isinstance(at, int) else math.nextafter(at, -direction * math.inf)
    assert decide(gate, report(at)).accepted
    assert decide(gate, report(better)).accepted
    refused = decide(gate, report(beyond))
    assert not refused.accepted
    assert [check.passed for check in refused.checks].count(False) == 1
    assert refused.summary[0].startswith("refused: ")


def test_a_refusal_says_in_two_lines_what_failed_by_how_much_and_what_serves_on():
    report = changed(0.31, "metrics", "accuracy")
    report["serving"] = {**GOOD["serving"], "metrics": {"accuracy": 0.97}, "wins": 2, "losses": 266}
    assert decide(GATE, report).summary == [
        "refused: accuracy 0.31 < 0.95, by 0.64; accuracy against the serving model: "
        "2 rows better, 266 worse, may lose 0.6984 (95 % sure), 0.02 allowed",
        "the model that serves now (lock abababababab) goes on serving",
    ]


def test_when_nothing_serves_a_refusal_says_so():
    report = changed(None, "serving") | {"metrics": {**GOOD["metrics"], "log_loss": 0.4}}
    assert decide(GATE, report).summary == [
        "refused: log_loss 0.4 > 0.3, by 0.1",
        "nothing serves yet, and this model will not",
    ]


REFUSED = [
    ("no report", {"unreadable": "no such file"}, "the report cannot be read: no such file"),
    ("a list", [], "the report is not a JSON object"),
    ("nothing", None, "the report is not a JSON object"),
    ("an empty object", {}, "samples: not measured; accuracy: not measured; macro_f1: not measured; and 3 more"),
    ("no count", without("samples"), "samples: not measured"),
    ("a count in words", changed("400", "samples"), "samples: not a whole number: '400'"),
    ("a fraction of a sample", changed(400.5, "samples"), "samples: not a whole number: 400.5"),
    ("true samples", changed(True, "samples"), "samples: not a whole number: True"),
    ("too few samples", changed(299, "samples"), "samples 299 < 300, by 1"),
    ("a missing metric", without("metrics", "macro_f1"), "macro_f1: not measured"),
    ("null", changed(None, "metrics", "macro_f1"), "macro_f1: not measured"),
    ("NaN", changed(math.nan, "metrics", "accuracy"), "accuracy: not a finite number: nan"),
    ("infinity", changed(math.inf, "metrics", "accuracy"), "accuracy: not a finite number: inf"),
    ("minus infinity", changed(-math.inf, "metrics", "log_loss"), "log_loss: not a finite number: -inf"),
    ("a huge whole number", changed(10**5000, "metrics", "log_loss"), "log_loss: not a finite number: a int"),
    ("text", changed("0.97", "metrics", "accuracy"), "accuracy: not a number: '0.97'"),
    ("true", changed(True, "metrics", "accuracy"), "accuracy: not a number: True"),
    ("per cent", changed(97.0, "metrics", "accuracy"), "accuracy: outside 0…1: 97"),
    ("a negative loss", changed(-0.1, "metrics", "log_loss"), "log_loss: outside 0…inf: -0.1"),
    ("no slices", without("slices"), "accuracy by label: the slice column label is not in the report"),
    ("an empty slice column", changed({}, "slices", "label"), "the slice column label is not in the report"),
    ("a slice left out", without("slices", "label", "1"), "the slice column label covers 200 of 400 samples"),
    (
        "a slice that is too small to tell",
        changed({"0": {"samples": 381, "accuracy": 0.98}, "1": {"samples": 19, "accuracy": 1.0}}, "slices", "label"),
        "accuracy[label=1]: too few samples: 19, 20 needed",
    ),
    ("a bad slice", changed(0.84, "slices", "label", "1", "accuracy"), "accuracy[label=1] 0.84 < 0.85, by 0.01"),
    ("a slice without its number", without("slices", "label", "1", "accuracy"), "accuracy[label=1]: not measured"),
    ("a slice that is no object", changed(0.9, "slices", "label", "1"), "accuracy[label=1]: not measured"),
    ("no word on what serves", without("serving"), "the comparison is not in the report"),
    ("a comparison without counts", without("serving", "wins"), "against the serving model: not measured"),
    ("another number of rows", changed(399, "serving", "samples"), "5 better and 3 worse of 399 rows cannot be"),
    ("more differences than rows", changed(398, "serving", "losses"), "5 better and 398 worse of 400 rows cannot be"),
    ("negative counts", changed(-1, "serving", "losses"), "outside 0…9.0072e+15: -1"),
    (
        "counts that contradict the metrics",
        changed(30, "serving", "wins"),
        "the metrics differ by +2.0 rows, the counts by +27",
    ),
]


@pytest.mark.parametrize(("about", "report", "why"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_cannot_be_decided_is_refused_with_the_reason(about, report, why):
    decision = decide(GATE, report)
    assert not decision.accepted
    assert why in decision.summary[0]
    assert len(decision.summary) == 2


def test_nothing_serves_yet_is_not_held_against_the_first_model():
    assert decide(GATE, changed(None, "serving")).accepted


def test_a_terminal_cannot_be_driven_by_names_in_the_data():
    report = changed({"\x1b[2J": {"samples": 400, "accuracy": 0.1}}, "slices", "label")
    assert "\x1b" not in decide(GATE, report).summary[0]


def test_a_decision_is_a_document_that_cannot_contradict_itself():
    decision = decide(GATE, GOOD)
    assert Decision.model_validate_json(decision.model_dump_json()) == decision
    forged = json.loads(decide(GATE, {}).model_dump_json()) | {"accepted": True}
    with pytest.raises(ValueError, match="does not follow"):
        Decision.model_validate(forged)
    with pytest.raises(ValueError, match="does not follow"):
        Decision(accepted=True, checks=[], summary=["", ""])


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    ("samples",),
    ("metrics",),
    ("metrics", "accuracy"),
    ("metrics", "log_loss"),
    ("slices",),
    ("slices", "label"),
    ("slices", "label", "0"),
    ("slices", "label", "0", "accuracy"),
    ("slices", "label", "0", "samples"),
    ("serving",),
    ("serving", "metrics"),
    ("serving", "samples"),
    ("serving", "wins"),
    ("serving", "losses"),
]


@given(st.sampled_from(PLACES), anything)
def test_any_report_gets_a_decision_and_only_numbers_are_accepted(path, value):
    decision = decide(GATE, changed(value, *path))
    assert Decision.model_validate_json(decision.model_dump_json()) == decision
    if decision.accepted:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        assert number or (path == ("serving",) and value is None)
    for check in decision.checks:
        assert check.value is None or math.isfinite(check.value)
        assert check.passed or check.why or check.value is not None


@given(anything)
def test_any_document_at_all_gets_a_decision(document):
    assert not decide(GATE, document).accepted


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_better_number_never_turns_yes_into_no(a, b):
    low, high = sorted((a, b))
    gate = GATE.model_copy(update={"serving": None})
    if decide(gate, changed(low, "metrics", "accuracy")).accepted:
        assert decide(gate, changed(high, "metrics", "accuracy")).accepted


@given(st.floats(0.9, 1))
def test_the_numbers_shown_differ_whenever_the_numbers_do(value):
    text = str(decide(GATE, changed(value, "metrics", "accuracy")).checks[1])
    shown, bound = (float(word) for word in text.split()[1::2])
    assert (shown == bound) == (value == 0.95)
    assert abs(shown - value) <= max(1e-3, sys.float_info.epsilon)
