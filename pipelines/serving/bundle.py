"""A model bundle: the directory that `evaluate` makes, the registry keeps and the server loads.

    model.onnx     the model
    bundle.json    what it is: its file by digest, inputs, outputs, labels, and a golden prediction

The golden prediction is a few rows with the answers that were given when the model was scored. A server that cannot
give them again (another file, another runtime, another processor) is not what was accepted, and does not start.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.errors import Exit, YardError
from pipelines.serving.model import Model, Rows

FORMAT = "trainyard/bundle/v1"
MODEL_FILE, BUNDLE_FILE = "model.onnx", "bundle.json"
TOLERANCE = 1e-4
LARGEST = 1 << 30  # bytes of a file; a larger model would not fit into the memory of a serving pod


class Golden(NamedTuple):
    """Rows and the answers that the model must give to them."""

    inputs: Rows
    label: list[Any]
    probabilities: Rows
    tolerance: float


class Bundle(NamedTuple):
    """What `bundle.json` says. `digest` ("sha256:…") is the registry's, of a directory of it and the model it names."""

    digest: str
    name: str
    model_sha256: str
    model_size: int
    labels: list[str]
    golden: Golden


def make_bundle(directory: Path, onnx_path: Path, golden_x: Rows, labels: Sequence[str], *, name: str) -> Bundle:
    """Write the bundle of a trained model into `directory`. `labels` are the classes of its training, in any order.

    Raises YardError(FAILED) if the model cannot be served.
    """
    try:
        data = _read(onnx_path, "write the model to $MODEL_DIR/model.onnx")
        model = Model(data, labels, name=name, where=str(onnx_path))
        model.labels = _in_model_order(labels, model, str(onnx_path))
        golden = _ask(model, np.asarray(golden_x, dtype=np.float32), str(onnx_path))
    except YardError as error:
        error.code = Exit.FAILED  # the user's own training wrote it
        raise
    text = _canonical(
        {
            "format": FORMAT,
            "name": name,
            "files": {MODEL_FILE: {"sha256": _sha256(data), "size": len(data)}},
            "inputs": [model.input._asdict()],
            "outputs": [tensor._asdict() for tensor in model.outputs],
            "labels": model.labels,
            "golden": {
                "inputs": golden.inputs.tolist(),
                "outputs": {"label": golden.label, "probabilities": golden.probabilities.tolist()},
                "tolerance": golden.tolerance,
            },
        }
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MODEL_FILE).write_bytes(data)
    (directory / BUNDLE_FILE).write_bytes(text)
    return read_bundle(directory)


def load_bundle(directory: Path, expect_digest: str = "", *, threads: int = 1) -> Model:
    """The model of a bundle, once every digest and the golden prediction hold. `expect_digest` "" = whichever it is.

    Raises YardError naming the file and what differs.
    """
    bundle = read_bundle(directory)
    if expect_digest and bundle.digest != expect_digest:
        raise _differs(directory / BUNDLE_FILE, f"its digest is {bundle.digest}, {expect_digest} is wanted")
    path = directory / MODEL_FILE
    data = _read(path)
    found = (len(data), _sha256(data))
    if found != (bundle.model_size, bundle.model_sha256):
        listed = f"{bundle.model_size} bytes, sha256 {bundle.model_sha256}"
        raise _differs(path, f"{found[0]} bytes, sha256 {found[1]}; {BUNDLE_FILE} lists {listed}")
    model = Model(data, bundle.labels, name=bundle.name, where=str(path), threads=threads)
    _check(model, bundle.golden, path)
    return model


def read_bundle(directory: Path) -> Bundle:
    """What a bundle says of itself, before any of it is believed. Raises YardError if it is not a bundle."""
    path = directory / BUNDLE_FILE
    text = _read(path, "--bundle takes the directory of a model bundle")
    try:
        body = json.loads(text)
        if body["format"] != FORMAT:
            raise ValueError(f"format {body['format']!r}, this platform reads {FORMAT!r}")
        if set(body["files"]) != {MODEL_FILE}:
            raise ValueError(f"files {sorted(body['files'])}, a bundle has {MODEL_FILE}")
        listed, golden = body["files"][MODEL_FILE], body["golden"]
        return Bundle(
            _tree_digest({BUNDLE_FILE: (_sha256(text), len(text)), MODEL_FILE: (listed["sha256"], listed["size"])}),
            str(body["name"]),
            str(listed["sha256"]),
            int(listed["size"]),
            [str(label) for label in body["labels"]],
            Golden(
                np.array(golden["inputs"], dtype=np.float32),
                list(golden["outputs"]["label"]),
                np.array(golden["outputs"]["probabilities"], dtype=np.float64),
                float(golden["tolerance"]),
            ),
        )
    except KeyError as error:
        raise YardError(f"not a model bundle: no {error.args[0]!r}", where=str(path)) from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise YardError(f"not a model bundle: {error}", where=str(path)) from None


