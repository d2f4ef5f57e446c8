"""Run inside the built image before anything is trained: does the code do what it says, on this image's libraries?"""

import json

import numpy as np
import pytest
from digits import ingest, process, train

PARAMS = {"hidden": 16, "alpha": 0.0001, "max_iter": 40, "test_share": 0.25}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """The directories and the parameters file, as the platform would give them."""
    for name in ("DATA_DIR", "FEATURES_DIR", "MODEL_DIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "params.json").write_text(json.dumps({"seed": 7, "params": PARAMS}))
    monkeypatch.setenv("PARAMS_FILE", str(tmp_path / "params.json"))
    return tmp_path


def features(workspace, part):
    with np.load(workspace / "FEATURES_DIR" / f"{part}.npz") as arrays:
        return arrays["X"], arrays["y"]


def test_the_raw_data_has_a_header_and_a_row_for_each_picture(workspace):
    ingest.main()
    header, *rows = (workspace / "DATA_DIR" / "digits.csv").read_text().splitlines()
    assert header.startswith("p00,p01,")
    assert header.endswith(",p77,label")
    assert len(rows) == 1797
    assert all(row.count(",") == 64 for row in rows)


def test_the_split_keeps_the_share_of_every_digit_and_is_the_same_whatever_the_seed(workspace):
    ingest.main()
    process.main()
    train_x, train_y = features(workspace, "train")
    test_x, test_y = features(workspace, "test")
    assert train_x.dtype == test_x.dtype == np.float32
    assert len(train_y) + len(test_y) == 1797
    shares = np.bincount(train_y) / len(train_y) - np.bincount(test_y) / len(test_y)
    assert np.abs(shares).max() < 0.01
    (workspace / "params.json").write_text(json.dumps({"seed": 8, "params": PARAMS}))
    process.main()
    assert np.array_equal(features(workspace, "test")[0], test_x)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_a_small_model_learns_is_exported_and_is_the_same_again(workspace):
    ingest.main()
    process.main()
    x, y = features(workspace, "train")
    model = train.fit(x, y, 7, PARAMS)
    assert np.allclose(model[0].mean_, x.mean(axis=0), atol=1e-4)  # the scaler saw the training part, nothing else
    test_x, test_y = features(workspace, "test")
    assert model.score(test_x, test_y) > 0.85
    exported = train.export(model, 64)
    assert train.parity(model, exported, x) == ""
    assert train.export(train.fit(x, y, 7, PARAMS), 64) == exported


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_an_export_of_another_model_is_noticed():
    x = np.random.default_rng(7).normal(size=(60, 4)).astype(np.float32)
    y = np.arange(60) % 3
    model, other = (train.fit(x, y, seed, PARAMS) for seed in (1, 2))
    assert "does not answer as the trained model does" in train.parity(model, train.export(other, 4), x)
