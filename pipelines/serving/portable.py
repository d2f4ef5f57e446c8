"""What must hold for an ONNX file before the runtime sees it: one self-contained file, standard operators only.

A model comes out of somebody's training code. External data would make the runtime read other files of this machine,
and an operator of another domain would need code that nobody checked. Both are told from the file's own protobuf
encoding, of which this reads just the fields that can hold a tensor or name a domain (numbers as in onnx.proto3).
"""

from __future__ import annotations

from collections.abc import Iterator

DOMAINS = ("", "ai.onnx", "ai.onnx.ml")

# message → field number → message it holds
NESTED = {
    "Model": {7: "Graph", 8: "OperatorSet", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Function": {7: "Node", 9: "OperatorSet", 11: "Attribute"},
}
# message → field number of the text that names a domain
DOMAIN = {"OperatorSet": 1, "Node": 7, "Function": 1}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # of Tensor

DEEPEST = 64  # graphs within graphs; recursion has an end even for a hostile file


def unportable(data: bytes) -> str:
    """Why this ONNX file is not self-contained and standard, or ""."""
    try:
        return _walk("Model", memoryview(data), 0)
    except (ValueError, IndexError):
        return "not an ONNX file"


def _walk(message: str, data: memoryview, depth: int) -> str:
    if depth > DEEPEST:
        return f"graphs are nested more than {DEEPEST} deep"
    for number, value in _fields(data):
        if message == "Tensor":
            if number == EXTERNAL_DATA or (number == DATA_LOCATION and value != 0):
                return "it keeps tensors in other files (external data); save it as one file"
        elif number == DOMAIN.get(message) and isinstance(value, memoryview):
            domain = bytes(value).decode()
            if domain not in DOMAINS:
                return f"it uses operators of the domain {domain!r}; only ai.onnx and ai.onnx.ml are served"
        elif number in NESTED.get(message, {}) and isinstance(value, memoryview):
            wrong = _walk(NESTED[message][number], value, depth + 1)
            if wrong:
                return wrong
    return ""


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, number or bytes) of one protobuf message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("not protobuf")
        if at + size > len(data):
            raise ValueError("cut off")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number without an end")
