"""The torch form of a quantized graph answers as ONNX Runtime does, before and after training."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from calibration.errors import UnsupportedError
from calibration.saturation import LARGEST_PAIR, largest_pair
from pipeline.onnx_operators import OPERATORS
from pipeline.quantized_module import QuantizedModule
from targets.device.golden import sqnr_db
from targets.onnx_float import FloatGraph
from targets.onnx_products import optimized, products
from targets.onnx_quantization import PRODUCTS_AND_TABLES, StaticScheme, dynamic, static
from targets.onnx_repair import rescaled
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.profile import load_profile
from targets.target import ModelPackage
from tests import models
from tests.processor import GUARD

READS = OnnxruntimeCpu().capabilities(load_profile("host"))
EVERYTHING, PRODUCTS = None, PRODUCTS_AND_TABLES
SCHEMES = {
    "convolutional u8s8": ("convolutional", StaticScheme("uint8")),
    "convolutional s8s8": ("convolutional", StaticScheme("int8")),
    "convolutional symmetric, explicit": (
        "convolutional",
        StaticScheme("int8", ("Conv", "MatMul", "Gemm"), symmetric=True, explicit=True),
    ),
    "convolutional guarded": ("convolutional", StaticScheme("uint8", guard="pairs")),
    "transformer everything": ("transformer", StaticScheme("uint8", EVERYTHING)),
    "transformer products": ("transformer", StaticScheme("uint8", PRODUCTS)),
}


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """Scheme -> its package."""
    made: dict[str, ModelPackage] = {}

    def make(name: str) -> ModelPackage:
        if name not in made:
            kind, scheme = SCHEMES[name]
            if scheme.guard == "none":
                scheme = replace(scheme, guard=GUARD)
            package = getattr(models, kind)(tmp_path_factory.mktemp("float"))
            calibration = models.calibration_of(package)
            folder = tmp_path_factory.mktemp("int8")
            made[name] = static(name, scheme, FloatGraph(package, calibration), READS).make(folder)
        return made[name]

    return make


def session(model: onnx.ModelProto, optimized: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def in_torch(module: QuantizedModule, inputs: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return module(*(torch.from_numpy(x) for x in inputs.values())).numpy()


def shaken(model: onnx.ModelProto, by: float = 0.03) -> QuantizedModule:
    """As after some training: every weight and scale moved at random."""
    module = QuantizedModule(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            size = parameter.abs().mean().clamp(min=0.1)
            parameter.add_(by * size * torch.randn(parameter.shape, generator=generator))
    return module


def tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_trained_is_what_the_runtime_executes(quantized, scheme):
    package = quantized(scheme)
    model = onnx.load(package.graph)
    inputs = models.inputs_of(package, 64)
    for module in (QuantizedModule(model), shaken(model)):
        written = module.graph()
        onnx.checker.check_model(written)
        expected = in_torch(module, inputs)
        for fused in (False, True):
            found = np.asarray(session(written, fused).run(None, inputs)[0])
            # Sums in another order let single roundings fall the other way; fused kernels also round a float bias.
            assert sqnr_db(expected, found) > (30 if fused else 60)
            if not fused:
                assert np.median(np.abs(expected - found).max(axis=1)) < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_numbers_change_and_without_training_none(quantized, scheme):
    model = onnx.load(quantized(scheme).graph)
    same, other = QuantizedModule(model).graph(), shaken(model).graph()
    assert list(same.graph.node) == list(other.graph.node) == list(model.graph.node)
    before, unchanged, changed = tensors(model), tensors(same), tensors(other)
    assert {k: (v.dtype, v.shape) for k, v in changed.items()} == {k: (v.dtype, v.shape) for k, v in before.items()}
    inputs = models.inputs_of(quantized(scheme), 8)
    np.testing.assert_array_equal(*(session(m, optimized=False).run(None, inputs)[0] for m in (model, same)))
    if "explicit" not in scheme:  # where weights are stored as floats, they become those that they were rounded to
        assert all(np.array_equal(unchanged[name], array) for name, array in before.items())
    assert sum(not np.array_equal(changed[name], array) for name, array in before.items()) > 5
    assert all(np.array_equal(changed[n], a) for n, a in before.items() if n.endswith("zero_point"))


def test_scales_that_are_equal_around_what_hands_values_on_stay_equal(quantized):
    model = onnx.load(quantized("transformer everything").graph)
    before, after = tensors(model), tensors(shaken(model).graph())
    makers = {name: node for node in model.graph.node for name in node.output}
    checked = 0
    for node in model.graph.node:
        reads = makers.get(node.input[0])
        if node.op_type == "QuantizeLinear" and reads is not None and reads.op_type == "Transpose":
            scales = node.input[1], makers[reads.input[0]].input[1]
            assert before[scales[0]] == before[scales[1]]
            assert after[scales[0]] == after[scales[1]] != before[scales[0]]
            checked += 1
    assert checked


def test_weights_that_no_cpu_clips_are_still_such(quantized):
    model = onnx.load(quantized("convolutional guarded").graph)
    changed = tensors(shaken(model, by=0.5).graph())
    checked = 0
    for name, array in tensors(model).items():
        if array.dtype == np.int8 and array.ndim == 4:
            rows = array.transpose(2, 3, 1, 0).reshape(-1, len(array))
            assert np.abs(rows).max() > 64
            assert largest_pair(rows).max() <= LARGEST_PAIR
            now = changed[name].transpose(2, 3, 1, 0).reshape(-1, len(array))
            assert not np.array_equal(now, rows)
            assert largest_pair(now).max() <= LARGEST_PAIR
            checked += 1
    assert checked == 3


def test_seven_bits_stay_seven_bits(quantized):
    eight = onnx.load(quantized("transformer products").graph)
    model = rescaled(eight, {product.name: 2.0 for product in products(optimized(eight))})
    changed = tensors(shaken(model, by=0.5).graph())
    sevens = [n for n, a in tensors(model).items() if a.dtype == np.int8 and a.ndim == 2 and np.abs(a).max() <= 64]
    assert sevens
    assert all(np.abs(changed[name].astype(int)).max() <= 64 for name in sevens)


def test_every_weight_and_every_scale_of_an_activation_has_a_gradient(quantized):
    package = quantized("transformer products")
    module = QuantizedModule(onnx.load(package.graph))
    inputs = models.inputs_of(package, 16)
    module(*(torch.from_numpy(x) for x in inputs.values())).square().sum().backward()
    without = [n for n, p in zip(module._names, module._trained, strict=True) if p.grad is None or not p.grad.any()]
    assert without == []


# Of each operator: attributes, what it reads ("x" is the quantized input, of the shape that follows), constants.
X, IMAGE, TOKENS = (4, 6), (2, 4, 8, 8), (2, 5, 6)
RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


CASES: list[tuple[str, tuple[int, ...], list, dict]] = [
    *((op, X, ["x"], {}) for op in ("Abs", "Cos", "Erf", "Exp", "Identity", "Neg", "Relu", "Sigmoid", "Sin")),
    *((op, X, ["x"], {}) for op in ("Softplus", "Tanh", "Dropout", "Elu", "LeakyRelu", "HardSwish", "HardSigmoid")),
    *((op, X, ["x"], {}) for op in ("Gelu", "Softmax", "LogSoftmax", "Transpose", "Flatten", "Reciprocal")),
    *((op, X, ["positive"], {}) for op in ("Log", "Sqrt")),
    *((op, X, ["x", floats(6)], {}) for op in ("Add", "Sub", "Mul", "Max", "Min", "Sum", "Div", "PRelu")),
    *((op, X, ["x", floats(6)], {"then": "Cast"}) for op in ("Equal", "Greater", "GreaterOrEqual", "Less")),
    ("LessOrEqual", X, ["x", floats(6)], {"then": "Cast"}),
    *((op, X, ["bool", np.array([True, False] * 3)], {"then": "Cast"}) for op in ("And", "Or")),
    ("Not", X, ["bool"], {"then": "Cast"}),
    ("IsNaN", X, ["x"], {"then": "Cast"}),
    ("Cast", X, ["x"], {"to": TensorProto.DOUBLE}),
    ("Pow", X, ["x", np.array(2, np.float32)], {}),
    ("Clip", X, ["x", np.array(-0.5, np.float32), np.array(0.7, np.float32)], {}),
    ("Gelu", X, ["x"], {"approximate": "tanh"}),
    ("MatMul", TOKENS, ["x", floats(6, 3)], {}),
    ("Gemm", X, ["x", floats(6, 3), floats(3)], {"alpha": 0.5, "beta": 2.0}),
    ("Gemm", X, ["x", floats(3, 6)], {"transB": 1}),
    ("Gemm", X, ["x", floats(4, 3)], {"transA": 1}),
    ("Conv", IMAGE, ["x", floats(6, 2, 3, 3), floats(6)], {"group": 2, "pads": [1, 0, 1, 2], "strides": [2, 1]}),
    ("Conv", IMAGE, ["x", floats(6, 4, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [3, 2]}),
    ("Conv", IMAGE, ["x", floats(6, 4, 2, 2)], {"auto_pad": "SAME_LOWER"}),
    ("Conv", IMAGE, ["x", floats(6, 4, 2, 2)], {"dilations": [2, 3]}),
    ("Conv", (2, 4, 9), ["x", floats(6, 4, 3)], {"pads": [1, 1]}),
    ("MaxPool", IMAGE, ["x"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 0, 0]}),
    ("AveragePool", IMAGE, ["x"], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 1, 0, 0]}),
    ("AveragePool", IMAGE, ["x"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("GlobalAveragePool", IMAGE, ["x"], {}),
    ("GlobalMaxPool", IMAGE, ["x"], {}),
    ("BatchNormalization", IMAGE, ["x", floats(4), floats(4), floats(4), np.abs(floats(4))], {}),
    ("LayerNormalization", TOKENS, ["x", floats(6), floats(6)], {}),
    ("LayerNormalization", TOKENS, ["x", floats(5, 6)], {"axis": 1}),
    ("ReduceMean", IMAGE, ["x", integers(2, 3)], {"keepdims": 0}),
    ("ReduceMean", IMAGE, ["x"], {}),
    *((op, IMAGE, ["x", integers(-1)], {}) for op in ("ReduceSum", "ReduceMax", "ReduceMin")),
    ("ReduceSum", X, ["x"], {"noop_with_empty_axes": 1}),
    ("Reshape", TOKENS, ["x", integers(0, -1, 2)], {}),
    ("Squeeze", (3, 1, 4, 1), ["x", integers(-1)], {}),
    ("Squeeze", (3, 1, 4, 1), ["x"], {}),
    ("Unsqueeze", X, ["x", integers(-1, 0)], {}),
    ("Transpose", TOKENS, ["x"], {"perm": [1, 2, 0]}),
    ("Concat", TOKENS, ["x", floats(2, 1, 6)], {"axis": 1}),
    ("Split", TOKENS, ["x", integers(2, 3)], {"axis": 1, "outputs": 2}),
    ("Split", TOKENS, ["x"], {"axis": -1, "outputs": 3, "num_outputs": 3}),
    ("Slice", TOKENS, ["x", integers(1, -2), integers(99, 99), integers(1, 2)], {}),
    ("Slice", TOKENS, ["x", integers(-1), integers(-99), integers(1), integers(-2)], {}),
    ("Gather", TOKENS, ["x", integers(2, -1)], {"axis": 1}),
    ("Gather", (6,), ["x", np.array(3, np.int64)], {}),
    ("Pad", IMAGE, ["x", integers(0, 0, 1, 2, 0, 0, 0, 1)], {}),
    ("Pad", IMAGE, ["x", integers(1, 2), np.float32(3), integers(-1)], {}),
    ("Expand", (1, 6), ["x", integers(4, 1)], {}),
    ("Shape", TOKENS, ["x"], {"start": 1}),
    ("ConstantOfShape", X, [integers(2, 3)], {"value": numpy_helper.from_array(np.array([7], np.float32))}),
    ("Range", X, [*(np.array(v, np.int64) for v in (1, 9, 3))], {}),
    ("Where", X, ["bool", "x", np.array(-1, np.float32)], {}),
]


def test_every_operator_has_a_case():
    assert {op for op, *_ in CASES} == set(OPERATORS)


@pytest.mark.parametrize(("op", "shape", "reads", "attributes"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_an_operator_as_onnx_runtime_has_it(op, shape, reads, attributes):
    attributes = dict(attributes)
    then, outputs = attributes.pop("then", ""), attributes.pop("outputs", 1)
    constants = {"scale": np.array(0.02, np.float32), "zero": np.array(120, np.uint8), "one": np.float32([1.0])[0]}
    names = []
    for position, taken in enumerate(reads):
        if not isinstance(taken, str):
            constants[f"c{position}"] = taken
        names.append(taken if isinstance(taken, str) else f"c{position}")
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["whole"]),
        helper.make_node("DequantizeLinear", ["whole", "scale", "zero"], ["x"]),
        helper.make_node("Exp", ["x"], ["positive"]),
        helper.make_node("Greater", ["x", "one"], ["bool"]),
        helper.make_node(op, names, [f"made{i}" for i in range(outputs)], name="tried", **attributes),
    ]
    end = f"made{outputs - 1}"
    if then:
        nodes.append(helper.make_node("Cast", [end], ["cast"], to=TensorProto.FLOAT))
        end = "cast"
    kind = {"Shape": TensorProto.INT64, "Range": TensorProto.INT64, "Cast": TensorProto.DOUBLE}.get(
        op, TensorProto.FLOAT
    )
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(end, kind, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    inputs = {"input": floats(*shape)}
    found = np.asarray(session(model, optimized=False).run(None, inputs)[0])
    answer = in_torch(QuantizedModule(model), inputs)
    assert answer.shape == found.shape
    assert answer.dtype == found.dtype
    np.testing.assert_allclose(answer, found, rtol=1e-4, atol=1e-5)


def test_what_has_no_form_that_can_be_trained_is_named(tmp_path, quantized):
    package = models.transformer(tmp_path / "float")
    (tmp_path / "int8").mkdir()
    made = dynamic("dynamic", FloatGraph(package, models.calibration_of(package)), READS, "none").make(
        tmp_path / "int8"
    )
    with pytest.raises(UnsupportedError, match=r"node \w+ \(\w+\) has no form that can be trained"):
        QuantizedModule(onnx.load(made.graph))
    with pytest.raises(UnsupportedError, match="no activation"):
        QuantizedModule(onnx.load(package.graph))
    old = onnx.load(quantized("convolutional u8s8").graph)
    old.opset_import[0].version = 12
    with pytest.raises(UnsupportedError, match="opset 12"):
        QuantizedModule(old)


def test_a_bias_whose_scale_the_runtime_would_not_use_is_refused(quantized):
    model = onnx.load(quantized("convolutional u8s8").graph)
    [name] = {n.input[1] for n in model.graph.node if n.op_type == "DequantizeLinear" and "w1_" in n.input[0]}
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(2), name))
    with pytest.raises(UnsupportedError, match="times that of the weights"):
        QuantizedModule(model)
