"""Whatever is sent, the answer is a prediction or a reason: never a server error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Answer, App, bundle, request

from pipelines.serving import app as application
from pipelines.serving.app import Service, Settings
from pipelines.serving.bundle import load_bundle

INFER = "/v2/models/tiny/infer"
ROWS = [[1, 0, 0, 0], [0, 0, 2, 0]]


def dump(body: Any) -> bytes:
    return json.dumps(body).encode()


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> dict[str, App]:
    """One for each of the models; an exception of the application is raised here, not turned into a 500."""
    found = {}
    for model in ("linear", "words", "double", "whole"):
        loaded = load_bundle(bundle(tmp_path_factory.mktemp(model), model))
        found[model] = App(Service(loaded, Settings("tiny", "3", "sha256:aa", limit_rows=100)).app)
    return found


def test_a_prediction_names_the_model_its_version_and_its_lock(clients: dict[str, App]) -> None:
    answer = clients["linear"].post(INFER, dump({"id": "42", **request(ROWS)}))
    assert answer.status_code == 200
    body = answer.json()
    label, probabilities = body.pop("outputs")
    assert body == {"id": "42", "model_name": "tiny", "model_version": "3", "parameters": {"lock": "sha256:aa"}}
    assert label == {"name": "label", "datatype": "INT64", "shape": [2], "data": [0, 2]}
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [2, 3])
    assert len(probabilities["data"]) == 6
    assert sum(probabilities["data"]) == pytest.approx(2)


def test_flat_and_nested_data_are_the_same(clients: dict[str, App]) -> None:
    nested = clients["linear"].post(INFER, dump(request(ROWS)))
    flat = clients["linear"].post(INFER, dump(request(ROWS, data=[*ROWS[0], *ROWS[1]])))
    assert flat.json() == nested.json()


@pytest.mark.parametrize(("model", "datatype"), [("double", "FP64"), ("whole", "INT64"), ("words", "FP32")])
def test_the_datatype_is_the_models(clients: dict[str, App], model: str, datatype: str) -> None:
    answer = clients[model].post(INFER, dump(request(ROWS, datatype=datatype)))
    assert answer.json()["outputs"][0]["data"] == (["cat", "emu"] if model == "words" else [0, 2])


def test_only_the_wanted_outputs_are_sent(clients: dict[str, App]) -> None:
    answer = clients["linear"].post(INFER, dump({**request(ROWS), "outputs": [{"name": "label"}]}))
    assert [output["name"] for output in answer.json()["outputs"]] == ["label"]
    answer = clients["linear"].post(INFER, dump({**request(ROWS), "outputs": [{"name": "nope"}]}))
    assert answer.json() == {"error": "no output 'nope', there are label, probabilities"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "Y"}, "expected the one input 'X', got ['Y']"),
        ({"datatype": "FP64"}, "input 'X': expected datatype FP32, got FP64"),
        ({"shape": [2, 5]}, "input 'X': expected shape [rows, 4] with rows of 1 or more, got [2, 5]"),
        ({"shape": [8]}, "input 'X': expected shape [rows, 4] with rows of 1 or more, got [8]"),
        ({"shape": [2.0, 4]}, "input 'X': expected shape [rows, 4] with rows of 1 or more, got [2.0, 4]"),
        ({"shape": [True, 4]}, "input 'X': expected shape [rows, 4] with rows of 1 or more, got [True, 4]"),
        ({"shape": [0, 4], "data": []}, "input 'X': expected shape [rows, 4] with rows of 1 or more, got [0, 4]"),
        ({"shape": [-1, 4]}, "input 'X': expected shape [rows, 4] with rows of 1 or more, got [-1, 4]"),
        ({"shape": [3, 4]}, "input 'X': expected data of 3 rows of 4 numbers, got 2 rows or rows of other lengths"),
        ({"data": [1, 2]}, "input 'X': expected data of 8 numbers for the shape [2, 4], got 2"),
        ({"data": [[1, 2], [3]]}, "input 'X': expected data of 2 rows of 4 numbers, got 2 rows or rows"),
        ({"data": "AAAA"}, "input 'X': expected data as a JSON array (binary tensors are not supported), got str"),
        ({"data": [1, 2, 3, "4", None, 6, 7, True]}, "input 'X': expected data of numbers, got NoneType, bool, str"),
        ({"data": [1, 2, 3, 4, 5, 6, 7, 1e39]}, "expected finite numbers of datatype FP32, got infinity"),
        ({"data": [1, 2, 3, 4, 5, 6, 7, 10**400]}, "expected data within the range of FP32, got a larger number"),
    ],
)  # fmt: skip
def test_a_tensor_that_does_not_fit_is_named_with_what_was_expected_and_what_came(
    clients: dict[str, App], changes: dict[str, Any], told: str
) -> None:
    answer = clients["linear"].post(INFER, dump(request(ROWS, **changes)))
    assert answer.status_code == 400
    assert told in answer.json()["error"]


@pytest.mark.parametrize(
    ("data", "told"), [([[0.5, 0, 0, 0]], "whole numbers, got float"), ([[2**63, 0, 0, 0]], "a larger number")]
)
def test_whole_numbers_are_neither_rounded_nor_wrapped(clients: dict[str, App], data: Any, told: str) -> None:
    answer = clients["whole"].post(INFER, dump(request(data, datatype="INT64")))
    assert answer.status_code == 400
    assert told in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "the body is not JSON: Expecting value"),
        (b"{", "the body is not JSON"),
        (b"\xff\xfe\xfa", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"1" * 5000, "the body is not JSON"),
        (b"[]", "the body is not a JSON object"),
        (b'{"inputs": {}}', "inputs is not a list of tensors"),
        (b'{"inputs": [3]}', "inputs is not a list of tensors"),
        (b'{"inputs": []}', "expected the one input 'X', got []"),
        (b'{"id": 7, "inputs": []}', "id is not a string"),
        (b'{"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [NaN, 0, 0, 0]}]}', "NaN is not a"),
        (b'{"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [1e999, 0, 0, 0]}]}', "got infinity"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_request_is_told_so(clients: dict[str, App], body: bytes, told: str) -> None:
    answer = clients["linear"].post(INFER, body)
    assert answer.status_code == 400
    assert told in answer.json()["error"]


def test_numbers_to_which_the_model_has_no_answer_are_the_senders_error(clients: dict[str, App]) -> None:
    answer = clients["linear"].post(INFER, dump(request([[3e38] * 4])))
    assert (answer.status_code, answer.json()) == (422, {"error": "the model's answer is not a finite number"})


@pytest.mark.parametrize("rows", [1, 64, 65, 100])
def test_a_batch_gets_the_answers_of_its_rows_one_by_one(clients: dict[str, App], rows: int) -> None:
    batch = np.random.default_rng(7).normal(size=(rows, 4)).round(3).tolist()
    answers = clients["linear"].post(INFER, dump(request(batch))).json()["outputs"][0]["data"]
    single = clients["linear"].post(INFER, dump(request(batch[-1:]))).json()["outputs"][0]["data"]
    assert len(answers) == rows
    assert answers[-1:] == single


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TENSOR = st.fixed_dictionaries(
    {"name": st.just("X") | JSON, "datatype": st.sampled_from(["FP32", "INT64", "FP64", "BYTES"]) | JSON},
    optional={
        "shape": st.tuples(st.integers(-1, 101), st.just(4)) | st.lists(st.integers(), max_size=3) | JSON,
        "data": st.lists(st.floats() | st.integers(), max_size=8)
        | st.lists(st.lists(st.integers(-5, 5), min_size=4, max_size=4), max_size=3)
        | JSON,
        "parameters": JSON,
    },
)
REQUEST = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR, min_size=1, max_size=1) | JSON},
    optional={"id": JSON, "outputs": JSON, "parameters": JSON},
)


@settings(max_examples=150)
@given(model=st.sampled_from(["linear", "words", "double", "whole"]), body=REQUEST | JSON)
def test_no_json_makes_the_server_fail(clients: dict[str, App], model: str, body: Any) -> None:
    answer = clients[model].post(INFER, dump(body))
    assert answer.status_code in (200, 400, 413, 422)
    assert ("outputs" if answer.status_code == 200 else "error") in answer.json()


@settings(max_examples=100)
@given(st.lists(st.lists(st.floats(width=32) | st.integers(), min_size=4, max_size=4), min_size=1, max_size=3))
def test_any_numbers_get_labels_and_finite_probabilities_or_a_reason(
    clients: dict[str, App], rows: list[list[float]]
) -> None:
    answer = clients["linear"].post(INFER, dump(request(rows)))
    assert answer.status_code in (200, 400, 422)
    if answer.status_code == 200:
        assert np.isfinite(answer.json()["outputs"][1]["data"]).all()


def test_a_sender_that_stops_halfway_is_told_after_a_while(
    clients: dict[str, App], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "BODY_SECONDS", 0.01)

    async def halfway() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(10)

    assert clients["linear"].post(INFER, halfway()) == Answer(408, b'{"error":"the body did not arrive within 0 s"}')
