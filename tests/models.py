"""ModelPackages made by hand: a residual convolutional network, a transformer and a recurrent network, all tiny."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calibration.dataset import CalibrationSet
from targets.device.runners import load_runner
from targets.target import CompiledModel, ModelPackage, TensorSpec

CHANNELS = 16
HIDDEN = 32
TOKENS = 16
VOCABULARY = 64
CLASSES = 4
BATCH = "batch"


class Graph:
    """Nodes and weights in the making; random weights are scaled as in He et al. 2015 (arXiv:1502.01852)."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, *shape: int, scale: float | None = None) -> str:
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        value = self.rng.normal(size=shape) * (np.sqrt(2 / fan_in) if scale is None else scale)
        return self.constant(value.astype(np.float32))

    def constant(self, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(value, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def add(self, op: str, *inputs: str, out: str = "", domain: str = "", **attributes) -> str:
        out = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out], f"{op}_{len(self.nodes)}", domain=domain, **attributes))
        return out

    def conv(self, x: str, c_in: int, c_out: int, stride: int = 1) -> str:
        w, b = self.weight(c_out, c_in, 3, 3), self.weight(c_out, scale=0.1)
        return self.add("Conv", x, w, b, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[stride, stride])

    def linear(self, x: str, n_in: int, n_out: int) -> str:
        return self.add("Add", self.add("MatMul", x, self.weight(n_in, n_out)), self.weight(n_out, scale=0.1))


def save(
    graph: Graph,
    folder: Path,
    inputs: list[TensorSpec],
    architecture: str,
    preprocessing: dict,
    opset: int,
    answer: tuple[str | int, ...] = (BATCH, CLASSES),
) -> ModelPackage:
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    output = TensorSpec("logits", "float32", answer)
    infos = [helper.make_tensor_value_info(s.name, kinds[s.dtype], s.shape) for s in (*inputs, output)]
    proto = helper.make_graph(graph.nodes, "net", infos[:-1], infos[-1:], graph.weights, doc_string="/a/local/path")
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    (folder / "vocabulary.txt").write_text("an asset")
    package = ModelPackage(
        folder=folder,
        graphs={"model": "model.onnx"},
        inputs=tuple(inputs),
        outputs=(output,),
        dims={BATCH: (1, 1, 256)},
        preprocessing=preprocessing,
        precision="fp32",
        architecture=architecture,
        macs=1,
        parameters=sum(int(np.prod(w.dims)) for w in graph.weights),
        assets=("vocabulary.txt",),
    )
    package.save()
    return package


def products_of_activations(folder: Path, front: str, behind: str) -> ModelPackage:
    """[batch, 4, 4] -> [batch, 4, 4]: front(x) by twice x, with twice x added behind it or not."""
    g = Graph(0)
    k = g.add("MatMul", "pixel_values", g.constant(2 * np.eye(4, dtype=np.float32) + np.float32(0.01)))
    x = g.add("MatMul", g.add(front, "pixel_values"), k)
    g.add("Identity", g.add(behind, x, k) if behind else x, out="logits")
    spec = TensorSpec("pixel_values", "float32", (BATCH, 4, 4))
    return save(g, folder, [spec], "convolutional", {}, 20, answer=(BATCH, 4, 4))


def convolutional(folder: Path, opset: int = 20, side: int = 12) -> ModelPackage:
    """[batch, 1, side, side] -> [batch, 4]: a stem, a residual block, a mean and a head."""
    g = Graph(0)
    x = g.add("Relu", g.conv("pixel_values", 1, CHANNELS, 2))
    y = g.add("Relu", g.conv(x, CHANNELS, CHANNELS))
    x = g.add("Relu", g.add("Add", g.conv(y, CHANNELS, CHANNELS), x))
    x = g.add("ReduceMean", x, g.constant(np.array([2, 3], np.int64)), keepdims=0)
    g.add("Gemm", x, g.weight(CHANNELS, CLASSES), g.weight(CLASSES, scale=0.1), out="logits")
    settings = {"kind": "image", "input": "pixel_values", "column": "image", "size": [side, side], "channels": 1}
    settings |= {"mean": [0.5], "std": [0.5], "layout": "NCHW"}
    spec = TensorSpec("pixel_values", "float32", (BATCH, 1, side, side))
    return save(g, folder, [spec], "convolutional", settings, opset)


