"""train: fit the model on the training part, export it to ONNX, and prove that the export answers as the model does."""

import sys
from typing import Any

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from digits.paths import directory, settings

PARITY = 1e-4  # largest difference of a probability between the trained model and its export


def fit(x: np.ndarray, y: np.ndarray, seed: int, params: dict[str, Any]) -> Pipeline:
    """One thread: sums in another order give another model, and the same seed shall give the same bytes."""
    network = MLPClassifier(
        hidden_layer_sizes=(params["hidden"],), alpha=params["alpha"], max_iter=params["max_iter"], random_state=seed
    )
    with threadpool_limits(limits=1):
        return make_pipeline(StandardScaler(), network).fit(x, y)


def export(model: Pipeline, columns: int) -> bytes:
    """ONNX with plain tensors as outputs (`zipmap`: no list of dictionaries) and a name that does not change."""
    sample = np.zeros((1, columns), np.float32)
    converted = to_onnx(model, sample, name="digits", options={"zipmap": False})
    # the converter lists them in the order of a set, which differs from process to process
    converted.opset_import.sort(key=lambda entry: entry.domain)
    return converted.SerializeToString(deterministic=True)


def parity(model: Pipeline, exported: bytes, x: np.ndarray) -> str:
    """What is wrong with the export, or "": converters change numbers without a word."""
    labels, probabilities = onnxruntime.InferenceSession(exported).run(None, {"X": x})
    worst = float(np.abs(probabilities - model.predict_proba(x)).max())
    differing = int((labels != model.predict(x)).sum())
    print(f"export: probabilities differ by at most {worst:.1e}, labels of {differing} of {len(x)} pictures")
    if worst <= PARITY and differing == 0:
        return ""
    return f"the ONNX export does not answer as the trained model does (allowed: {PARITY:.0e} and no label)"


def main() -> None:
    seed, params = settings()
    with np.load(directory("FEATURES_DIR") / "train.npz") as part:
        x, y = part["X"], part["y"]
    model = fit(x, y, seed, params)
    exported = export(model, x.shape[1])
    if wrong := parity(model, exported, x):
        sys.exit(wrong)
    (directory("MODEL_DIR") / "model.onnx").write_bytes(exported)
    print(f"model.onnx: {len(exported)} bytes, {model[-1].n_iter_} passes over {len(y)} pictures")


if __name__ == "__main__":
    main()