def _ask(model: Model, rows: Rows, where: str) -> Golden:
    label, probabilities = model.predict(rows)
    if not len(rows):
        raise YardError("no rows for the golden prediction", where=where)
    told = [str(one) for one in label]
    strange = sorted(set(told) - set(model.labels))
    if strange:
        raise YardError(
            f"it answers {strange[0]!r}, which is none of the classes {', '.join(model.labels)}", where=where
        )
    likeliest = [model.labels[column] for column in probabilities.argmax(axis=1)]
    # some classifiers break ties between the two differently; most rows disagreeing means columns in another order
    if sum(a != b for a, b in zip(told, likeliest, strict=True)) * 2 > len(told):
        raise YardError(
            f"the labels {told} are not the classes with the highest probability, {likeliest}",
            where=where,
            todo="export the probabilities with one column a class, in the order of the sorted classes",
        )
    return Golden(rows, label.tolist(), probabilities, TOLERANCE)


def _in_model_order(labels: Sequence[str], model: Model, where: str) -> list[str]:
    """The classes in the order of the model's probabilities: as numbers if it answers with numbers, else as text."""
    if model.outputs[0].datatype != "INT64":
        return sorted(labels)
    try:
        return sorted(labels, key=int)
    except ValueError:
        raise YardError(f"it answers with whole numbers, the classes are {', '.join(labels)}", where=where) from None


def _check(model: Model, golden: Golden, path: Path) -> None:
    if golden.inputs.ndim != 2 or golden.inputs.shape[1] != model.input.shape[1] or not len(golden.inputs):
        rows = list(golden.inputs.shape)
        raise _differs(
            path, f"it takes {model.input.shape[1]} columns, the golden rows of {BUNDLE_FILE} have the shape {rows}"
        )
    label, probabilities = model.predict(golden.inputs)
    if label.tolist() != golden.label:
        raise _differs(path, f"it answers {label.tolist()} to the golden rows, not {golden.label}")
    if probabilities.shape != golden.probabilities.shape:
        raise _differs(path, f"{probabilities.shape[1]} probabilities a row, the golden rows have another number")
    worst = float(np.abs(probabilities - golden.probabilities).max())
    if not worst <= golden.tolerance:
        raise _differs(
            path, f"its probabilities for the golden rows are off by {worst:.2g}, {golden.tolerance:.0e} is allowed"
        )


def _differs(path: Path, what: str) -> YardError:
    return YardError(
        f"this is not the accepted model: {what}",
        where=str(path),
        todo="fetch the bundle again; if that does not help, release a lock whose bundle is whole",
        code=Exit.CONFLICT,
    )


def _read(path: Path, todo: str = "") -> bytes:
    try:
        size = path.stat().st_size
        if 0 < size <= LARGEST:
            return path.read_bytes()
    except OSError as error:
        raise YardError(f"cannot be read: {error.strerror}", where=str(path), todo=todo, code=Exit.NOT_FOUND) from None
    raise YardError("an empty file" if not size else f"{size} bytes, {LARGEST} at most", where=str(path), todo=todo)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _tree_digest(files: dict[str, tuple[str, int]]) -> str:
    """As `Registry.put_tree` computes it, which cannot be imported here: its client would double the time to ready."""
    listed = [{"path": path, "sha256": sha256, "size": size} for path, (sha256, size) in sorted(files.items())]
    return "sha256:" + _sha256(json.dumps({"files": listed}, sort_keys=True, separators=(",", ":")).encode())


def _canonical(body: dict[str, Any]) -> bytes:
    """The one way to write a bundle's description, so that equal bundles have equal digests."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"
