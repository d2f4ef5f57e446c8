"""Which models are served, and what they answer."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import MODELS

from pipelines.errors import YardError
from pipelines.serving.model import Model
from pipelines.serving.portable import unportable

ROW = np.array([[0, 3, 0, 0]], dtype=np.float32)


def load(name: str, labels: tuple[str, ...] = ("0", "1", "2")) -> Model:
    return Model((MODELS / f"{name}.onnx").read_bytes(), labels, name=name, where=f"{name}.onnx")


@pytest.mark.parametrize("name", ["linear", "double", "whole"])
def test_a_classifier_gives_the_label_and_the_probabilities_of_each_row(name: str) -> None:
    label, probabilities = load(name).predict(np.vstack([ROW, ROW[:, ::-1]]))
    assert label.tolist() == [1, 2]
    assert probabilities.shape == (2, 3)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert np.allclose(probabilities[0], np.exp([0, 3, 0]) / np.exp([0, 3, 0]).sum(), atol=1e-6)


def test_labels_can_be_words() -> None:
    model = load("words", ("cat", "dog", "emu"))
    assert model.predict(ROW)[0].tolist() == ["dog"]
    assert model.outputs[0].datatype == "BYTES"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("zipmap", r"list of dictionaries \(ZipMap\)\n  → export it with options=\{\"zipmap\": False\}"),
        ("contrib", "operators of the domain 'com.microsoft'"),
        ("external", "tensors in other files"),
        ("onerow", r"shape \[1, 4\]\n  → export it with any number of rows"),
        ("anycolumns", r"shape \['N', 'M'\]"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_by_name_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(YardError, match=rf"{name}.onnx: this model cannot be served: .*{why}"):
        load(name)


def test_a_contrib_operator_would_load_if_it_were_not_refused() -> None:
    """Why the file is read before the runtime gets it: the runtime brings operators that are no standard."""
    onnxruntime.InferenceSession((MODELS / "contrib.onnx").read_bytes(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("data", [b"", b"hello", b"\x80\x04\x95pickle", bytes(100)])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(YardError, match=r"x\.onnx: "):
        Model(data, ["0"], name="x", where="x.onnx")


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(YardError, match="knows 3 classes, 2 labels are given"):
        load("linear", ("0", "1"))


def test_rows_without_a_finite_answer_are_an_error_not_nan() -> None:
    with pytest.raises(YardError, match="not a finite number"):
        load("linear").predict(np.full((1, 4), 3e38, dtype=np.float32))


def test_rows_of_other_columns_are_told_so() -> None:
    with pytest.raises(YardError, match=r"the model takes 4 columns, the rows have the shape \[1, 3\]"):
        load("linear").predict(ROW[:, :3])


def test_rows_that_are_not_whole_are_not_cut_to_whole_ones() -> None:
    with pytest.raises(YardError, match="takes whole numbers"):
        load("whole").predict(np.full((1, 4), 0.5, dtype=np.float32))


@given(st.integers(0, 329), st.integers(0, 255))
def test_a_damaged_file_is_refused_or_loads_but_never_crashes(at: int, byte: int) -> None:
    data = bytearray((MODELS / "linear.onnx").read_bytes())
    data[at] = byte
    with suppress(YardError):
        Model(bytes(data), ["0", "1", "2"], name="x", where="x.onnx")


@given(st.binary(max_size=200))
def test_any_bytes_are_told_apart_without_a_crash(data: bytes) -> None:
    unportable(data)
