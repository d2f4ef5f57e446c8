"""validate and analyze: is the data what mlops.yaml expects, and what does it look like."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from pipelines import config as contract
from pipelines.errors import Exit, YardError
from pipelines.evaluate import load_split
from pipelines.steps._step import InputPath, OutputPath, step


class Rows(TypedDict):
    rows: str


@step
def validate_data(*, data: InputPath, config: str) -> Rows:
    """Check every CSV file of `data` against `data.expect`.

    Raises YardError(FAILED) naming file, line and column of the first thing that is not as expected.
    """
    expect = contract.Config.model_validate_json(config).data.expect
    files = sorted(data.rglob("*.csv"))
    if not files:
        raise YardError(
            "the data step wrote no CSV file",
            where="mlops.yaml: data.command",
            todo="write CSV files to $DATA_DIR",
            code=Exit.FAILED,
        )
    rows, header, classes = 0, None, Counter[str]()
    for path in files:
        first, records = _read(path, path.relative_to(data))
        if header is None:
            header = first
        if first != header:
            raise YardError("the columns differ from those of the first file", where=f"{path.name}:1", code=Exit.FAILED)
        for line, record in records:
            rows += 1
            missing = sum(cell == "" for cell in record)
            if missing > expect.missing * len(record):
                column = header[record.index("")]
                raise YardError(f"column {column!r} is empty", where=f"{path.name}:{line}", code=Exit.FAILED)
            if expect.label:
                classes[record[_label(header, expect.label, path)]] += 1
    _enough(rows, classes, expect)
    print(f"{rows} rows, {len(header or [])} columns in {len(files)} file(s); classes {dict(sorted(classes.items()))}")
    return {"rows": str(rows)}


def _read(path: Path, name: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise YardError(f"not UTF-8 text: {error.reason}", where=f"{name}", code=Exit.FAILED) from None
    reader = csv.reader(io.StringIO(text, newline=""))

    def rows() -> Iterator[list[str]]:
        try:
            yield from reader
        except csv.Error as error:
            raise YardError(f"not CSV: {error}", where=f"{name}:{reader.line_num}", code=Exit.FAILED) from None

    given = rows()
    header = next(given, [])
    if not header:
        raise YardError("an empty file", where=f"{name}:1", code=Exit.FAILED)
    if len(set(header)) != len(header):
        raise YardError("a column name appears twice", where=f"{name}:1", code=Exit.FAILED)

    def records() -> Iterator[tuple[int, list[str]]]:
        for record in given:
            if len(record) != len(header):
                raise YardError(
                    f"{len(record)} cells, the header has {len(header)}",
                    where=f"{name}:{reader.line_num}",
                    code=Exit.FAILED,
                )
            yield reader.line_num, record

    return header, records()


def _label(header: list[str], label: str, path: Path) -> int:
    if label not in header:
        raise YardError(
            f"no column {label!r}", where=f"{path.name}:1", todo="is data.expect.label right?", code=Exit.FAILED
        )
    return header.index(label)


def _enough(rows: int, classes: Counter[str], expect: contract.Expect) -> None:
    if rows < expect.rows:
        raise YardError(f"{rows} rows, at least {expect.rows} expected", where="data.expect.rows", code=Exit.FAILED)
    if expect.classes and set(classes) != set(expect.classes):
        odd = sorted(set(classes) ^ set(expect.classes))
        raise YardError(f"labels that differ from data.expect.classes: {', '.join(odd[:10])}", code=Exit.FAILED)


@step
def analyze(*, features: InputPath, analysis: OutputPath) -> None:
    """Describe the two parts of the features: sizes, label shares, and how far each feature drifts between them.

    Drift is the difference of the means in units of the training part's standard deviation.
    """
    train_x, train_y, _ = load_split(features / "train.npz")
    test_x, test_y, _ = load_split(features / "test.npz")
    if train_x.shape[1] != test_x.shape[1]:
        raise YardError(
            f"train.npz has {train_x.shape[1]} columns, test.npz {test_x.shape[1]}",
            where="$FEATURES_DIR",
            code=Exit.FAILED,
        )
    deviation = train_x.std(axis=0, dtype=np.float64)
    moved = np.abs(test_x.mean(axis=0, dtype=np.float64) - train_x.mean(axis=0, dtype=np.float64))
    drift = moved / np.where(deviation > 0, deviation, 1)
    report: dict[str, Any] = {
        "train": {"rows": len(train_x), "labels": _shares(train_y)},
        "test": {"rows": len(test_x), "labels": _shares(test_y)},
        "columns": int(train_x.shape[1]),
        "constant_columns": int((deviation == 0).sum()),
        "largest_drift": {"column": int(drift.argmax()), "deviations": round(float(drift.max()), 4)},
        "rows_in_both": _overlap(train_x, test_x),
    }
    analysis.mkdir(parents=True)
    (analysis / "analysis.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    print(json.dumps(report, sort_keys=True))


def _shares(labels: np.ndarray[Any, Any]) -> dict[str, float]:
    names, counts = np.unique(labels, return_counts=True)
    return {str(name): round(float(count) / len(labels), 4) for name, count in zip(names, counts, strict=True)}


def _overlap(train: np.ndarray[Any, Any], test: np.ndarray[Any, Any]) -> int:
    """Rows of the test part that stand in the training part too: each is a leak."""
    seen = {row.tobytes() for row in train}
    return sum(row.tobytes() in seen for row in test)
