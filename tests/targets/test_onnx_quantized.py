import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.errors import InputError
from targets.onnx_float import FloatGraph
from targets.onnx_quantization import StaticScheme, dynamic, static
from targets.onnx_quantized import kept_float, refuse_quantized
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.profile import load_profile
from tests.models import calibration_of, convolutional, transformer

READS = OnnxruntimeCpu().capabilities(load_profile("host"))
QUANTIZED = [
    *(("", "QuantizeLinear"), ("", "DequantizeLinear"), ("", "DynamicQuantizeLinear"), ("", "QLinearConv")),
    *(("", "QLinearMatMul"), ("", "MatMulInteger"), ("", "ConvInteger"), ("com.microsoft", "DynamicQuantizeMatMul")),
    *(("com.microsoft", "QLinearAdd"), ("com.microsoft", "MatMulNBits"), ("com.microsoft", "QAttention")),
    *(("com.microsoft", "MatMulIntegerToFloat"), ("com.microsoft", "QGemm"), ("org.openvinotoolkit", "FakeQuantize")),
]


def model_of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes, "net", [], []))


@pytest.mark.parametrize(("domain", "operator"), QUANTIZED)
def test_a_quantized_node_is_named(domain, operator):
    before = helper.make_node("Conv", ["x", "w"], ["y"], "first")
    for name, said in (("layer/7", "its node layer/7 is"), ("", "its node that gives z is")):
        model = model_of(before, helper.make_node(operator, ["y"], ["z"], name, domain=domain))
        with pytest.raises(InputError, match=rf"net\.onnx is quantized already: {said} {domain}.*{operator}") as caught:
            refuse_quantized(model, "net.onnx")
        assert "float model" in caught.value.next_step


def test_a_quantized_node_in_a_branch_is_found():
    node = helper.make_node("QuantizeLinear", ["y", "s"], ["z"], "inner")
    branch = helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("z", TensorProto.INT8, [1])])
    model = model_of(helper.make_node("If", ["c"], ["o"], "outer", then_branch=branch, else_branch=branch))
    with pytest.raises(InputError, match="its node inner is QuantizeLinear"):
        refuse_quantized(model, "net.onnx")


@pytest.mark.parametrize("make", [convolutional, transformer])
def test_a_float_model_passes(tmp_path, make):
    refuse_quantized(onnx.load(make(tmp_path / "model").graph), "net.onnx")


def test_what_the_quantizers_here_write_is_refused(tmp_path):
    package = convolutional(tmp_path / "model")
    graph = FloatGraph(package, calibration_of(package))
    for route in (static("a", StaticScheme("uint8"), graph, READS), dynamic("b", graph, READS, "none")):
        (tmp_path / route.name).mkdir()
        with pytest.raises(InputError, match="is quantized already"):
            refuse_quantized(onnx.load(route.make(tmp_path / route.name).graph), "net.onnx")


@pytest.mark.parametrize(
    "operator",
    [
        *("Add", "Mul", "LeakyRelu", "Sigmoid", "Softmax", "AveragePool", "GlobalAveragePool"),
        *("Erf", "Softplus", "Tanh", "Elu", "HardSigmoid", "Sub", "ReduceMean"),
    ],
)
def test_between_pairs_that_is_in_float_which_the_runtime_leaves_so(tmp_path, operator):
    add = helper.make_node
    names = ["a", "a"] if operator in ("Add", "Mul", "Sub") else ["a"]
    nodes = [
        add("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        add("DequantizeLinear", ["q", "scale", "zero"], ["a"]),
        add(operator, names, ["b"], "it", **({"kernel_shape": [2, 2]} if operator == "AveragePool" else {})),
        add("QuantizeLinear", ["b", "scale", "zero"], ["p"]),
        add("DequantizeLinear", ["p", "scale", "zero"], ["y"]),
    ]
    constants = [numpy_helper.from_array(np.float32(0.1), "scale"), numpy_helper.from_array(np.uint8(100), "zero")]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 2, 4, 4]), ("y", None))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "net", ports[:1], ports[1:], constants),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    runs = {node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node}
    assert kept_float(model) == (f"1 {operator}" if operator in runs else "")


def test_operators_that_stay_in_float_are_counted(tmp_path):
    package = transformer(tmp_path / "model")
    assert "1 LayerNormalization" in kept_float(onnx.load(package.graph))
    (tmp_path / "out").mkdir()
    graph = FloatGraph(package, calibration_of(package))
    route = static("a", StaticScheme("uint8", ("MatMul", "Gemm")), graph, READS)
    left = kept_float(onnx.load(route.make(tmp_path / "out").graph))
    assert "Gelu" in left or "Erf" in left
    assert "MatMul" not in left
    assert "Gemm" not in left
