"""Inference in JSON, as the Open Inference Protocol v2 has it: what is accepted, and how a refusal is worded."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any, NamedTuple, NoReturn

import numpy as np

from pipelines.serving.model import Labels, Model, Probabilities, Rows

OUTPUTS = ("label", "probabilities")


class RequestError(Exception):
    """A request that gets no prediction: the HTTP status, and a sentence for who sent it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Request(NamedTuple):
    """A checked inference request."""

    rows: Rows
    id: str | None
    outputs: tuple[str, ...]


def parse(body: bytes, model: Model, limit_rows: int) -> Request:
    """The rows of an inference request, in the model's own number type. Raises RequestError."""
    try:
        given = _decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise RequestError(400, "the body is not a JSON object")
    identifier = given.get("id")
    if not isinstance(identifier, str | None):
        raise RequestError(400, "id is not a string")
    inputs = given.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(tensor, dict) for tensor in inputs):
        raise RequestError(400, "inputs is not a list of tensors")
    names = [tensor.get("name") for tensor in inputs]
    if names != [model.input.name]:
        raise RequestError(400, f"expected the one input {model.input.name!r}, got {str(names)[:200]}")
    return Request(_rows(inputs[0], model, limit_rows), identifier, _outputs(given.get("outputs")))


def render(request: Request, label: Labels, probabilities: Probabilities, model: Model, frame: dict[str, Any]) -> bytes:
    """The response: `frame` (model name, version, parameters) and the wanted tensors, flat."""
    answer = dict(frame)
    if request.id is not None:
        answer["id"] = request.id
    data = dict(zip(OUTPUTS, (label, probabilities), strict=True))
    answer["outputs"] = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": [len(label), *tensor.shape[1:]],
            "data": data[tensor.name].ravel().tolist(),
        }
        for tensor in model.outputs
        if tensor.name in request.outputs
    ]
    return _encode(answer).encode()


def _rows(tensor: dict[str, Any], model: Model, limit: int) -> Rows:
    name, columns = model.input.name, model.input.shape[1]

    def mismatch(what: str, expected: object, got: object) -> RequestError:
        return RequestError(400, f"input {name!r}: expected {what} {expected}, got {str(got)[:100]}")

    if tensor.get("datatype") != model.input.datatype:
        raise mismatch("datatype", model.input.datatype, tensor.get("datatype"))
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or [type(length) for length in shape] != [int, int]
        or shape[0] < 1
        or shape[1] != columns
    ):
        raise mismatch("shape", f"[rows, {columns}] with rows of 1 or more", shape)
    if shape[0] > limit:
        raise RequestError(413, f"input {name!r}: {shape[0]} rows, {limit} are the limit of one request")
    data = tensor.get("data")
    if not isinstance(data, list):
        raise mismatch("data", "as a JSON array (binary tensors are not supported)", type(data).__name__)
    if data and isinstance(data[0], list):
        if len(data) != shape[0] or any(type(row) is not list or len(row) != columns for row in data):
            raise mismatch(
                "data of", f"{shape[0]} rows of {columns} numbers", f"{len(data)} rows or rows of other lengths"
            )
        data = list(chain.from_iterable(data))
    if len(data) != shape[0] * columns:
        raise mismatch("data of", f"{shape[0] * columns} numbers for the shape {shape}", len(data))
    numbers = {int} if model.input.datatype == "INT64" else {int, float}
    strange = set(map(type, data)) - numbers
    if strange:
        wanted = "whole numbers" if numbers == {int} else "numbers"
        raise mismatch("data of", wanted, ", ".join(sorted(kind.__name__ for kind in strange)))
    try:
        with np.errstate(over="ignore"):
            rows = np.array(data, dtype=model.dtype).reshape(shape)
    except OverflowError:
        raise mismatch("data within the range of", model.input.datatype, "a larger number") from None
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        raise mismatch("finite numbers of datatype", model.input.datatype, "infinity or a number beyond its range")
    return rows


def _outputs(wanted: Any) -> tuple[str, ...]:
    if wanted is None or wanted == []:
        return OUTPUTS
    if not isinstance(wanted, list) or not all(isinstance(tensor, dict) for tensor in wanted):
        raise RequestError(400, "outputs is not a list of tensors")
    names = tuple(tensor.get("name") for tensor in wanted)
    for name in names:
        if name not in OUTPUTS:
            raise RequestError(400, f"no output {str(name)[:100]!r}, there are {', '.join(OUTPUTS)}")
    return names


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number in JSON")


# made once: json.loads and json.dumps make a new one for each call that wants anything special
_decode = json.JSONDecoder(parse_constant=_not_json).decode
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
