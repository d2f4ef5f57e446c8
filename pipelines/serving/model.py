"""One classifier in ONNX Runtime: rows of numbers in, a label and the classes' probabilities out.

What the server runs is also what `evaluate` scores, so a metric is a statement about what will be served. No web server
is needed to import this, and nothing is ever unpickled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pipelines.errors import Exit, YardError
from pipelines.serving.portable import unportable

runtime: Any = onnxruntime  # its types do not export its names
Rows = NDArray[Any]
Labels = NDArray[Any]  # int64 or text, as the model has it
Probabilities = NDArray[Any]


class Datatype(NamedTuple):
    """A number type in the words of the protocol, of ONNX Runtime and of numpy."""

    name: str
    onnx: str
    numpy: type[np.generic]


INPUT_TYPES = (
    Datatype("FP32", "tensor(float)", np.float32),
    Datatype("FP64", "tensor(double)", np.float64),
    Datatype("INT64", "tensor(int64)", np.int64),
)
LABEL_TYPES = {"tensor(int64)": "INT64", "tensor(string)": "BYTES"}
PROBABILITY_TYPES = {"tensor(float)": "FP32", "tensor(double)": "FP64"}


class Tensor(NamedTuple):
    """An input or an output as the protocol describes it; -1 is the number of rows."""

    name: str
    datatype: str
    shape: list[int]


class Model:
    """A verified, loaded classifier.

    Raises YardError that names `where` if the file is no such thing: it does not load, needs other files or other code,
    or its inputs and outputs are not one table in, labels and probabilities out.
    """

    def __init__(self, data: bytes, labels: Sequence[str], *, name: str, where: str, threads: int = 1) -> None:
        self.name, self.labels, self._where = name, list(labels), where
        wrong = unportable(data)
        if wrong:
            raise YardError(f"this model cannot be served: {wrong}", where=where)
        self._session = _session(data, where, threads)
        try:
            self.input, self.dtype = self._input(self._session.get_inputs())
            self._label, self._probability, self.outputs = self._outputs(self._session.get_outputs())
        except UnicodeDecodeError:
            raise self._unfit("its names are not UTF-8 text", "export it again") from None

    def predict(self, x: Rows) -> tuple[Labels, Probabilities]:
        """The label and the probabilities (in the order of `labels`) of each row.

        Raises YardError if the model has no answer for these rows, or none that is finite.
        """
        if x.ndim != 2 or x.shape[1] != self.input.shape[1]:
            raise self._silent(
                f"the model takes {self.input.shape[1]} columns, the rows have the shape {list(x.shape)}"
            )
        rows = np.ascontiguousarray(x, dtype=self.dtype)
        if rows.dtype != x.dtype and rows.dtype.kind == "i" and (rows != x).any():
            raise self._silent("the model takes whole numbers, these rows have others")
        try:
            label, probability = self._session.run([self._label, self._probability], {self.input.name: rows})
        except Exception as error:  # ONNX Runtime's errors have no common class
            raise self._silent(f"the model fails on these rows: {_first_line(error)}") from None
        if label.shape != (len(rows),) or probability.shape != (len(rows), len(self.labels)):
            shapes = f"{list(label.shape)} and {list(probability.shape)}"
            raise self._silent(
                f"labels and probabilities of the shapes {shapes} for {len(rows)} rows of {len(self.labels)} classes"
            )
        # one sum is cheaper than a look at each number, and probabilities are too small to overflow it
        if not math.isfinite(probability.sum()):
            raise self._silent("the model's answer is not a finite number")
        return label, probability

    def _input(self, inputs: Sequence[Any]) -> tuple[Tensor, type[np.generic]]:
        if len(inputs) != 1:
            raise self._unfit(f"it has {len(inputs)} inputs", "export it with one input: a table of rows and columns")
        found = inputs[0]
        datatype = next((known for known in INPUT_TYPES if known.onnx == found.type), None)
        if datatype is None:
            known = ", ".join(known.onnx for known in INPUT_TYPES)
            raise self._unfit(f"its input {found.name!r} is {found.type}", f"one of {known} is served")
        if len(found.shape) != 2 or isinstance(found.shape[0], int) or not isinstance(found.shape[1], int):
            todo = "export it with any number of rows and a fixed number of columns: [None, 64]"
            raise self._unfit(f"its input {found.name!r} has the shape {found.shape}", todo)
        return Tensor(found.name, datatype.name, [-1, found.shape[1]]), datatype.numpy

    def _outputs(self, found: Sequence[Any]) -> tuple[str, str, list[Tensor]]:
        if any(not output.type.startswith("tensor(") for output in found):
            raise self._unfit(
                "its probabilities are a list of dictionaries (ZipMap)", 'export it with options={"zipmap": False}'
            )
        labels = [output for output in found if output.type in LABEL_TYPES]
        probabilities = [output for output in found if output.type in PROBABILITY_TYPES]
        if len(labels) != 1 or len(probabilities) != 1 or len(found) != 2:
            told = ", ".join(f"{output.name!r} {output.type}" for output in found)
            raise self._unfit(
                f"its outputs are {told}", "a classifier has two: labels (int64 or string) and probabilities"
            )
        label, probability = labels[0], probabilities[0]
        columns = probability.shape[-1] if probability.shape else None
        if isinstance(columns, int) and columns != len(self.labels):
            raise self._unfit(
                f"it knows {columns} classes, {len(self.labels)} labels are given", "train it on the same classes"
            )
        tensors = [
            Tensor("label", LABEL_TYPES[label.type], [-1]),
            Tensor("probabilities", PROBABILITY_TYPES[probability.type], [-1, len(self.labels)]),
        ]
        return label.name, probability.name, tensors

    def _silent(self, what: str) -> YardError:
        return YardError(what, where=self._where, code=Exit.FAILED)

    def _unfit(self, what: str, todo: str) -> YardError:
        return YardError(f"this model cannot be served: {what}", where=self._where, todo=todo)


def _session(data: bytes, where: str, threads: int) -> Any:
    runtime.disable_telemetry_events()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised as well; its warnings are about optimizations
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.load_model_format", "ONNX")  # nothing that `unportable` does not read
    # threads that wait for work shall sleep: a replica has a quarter of a core
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors have no common class
        raise YardError(f"ONNX Runtime cannot load this model: {_first_line(error)}", where=where) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
