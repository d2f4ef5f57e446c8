"""What a model is measured by: read the features that the user's `process` wrote, and score answers against the truth.

numpy only: the platform judges without the user's libraries. The numbers are those of scikit-learn's functions of the
same name.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import Exit, YardError

Array = NDArray[Any]

SLICE = "s_"
# what is told by value goes into the report, and through Argo as a parameter
MOST_VALUES, LONGEST_TEXT = 500, 64
LARGEST = 1 << 30  # bytes of the arrays of one file, unpacked: a small file can claim to be a huge one


class Slice(TypedDict):
    samples: int
    accuracy: float


class Scores(TypedDict):
    samples: int
    metrics: dict[str, float]
    slices: dict[str, dict[str, Slice]]


def load_split(path: Path) -> tuple[Array, Array, dict[str, Array]]:
    """One part of the features: an .npz file with `X` [rows, columns], `y` [rows], and slices `s_<name>` [rows].

    `X` comes back as float32, finite; `y` and the slices as they were written, whole numbers or text.
    Raises YardError(FAILED).
    """
    arrays = _arrays(path)
    missing = [name for name in ("X", "y") if name not in arrays]
    if missing:
        there = ", ".join(sorted(arrays)) or "nothing"
        raise _bad(path, f"no array {missing[0]!r}, it holds {there}", "np.savez(path, X=features, y=labels)")
    x, y = arrays.pop("X"), arrays.pop("y")
    if x.ndim != 2 or x.dtype.kind not in "fiu" or 0 in x.shape:
        todo = "X is one table of numbers, a row a sample"
        raise _bad(path, f"X has the shape {list(x.shape)} and the type {x.dtype}", todo)
    for name, array in {"y": y, **arrays}.items():
        if name != "y" and (not name.startswith(SLICE) or name == SLICE + "label"):
            raise _bad(path, f"an array {name!r}", f"X, y, and {SLICE}<name> for a slice; the slice label is y")
        if array.shape != (len(x),):
            shape = list(array.shape)
            raise _bad(path, f"{name} has the shape {shape}, X has {len(x)} rows", f"{name} is one value a row")
        if array.dtype.kind not in "iuU":
            raise _bad(path, f"{name} has the type {array.dtype}", f"{name} is whole numbers or text")
        values = len(np.unique(array))
        if values > MOST_VALUES or (array.dtype.kind == "U" and array.dtype.itemsize > 4 * LONGEST_TEXT):
            limits = f"at most {MOST_VALUES} of at most {LONGEST_TEXT} characters"
            raise _bad(
                path, f"{name} has {values} values, of the type {array.dtype}; {limits}", "group or shorten them"
            )
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    if not np.isfinite(x).all():
        row, column = (int(at[0]) for at in np.nonzero(~np.isfinite(x)))
        raise _bad(path, f"X[{row}, {column}] is {x[row, column]}", "clean or fill it in process")
    return x, y, {name.removeprefix(SLICE): values for name, values in arrays.items()}


def scores(
    y_true: Array, labels_pred: Array, probabilities: Array, classes: Sequence[str], slices: Mapping[str, Array]
) -> Scores:
    """Accuracy, macro F1 and log loss; accuracy by value of each slice. `classes` name the probabilities' columns.

    Labels are compared as text: "3" is 3. Raises YardError(FAILED) for a true label that the model does not know.
    """
    truth, told = y_true.astype(str), labels_pred.astype(str)
    column = {label: index for index, label in enumerate(classes)}
    unknown = sorted(set(truth.tolist()) - set(column))
    if unknown:
        raise YardError(
            f"the label {unknown[0]!r} is to be judged by, but the model knows only {', '.join(classes)}",
            todo="every class belongs into the training part: split with stratify",
            code=Exit.FAILED,
        )
    right = truth == told
    metrics = {
        "accuracy": float(right.mean()),
        "macro_f1": _macro_f1(truth, told),
        "log_loss": _log_loss(np.array([column[label] for label in truth.tolist()]), probabilities),
    }
    return {
        "samples": len(truth),
        "metrics": metrics,
        "slices": {name: _by_value(values.astype(str), right) for name, values in slices.items()},
    }


def _macro_f1(truth: Array, told: Array) -> float:
    """The mean of the classes' F1, over every class that is true or told; one that is never right counts 0."""
    found = []
    for label in np.unique(np.concatenate([truth, told])):
        is_true, is_told = truth == label, told == label
        found.append(2 * (is_true & is_told).sum() / (is_true.sum() + is_told.sum()))
    return float(np.mean(found))


def _log_loss(true_column: Array, probabilities: Array) -> float:
    smallest = np.finfo(probabilities.dtype).eps  # a probability of 0 for what is true costs much, not everything
    chosen = probabilities[np.arange(len(true_column)), true_column]
    return float(-np.log(np.clip(chosen, smallest, 1 - smallest)).mean(dtype=np.float64))


def _by_value(values: Array, right: Array) -> dict[str, Slice]:
    found: dict[str, Slice] = {}
    for value in np.unique(values):
        chosen = right[values == value]
        found[str(value)] = {"samples": len(chosen), "accuracy": float(chosen.mean())}
    return found


def _arrays(path: Path) -> dict[str, Array]:
    """Every array of an .npz file; each header is believed only if the bytes that it promises are there."""
    try:
        if path.stat().st_size == 0:
            raise _bad(path, "an empty file", "np.savez(path, X=features, y=labels)")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > LARGEST:
                raise _bad(path, f"more than {LARGEST >> 20} MiB of arrays", "keep fewer rows or columns")
            found = {}
            for member in members:
                with archive.open(member) as file:
                    name = member.filename.removesuffix(".npy")
                    found[name] = _array(file, member.file_size, path, name)
            return found
    except YardError:
        raise
    except OSError as error:
        todo = "process writes train.npz and test.npz to $FEATURES_DIR"
        raise _bad(path, f"cannot be read: {error.strerror or error}", todo) from None
    except (
        Exception
    ) as error:  # zipfile, zlib, tokenize and numpy have more ways to fail on a damaged file than can be listed
        raise _bad(path, f"not an .npz file: {str(error)[:200]}", "np.savez(path, X=features, y=labels)") from None


def _array(file: IO[bytes], size: int, path: Path, name: str) -> Array:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"array {name} is of npy version {version}")
    if dtype.hasobject:
        raise _bad(
            path, f"{name} holds Python objects, which only pickle can read", "np.array(values, dtype=str) for text"
        )
    data = file.read(size)
    count = 1
    for length in shape:
        count *= length
    if count * dtype.itemsize != len(data):
        raise ValueError(f"array {name} promises {count * dtype.itemsize} bytes and has {len(data)}")
    return np.frombuffer(data, dtype, count).reshape(shape, order="F" if fortran else "C")


def _bad(path: Path, what: str, todo: str) -> YardError:
    return YardError(what, where=str(path), todo=todo, code=Exit.FAILED)
