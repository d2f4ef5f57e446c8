"""Makes the models beside it, each a few hundred bytes: `python make.py DIRECTORY`, where `onnx` is installed.

It is among examples/digits' requirements; a test runs this there and compares, so the files are what is written here.
"""

import sys
from pathlib import Path

import onnx
from onnx import parser

WEIGHTS = (
    "1, 0, 0, 0, 1, 0, 0, 0, 1, 0.5, 0.25, 0.125"  # 4 columns → 3 classes; the largest of the first three columns wins
)

HEAD = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3{more}], producer_name: "trainyard"> g '
SOFTMAX = "scores = MatMul (X, w) probabilities = Softmax <axis = -1> (scores)"
ARGMAX = "label = ArgMax <axis = -1, keepdims = 0> (scores)"


def text(
    *,
    x: str = "float[N, 4] X",
    label: str = "int64[N] label",
    probabilities: str = "float[N, 3] probabilities",
    kind: str = "float",
    nodes: str = f"{SOFTMAX} {ARGMAX}",
    more: str = "",
) -> str:
    weights = f"<{kind}[4, 3] w = {{{WEIGHTS}}}>"
    return f"{HEAD.format(more=more)}({x}) => ({label}, {probabilities}) {weights} {{ {nodes} }}"


WORDS = (
    f"{SOFTMAX} column = ArgMax <axis = -1, keepdims = 0> (scores) "
    'label = ai.onnx.ml.LabelEncoder <keys_int64s = [0, 1, 2], values_strings = ["cat", "dog", "emu"]> (column)'
)
ZIPMAP = (
    f"scores = MatMul (X, w) p = Softmax <axis = -1> (scores) {ARGMAX} "
    "probabilities = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1, 2]> (p)"
)

MODELS = {
    "linear": text(),
    "words": text(label="string[N] label", nodes=WORDS),
    "double": text(x="double[N, 4] X", kind="double", probabilities="double[N, 3] probabilities"),
    "whole": text(x="int64[N, 4] X", nodes=f"f = Cast <to = 1> (X) {SOFTMAX.replace('X,', 'f,')} {ARGMAX}"),
    # what must be refused
    "zipmap": text(nodes=ZIPMAP, probabilities="seq(map(int64, float)) probabilities"),
    "contrib": text(
        nodes=f"g = com.microsoft.Gelu (X) {SOFTMAX.replace('X,', 'g,')} {ARGMAX}", more=', "com.microsoft" : 1'
    ),
    "onerow": text(x="float[1, 4] X"),
    "anycolumns": text(x="float[N, M] X"),
    "backwards": text(nodes=f"{SOFTMAX} label = ArgMin <axis = -1, keepdims = 0> (scores)"),
    "stranger": text(nodes=f"{SOFTMAX} l = ArgMax <axis = -1, keepdims = 0> (scores) label = Add (l, l)"),
    "nan": text(nodes="s = MatMul (X, w) n = Neg (s) r = Sqrt (n) probabilities = Softmax <axis = -1> (r) "
                "label = ArgMax <axis = -1, keepdims = 0> (r)"),
}  # fmt: skip


def main(directory: Path) -> None:
    for name, source in MODELS.items():
        model = parser.parse_model(source)
        (directory / f"{name}.onnx").write_bytes(model.SerializeToString())
    model = parser.parse_model(MODELS["linear"])
    weights = model.graph.initializer[0]
    weights.ClearField("float_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="weights.bin")
    (directory / "external.onnx").write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
