"""Features are read only if they are what a model can be judged on."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.errors import Exit, YardError
from pipelines.evaluate import load_split

X = np.arange(12, dtype=np.float64).reshape(4, 3)
Y = np.array([0, 1, 0, 1])


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path / "test.npz", **arrays)
    return path / "test.npz"


def test_a_part_is_float32_rows_labels_and_slices(tmp_path: Path) -> None:
    x, y, slices = load_split(saved(tmp_path, X=X, y=Y, s_region=np.array(["n", "s", "s", "n"])))
    assert x.dtype == np.float32
    assert np.array_equal(x, X)
    assert y.tolist() == [0, 1, 0, 1]
    assert {name: values.tolist() for name, values in slices.items()} == {"region": ["n", "s", "s", "n"]}


def test_compressed_big_endian_and_column_order_arrays_are_read_too(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "test.npz", X=np.asfortranarray(X.astype(">f4")), y=Y.astype(str))
    x, y, _ = load_split(tmp_path / "test.npz")
    assert np.array_equal(x, X)
    assert y.tolist() == ["0", "1", "0", "1"]


def with_value(value: float) -> dict[str, Any]:
    x = X.copy()
    x[2, 1] = value
    return {"X": x, "y": Y}


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"y": Y}, "no array 'X', it holds y"),
        ({"X": X}, "no array 'y', it holds X"),
        ({"X": X[0], "y": Y}, r"X has the shape \[3\]"),
        ({"X": X[:0], "y": Y[:0]}, r"X has the shape \[0, 3\]"),
        ({"X": X.astype(str), "y": Y}, r"X has the shape \[4, 3\] and the type <U32"),
        ({"X": X, "y": Y[:3]}, r"y has the shape \[3\], X has 4 rows"),
        ({"X": X, "y": Y.reshape(4, 1)}, r"y has the shape \[4, 1\], X has 4 rows"),
        ({"X": X, "y": Y * 1.0}, "y has the type float64\n  → y is whole numbers or text"),
        ({"X": X, "y": Y.astype(object)}, "y holds Python objects, which only pickle can read"),
        ({"X": X, "y": Y, "s_age": Y[:2]}, r"s_age has the shape \[2\], X has 4 rows"),
        ({"X": X, "y": Y, "s_label": Y}, "an array 's_label'\n  → .*the slice label is y"),
        ({"X": X, "y": Y, "region": Y}, "an array 'region'\n  → X, y, and s_<name> for a slice"),
        (
            {"X": X, "y": Y, "s_id": np.array(["a" * 65, "b", "c", "d"])},
            "s_id has 4 values, of the type <U65; at most 500",
        ),
        ({"X": np.zeros((600, 1)), "y": np.arange(600)}, "y has 600 values"),
        (with_value(np.nan), r"X\[2, 1\] is nan"),
        (with_value(-np.inf), r"X\[2, 1\] is -inf"),
        (with_value(1e39), r"X\[2, 1\] is inf"),
    ],
)
def test_what_cannot_be_judged_on_is_refused_with_the_place(tmp_path: Path, arrays: dict[str, Any], why: str) -> None:
    with pytest.raises(YardError, match=rf"test.npz: {why}") as raised:
        load_split(saved(tmp_path, **arrays))
    assert raised.value.code == Exit.FAILED
    assert raised.value.todo


def npy(shape: str = "(4,)", kind: str = "<i8", data: bytes = bytes(32)) -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "an empty file"),
        (b"PK\x03\x04", "not an .npz file"),
        (b"a,b,c\n1,2,3\n", "not an .npz file"),
        (npy(), "not an .npz file"),  # np.save, not np.savez
        (zipped(X=b"text"), "not an .npz file"),
        (zipped(X=npy(), y=npy(data=b"")), "array y promises 32 bytes and has 0"),
        (zipped(X=npy(shape="(10**15,)")), "not an .npz file"),
        (zipped(X=npy(shape="(1000000000000000,)")), "array X promises 8000000000000000 bytes and has 32"),
        (zipped(X=npy(), y=npy())[:-40], "not an .npz file"),
    ],
    ids=["empty", "cut", "csv", "npy", "no array", "no data", "no shape", "huge shape", "cut off"],
)
def test_what_is_no_npz_file_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "test.npz").write_bytes(content)
    with pytest.raises(YardError, match=f"test.npz: .*{why}"):
        load_split(tmp_path / "test.npz")


def test_a_small_file_cannot_unpack_to_a_huge_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.evaluate.LARGEST", 1 << 20)
    np.savez_compressed(tmp_path / "test.npz", X=np.zeros((1 << 10, 1 << 8)), y=np.zeros(1 << 10, np.int64))
    assert (tmp_path / "test.npz").stat().st_size < 10_000
    with pytest.raises(YardError, match="more than 1 MiB of arrays"):
        load_split(tmp_path / "test.npz")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["nothing", "a directory"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "test.npz")
    with pytest.raises(YardError, match=r"test.npz: cannot be read: .*\n  → process writes train.npz and test.npz"):
        load_split(tmp_path / "test.npz")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.data())
def test_a_damaged_file_is_refused_or_read_but_never_crashes(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(saved(tmp_path, X=X, y=Y).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "test.npz").write_bytes(whole)
    try:
        x, _, _ = load_split(tmp_path / "test.npz")
    except YardError:
        return
    assert np.isfinite(x).all()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(header=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_header_is_refused_without_a_crash(tmp_path: Path, header: bytes) -> None:
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "test.npz").write_bytes(zipped(X=array))
    with pytest.raises(YardError):
        load_split(tmp_path / "test.npz")
