"""A bundle is loaded only as it was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import GOLDEN, MODELS, bundle

from pipelines.errors import Exit, YardError
from pipelines.registry.trees import Trees
from pipelines.serving.bundle import load_bundle, make_bundle, read_bundle


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "bundle.json"
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


def test_a_bundle_says_what_it_is_and_the_same_model_gives_the_same_bundle(tmp_path: Path) -> None:
    directory = bundle(tmp_path)
    body = json.loads((directory / "bundle.json").read_text())
    assert body["format"] == "trainyard/bundle/v1"
    assert body["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}]
    assert [output["name"] for output in body["outputs"]] == ["label", "probabilities"]
    assert body["golden"]["inputs"] == GOLDEN.tolist()
    assert body["golden"]["outputs"]["label"] == [0, 1, 2]
    again = bundle(tmp_path / "again")
    assert read_bundle(again).digest == read_bundle(directory).digest
    assert load_bundle(directory, read_bundle(directory).digest).predict(GOLDEN)[0].tolist() == [0, 1, 2]


def test_its_digest_is_the_one_that_the_registry_gives_to_the_directory(tmp_path: Path) -> None:
    class InMemory(Trees):
        def put_blob(self, content: bytes | Path) -> str:
            data = content if isinstance(content, bytes) else content.read_bytes()
            return "sha256:" + hashlib.sha256(data).hexdigest()

    directory = bundle(tmp_path)
    assert read_bundle(directory).digest == InMemory.__new__(InMemory).put_tree(directory)


def test_the_order_of_the_classes_is_that_of_the_model_not_that_of_the_caller(tmp_path: Path) -> None:
    assert make_bundle(tmp_path / "a", MODELS / "linear.onnx", GOLDEN, ["2", "0", "1"], name="a").labels == [
        "0",
        "1",
        "2",
    ]
    words = make_bundle(tmp_path / "b", MODELS / "words.onnx", GOLDEN, ["emu", "dog", "cat"], name="b")
    assert words.labels == ["cat", "dog", "emu"]


@pytest.mark.parametrize(
    ("model", "labels", "why"),
    [
        ("backwards", ["0", "1", "2"], "not the classes with the highest probability"),
        ("stranger", ["0", "1", "2"], "it answers '4', which is none of the classes 0, 1, 2"),
        ("nan", ["0", "1", "2"], "not a finite number"),
        ("linear", ["a", "b", "c"], "it answers with whole numbers, the classes are a, b, c"),
        ("zipmap", ["0", "1", "2"], "ZipMap"),
        ("absent", ["0", "1", "2"], r"cannot be read: No such file.*\n  → write the model to \$MODEL_DIR/model.onnx"),
    ],
)
def test_no_bundle_is_made_of_a_model_that_contradicts_itself(
    tmp_path: Path, model: str, labels: list[str], why: str
) -> None:
    with pytest.raises(YardError, match=rf"{model}.onnx: .*{why}") as raised:
        make_bundle(tmp_path / "bundle", MODELS / f"{model}.onnx", GOLDEN, labels, name="tiny")
    assert raised.value.code == Exit.FAILED
    assert not (tmp_path / "bundle").exists()


def test_an_empty_model_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(YardError, match=r"model\.onnx: an empty file"):
        make_bundle(tmp_path / "bundle", tmp_path / "model.onnx", GOLDEN, ["0", "1", "2"], name="tiny")


def test_another_bundle_than_the_wanted_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        YardError, match=r"bundle.json: this is not the accepted model: its digest is sha256:\w+, sha256:00 is"
    ):
        load_bundle(bundle(tmp_path), "sha256:00")


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: data[:-1] + b"\x7f"]
)
def test_a_model_file_that_was_changed_is_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = bundle(tmp_path) / "model.onnx"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(
        YardError, match=r"model.onnx: this is not the accepted model: .*bundle.json lists \d+ bytes"
    ) as raised:
        load_bundle(path.parent)
    assert raised.value.code == Exit.CONFLICT


def test_a_model_that_does_not_give_the_golden_answers_is_refused(tmp_path: Path) -> None:
    directory = bundle(tmp_path)
    edit(directory, lambda body: body["golden"]["outputs"]["label"].reverse())
    with pytest.raises(YardError, match=r"it answers \[0, 1, 2\] to the golden rows, not \[2, 1, 0\]"):
        load_bundle(directory)


@pytest.mark.parametrize(("off", "accepted"), [(0.9e-4, True), (1.2e-4, False), (float("nan"), False)])
def test_golden_probabilities_hold_within_the_tolerance(tmp_path: Path, off: float, accepted: bool) -> None:
    directory = bundle(tmp_path)
    edit(directory, lambda body: body["golden"]["outputs"]["probabilities"][1].__setitem__(0, off + 0.1065069))
    if accepted:
        load_bundle(directory)
        return
    with pytest.raises(YardError, match="probabilities for the golden rows are off by"):
        load_bundle(directory)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda body: body.pop("golden"), "no 'golden'"),
        (lambda body: body.update(format="trainyard/bundle/v9"), "this platform reads 'trainyard/bundle/v1'"),
        (lambda body: body["files"].update({"../x": {}}), r"files \['../x', 'model.onnx'\]"),
        (lambda body: body.update(labels=7), "not a model bundle"),
        (lambda body: body["golden"].update(inputs=[[1], [1, 2]]), "not a model bundle"),
    ],
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], why: str) -> None:
    directory = bundle(tmp_path)
    edit(directory, change)
    with pytest.raises(YardError, match=f"bundle.json: not a model bundle: .*{why}|{why}"):
        load_bundle(directory)


KEYS = st.sampled_from(["format", "files", "golden", "labels", "name", "model.onnx"])
SCALARS = st.none() | st.integers() | st.text() | st.floats() | st.just("trainyard/bundle/v1")


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_json_is_refused_without_a_crash(tmp_path: Path, body: Any) -> None:
    (tmp_path / "bundle.json").write_text(json.dumps(body))
    with pytest.raises(YardError):
        load_bundle(tmp_path)


def test_golden_rows_of_other_columns_are_refused(tmp_path: Path) -> None:
    directory = bundle(tmp_path)
    edit(directory, lambda body: body["golden"].update(inputs=np.zeros((3, 5)).tolist()))
    with pytest.raises(YardError, match=r"takes 4 columns, the golden rows of bundle.json have the shape \[3, 5\]"):
        load_bundle(directory)