def transformer(folder: Path) -> ModelPackage:
    """Tokens [batch, 16] -> [batch, 4]: embeddings, one layer with one head, a mean and a head."""
    g = Graph(0)
    x = g.add("Gather", g.weight(VOCABULARY, HIDDEN, scale=1.0), "input_ids")
    q, k, v = (g.linear(x, HIDDEN, HIDDEN) for _ in range(3))
    scores = g.add("MatMul", q, g.add("Transpose", k, perm=[0, 2, 1]))
    scores = g.add("Mul", scores, g.constant(np.array(HIDDEN**-0.5, np.float32)))
    mask = g.add("Cast", "attention_mask", to=TensorProto.BOOL)
    nothing, hidden = (g.constant(np.array(value, np.float32)) for value in (0.0, np.finfo(np.float32).min))
    mask = g.add("Where", mask, nothing, hidden)
    mask = g.add("Unsqueeze", mask, g.constant(np.array([1], np.int64)))
    attention = g.add("MatMul", g.add("Softmax", g.add("Add", scores, mask)), v)
    x = g.add(
        "LayerNormalization", g.add("Add", x, g.linear(attention, HIDDEN, HIDDEN)), g.constant(np.ones(HIDDEN, "f"))
    )
    x = g.add("Add", x, g.linear(g.add("Gelu", g.linear(x, HIDDEN, 2 * HIDDEN)), 2 * HIDDEN, HIDDEN))
    x = g.add("ReduceMean", x, g.constant(np.array([1], np.int64)), keepdims=0)
    g.add("Gemm", x, g.weight(HIDDEN, CLASSES), g.weight(CLASSES, scale=0.1), out="logits")
    names = ["input_ids", "attention_mask"]
    settings = {"kind": "text", "inputs": names, "max_length": TOKENS, "tokenizer": "tokenizer.json"}
    specs = [TensorSpec(name, "int64", (BATCH, TOKENS)) for name in names]
    return save(g, folder, specs, "transformer", settings, opset=20)


def recurrent(folder: Path) -> ModelPackage:
    """[batch, 16, 32] -> [batch, 4]: an LSTM along the second axis, its last state and a head."""
    g = Graph(0)
    x = g.add("Transpose", "frames", perm=[1, 0, 2])
    gates = [g.weight(1, 4 * HIDDEN, HIDDEN, scale=0.2) for _ in range(2)]
    g.nodes.append(helper.make_node("LSTM", [x, *gates], ["", "last"], "lstm", hidden_size=HIDDEN))
    x = g.add("Squeeze", "last", g.constant(np.array([0], np.int64)))
    g.add("Gemm", x, g.weight(HIDDEN, CLASSES), g.weight(CLASSES, scale=0.1), out="logits")
    spec = TensorSpec("frames", "float32", (BATCH, TOKENS, HIDDEN))
    return save(g, folder, [spec], "recurrent", {"kind": "none"}, opset=20)


def renamed_inside(model: onnx.ModelProto, *, nodes: bool = True, tensors: bool = True) -> onnx.ModelProto:
    """The same graph as another exporter would name it: its inputs and outputs keep their names."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    ports = {port.name for port in (*made.graph.input, *made.graph.output)}
    inside = [name for node in made.graph.node for name in node.output if name]
    inside += [tensor.name for tensor in made.graph.initializer]
    names = {name: f"other_{i}" for i, name in enumerate(inside) if tensors and name not in ports}
    for i, node in enumerate(made.graph.node):
        node.name = f"/other/{i}" if nodes else node.name
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in made.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    del made.graph.value_info[:]
    return made


def inputs_of(package: ModelPackage, samples: int, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    if package.architecture == "transformer":
        lengths = rng.integers(4, TOKENS + 1, samples)
        mask = (np.arange(TOKENS) < lengths[:, None]).astype(np.int64)
        return {"input_ids": rng.integers(0, VOCABULARY, (samples, TOKENS)) * mask, "attention_mask": mask}
    spec = package.inputs[0]
    return {spec.name: rng.normal(size=(samples, *spec.shape[1:])).astype(np.float32)}


def calibration_of(package: ModelPackage, samples: int = 32) -> CalibrationSet:
    ids = tuple(f"{i:064x}" for i in range(samples))
    return CalibrationSet(inputs_of(package, samples), ids, np.arange(samples) % CLASSES, seed=0)


def answers_of(model: CompiledModel, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return load_runner(model.runner, model.folder, list(model.files), model.options).run(inputs)["logits"]


def signal_to_noise_db(expected: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10((expected**2).sum() / max(((expected - found) ** 2).sum(), 1e-30)))
