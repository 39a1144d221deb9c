from dataclasses import replace

import numpy as np
import onnx
import openvino
import pytest
from onnx import numpy_helper

from calibration.errors import UnsupportedError
from calibration.saturation import LARGEST_PAIR, as_matrix, largest_pair
from targets import int8_kernels
from targets.device.versions import in_range, installed_version
from targets.onnx_ranges import answers
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.openvino import Openvino
from targets.openvino_exact import spell_out_quantization
from targets.openvino_format import read_openvino, save_openvino
from targets.profile import Runtime, load_profile
from targets.target import TensorSpec
from tests.models import (
    BATCH,
    CLASSES,
    Graph,
    answers_of,
    calibration_of,
    convolutional,
    inputs_of,
    products_of_activations,
    save,
    signal_to_noise_db,
    transformer,
)

NUC = load_profile("intel-nuc")


def test_fp32_is_fp32_in_storage_and_in_arithmetic(tmp_path):
    package = convolutional(tmp_path / "c")
    (ours := tmp_path / "openvino").mkdir()
    (theirs := tmp_path / "onnxruntime").mkdir()
    compiled = Openvino().compile(package, NUC, 1, ours)
    inputs = inputs_of(package, 16)
    expected = answers_of(OnnxruntimeCpu().compile(package, NUC, 1, theirs), inputs)
    # Of bfloat16 or float16 it would be 45 or 65 dB.
    assert signal_to_noise_db(expected, answers_of(compiled, inputs)) > 100
    assert (ours / "model.bin").stat().st_size >= 4 * package.parameters
    assert compiled.options == {"threads": 1, "inference_precision": "f32"}


@pytest.mark.parametrize("architecture", [convolutional, transformer])
def test_int8_weights_take_a_byte(tmp_path, architecture):
    package = architecture(tmp_path / "float")
    for candidate in Openvino().candidates(package, NUC, calibration_of(package)):
        (folder := tmp_path / candidate.name).mkdir()
        (out := tmp_path / f"{candidate.name}-out").mkdir()
        compiled = Openvino().compile(candidate.make(folder), NUC, 1, out)
        # The rest is scales, shapes and a bias in float.
        assert (compiled.folder / "model.bin").stat().st_size < 1.5 * package.parameters + 2000, candidate.name
        assert compiled.precision == "int8"


def test_the_device_needs_a_runtime_no_older_than_the_format(tmp_path):
    compiled = Openvino().compile(convolutional(tmp_path / "c"), NUC, 1, tmp_path)
    needed = compiled.requires["runtime"]["openvino"]
    assert in_range(installed_version("openvino"), needed)
    assert not in_range("2024.4.0", needed)
    assert in_range("2024.4.0", NUC.runtimes[0].version)


def test_a_device_of_older_versions_only_is_refused(tmp_path):
    old = replace(NUC, runtimes=(Runtime("openvino", ">=2023.1,<2024"),))
    with pytest.raises(UnsupportedError, match=r"the device's .* need not read"):
        Openvino().compile(convolutional(tmp_path / "c"), old, 1, tmp_path)


def test_a_graph_it_cannot_read_is_refused_with_the_operator(tmp_path):
    package = convolutional(tmp_path / "c")
    graph = onnx.load(package.graph)
    graph.graph.node[0].op_type, graph.graph.node[0].domain = "Wobble", "made.up"
    graph.opset_import.append(onnx.helper.make_opsetid("made.up", 1))
    onnx.save(graph, package.graph)
    with pytest.raises(UnsupportedError, match=r"(?s)OpenVINO cannot read model.onnx.*Wobble"):
        Openvino().compile(package, NUC, 1, tmp_path)


def test_another_architecture_is_refused_with_what_to_use():
    arm = replace(NUC, architecture="aarch64", isa=("asimd",))
    with pytest.raises(UnsupportedError, match="aarch64") as caught:
        Openvino().capabilities(arm)
    assert "onnxruntime-cpu" in caught.value.next_step


def test_a_batch_answers_as_its_samples_do(tmp_path):
    package = convolutional(tmp_path / "c")
    compiled = Openvino().compile(package, NUC, 1, tmp_path)
    inputs = inputs_of(package, 7)
    alone = [answers_of(compiled, {k: v[i : i + 1] for k, v in inputs.items()}) for i in range(7)]
    assert np.allclose(answers_of(compiled, inputs), np.concatenate(alone), atol=1e-4)


@pytest.mark.parametrize("model", [convolutional, transformer])
def test_sums_that_this_processor_clips_and_the_device_does_not_are_imitated(tmp_path, monkeypatch, model):
    """Without integer kernels OpenVINO computes its FakeQuantize operators in float, where no sum is clipped."""
    package, nuc = model(tmp_path / "model"), load_profile("intel-nuc")
    calibration, inputs = calibration_of(package), inputs_of(package, 32)
    monkeypatch.setattr(int8_kernels, "isa", lambda: frozenset({"avx2"}))
    assert Openvino().capabilities(nuc).imitated == int8_kernels.NOT_CLIPPED
    assert not Openvino().capabilities(load_profile("x86-64-avx2")).imitated
    for route in Openvino().candidates(package, nuc, calibration):
        for folder in (made := tmp_path / route.name, made / "package", made / "compiled", made / "simulated"):
            folder.mkdir()
        quantized = route.make(made / "package")
        compiled = Openvino().compile(quantized, nuc, 1, made / "compiled")
        config = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
        model = openvino.Core().read_model(made / "compiled" / compiled.files[0])
        # With a free batch and no integer kernels it takes the wrong channels of what it multiplies by before rounding.
        model.reshape({name: array.shape for name, array in inputs.items()})
        exact = openvino.Core().compile_model(model, "CPU", config)
        found = answers_of(Openvino().simulate(quantized, nuc, made / "simulated"), inputs)
        assert signal_to_noise_db(exact(inputs)[0], found) > 30, route.name


def test_in_front_of_integers_each_channel_keeps_its_own_bias(tmp_path):
    """Rows gathered by positions that follow from the batch keep OpenVINO from folding the shape of a bias in time."""
    g, channels = Graph(0), 8
    scale, zero = g.constant(np.float32(0.02)), g.constant(np.uint8(0))
    x = g.add("QuantizeLinear", g.add("Relu", g.conv("pixel_values", 1, channels)), scale, zero)
    x = g.add("ReduceMean", g.add("DequantizeLinear", x, scale, zero), g.constant(np.array([2, 3])))
    batch = g.add("Squeeze", g.add("Shape", "pixel_values", start=0, end=1))
    rows = g.add("Range", g.constant(np.int64(0)), batch, g.constant(np.int64(1)))
    first = g.add("Unsqueeze", g.add("Mul", rows, g.constant(np.int64(channels))), g.constant(np.array([1])))
    places = g.add("Add", first, g.constant(np.arange(channels)[None]))
    x = g.add("Gather", g.add("Reshape", x, g.constant(np.array([-1]))), places)
    g.add("Identity", g.linear(x, channels, CLASSES), out="logits")
    spec = TensorSpec("pixel_values", "float32", (BATCH, 1, 8, 8))
    package = save(g, tmp_path / "strided", [spec], "convolutional", {}, 20)
    (out := tmp_path / "out").mkdir()
    inputs = inputs_of(package, 4)
    found = answers_of(Openvino().compile(package, NUC, 1, out), inputs)
    assert signal_to_noise_db(answers(onnx.load(package.graph), [inputs]), found) > 60


@pytest.mark.parametrize("architecture", ["convolutional", "transformer"])
@pytest.mark.parametrize("first", ["signed", "unsigned", "weights"])
def test_without_vnni_no_product_by_activations_clips(tmp_path, architecture, first):
    """Their scales follow from the activations: what is as large as they go fills the integers of both."""
    g = Graph(0)
    x = g.add("MatMul", "pixel_values", g.constant((g.rng.uniform(0.9, 1, (8, 16)) / 8).astype(np.float32)))
    q, k = (g.add("MatMul", x, g.constant((g.rng.uniform(0.9, 1, (16, 16)) / 16).astype(np.float32))) for _ in range(2))
    if first == "weights":
        q = g.constant(g.rng.uniform(0.9, 1, (6, 16)).astype(np.float32))
    elif first == "unsigned":
        # A ReLU would become part of the product in front, whose answers have a sign.
        q = g.add("Sigmoid", q)
    scores = g.add("MatMul", q, g.add("Transpose", k, perm=[0, 2, 1]))
    x = g.add("ReduceMean", scores, g.constant(np.array([1])), keepdims=0)
    g.add("MatMul", x, g.constant(g.rng.uniform(-1, 1, (6, CLASSES)).astype(np.float32)), out="logits")
    package = save(
        g, tmp_path / "float", [TensorSpec("pixel_values", "float32", (BATCH, 6, 8))], "convolutional", {}, 20
    )
    calibration, package = calibration_of(package), replace(package, architecture=architecture)
    inputs = {"pixel_values": np.concatenate([np.full((1, 6, 8), sign * 9, np.float32) for sign in (1, -1)])}
    assert_sums_are_exact(package, calibration, inputs, tmp_path)


@pytest.mark.parametrize("front", ["Sigmoid", "Relu", "Identity"])
@pytest.mark.parametrize("behind", ["", "Add"])
def test_without_vnni_a_product_of_activations_may_be_the_answer_or_lie_between_pairs(tmp_path, front, behind):
    package = products_of_activations(tmp_path / "float", front, behind)
    inputs = {"pixel_values": np.full((2, 4, 4), 9, np.float32)}
    assert_sums_are_exact(package, calibration_of(package), inputs, tmp_path)


@pytest.mark.parametrize(("layer", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_a_recurrent_layer_computes_what_it_says(tmp_path, layer, gates):
    g = Graph(0)
    x = g.add("Transpose", "pixel_values", perm=[1, 0, 2])
    weights = [g.weight(1, gates * 8, n, scale=0.5) for n in (5, 8)]
    g.nodes.append(onnx.helper.make_node(layer, [x, *weights], ["", "last"], "layer", hidden_size=8))
    g.add("Identity", g.linear(g.add("Squeeze", "last", g.constant(np.array([0]))), 8, CLASSES), out="logits")
    spec = TensorSpec("pixel_values", "float32", (BATCH, 6, 5))
    package = save(g, tmp_path / "float", [spec], "recurrent", {}, 20)
    assert_sums_are_exact(package, calibration_of(package), inputs_of(package, 8), tmp_path)


def assert_sums_are_exact(package, calibration, inputs, folder):
    """By every route, on a CPU that clips."""
    profile = load_profile("x86-64-avx2")
    for route in Openvino().candidates(package, profile, calibration):
        made, out, exact = (folder / f"{route.name}-{name}" for name in ("made", "out", "exact"))
        for path in (made, out, exact):
            path.mkdir()
        quantized = route.as_it_is().make(made)
        compiled = Openvino().compile(quantized, profile, 1, out)
        found = answers_of(compiled, inputs)
        model = read_openvino(quantized.graph)
        spell_out_quantization(model)
        save_openvino(model, exact)
        assert signal_to_noise_db(answers_of(replace(compiled, folder=exact), inputs), found) > 35, route.name


def test_layers_go_back_to_float_with_their_biases(tmp_path):
    """By every route, any of them: OpenVINO has a bias as an operator of its own, which alone has the layer's name."""
    package = convolutional(tmp_path / "float")

    def integers(route, in_float):
        (folder := tmp_path / f"{route.name}-{len(list(tmp_path.iterdir()))}").mkdir()
        model = read_openvino(route.make(folder, in_float).graph)
        constants = [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]
        return sum(node.get_element_type().get_type_name() == "i8" and node.get_data().size > 1 for node in constants)

    for route in Openvino().candidates(package, NUC, calibration_of(package)):
        if route.name.startswith("nncf"):
            regions = route.regions()
            assert integers(route, frozenset()) == len(regions)
            for region in regions:
                assert integers(route, frozenset(region.nodes)) == len(regions) - 1, region


@pytest.mark.parametrize("second", ["transposed convolution", "transposed matrix"])
def test_weights_of_two_layers_are_read_as_each_does(tmp_path, second):
    g = Graph(0)
    weights = g.weight(4, 4, 2, 2)
    x = g.add("ConvTranspose", g.add("Relu", g.add("Conv", "pixel_values", weights)), weights)
    x = g.add("ReduceMean", x, g.constant(np.array([2, 3])), keepdims=0)
    if second == "transposed matrix":
        x = g.add("ReduceMean", "pixel_values", g.constant(np.array([2, 3])), keepdims=0)
        weights = g.weight(4, 4)
        x = g.add("Gemm", g.add("Relu", g.add("Gemm", x, weights)), weights, transB=1)
    g.add("Identity", x, out="logits")
    spec = TensorSpec("pixel_values", "float32", (BATCH, 4, 6, 6))
    package = save(g, tmp_path / "float", [spec], "convolutional", {}, 20)
    inputs = inputs_of(package, 4)
    (out := tmp_path / "out").mkdir()
    expected = answers(onnx.load(package.graph), [inputs])
    assert signal_to_noise_db(expected, answers_of(Openvino().compile(package, NUC, 1, out), inputs)) > 60
    assert_sums_are_exact(package, calibration_of(package), inputs, tmp_path)


@pytest.mark.parametrize("axis", [1, 2])
def test_behind_a_reduction_each_channel_keeps_its_own_factor(tmp_path, axis):
    g = Graph(0)
    x = g.add("ReduceMean", "pixel_values", g.constant(np.array([axis])), keepdims=0)
    size = {1: 8, 2: 6}[axis]
    x = g.add("Mul", x, g.constant(g.rng.uniform(0.5, 2, (1, size)).astype(np.float32)))
    g.add("Identity", g.linear(x, size, CLASSES), out="logits")
    spec = TensorSpec("pixel_values", "float32", (BATCH, 6, 8))
    package = save(g, tmp_path / "float", [spec], "convolutional", {}, 20)
    inputs, calibration = inputs_of(package, 4), calibration_of(package)
    # For a transformer NNCF multiplies by itself in front of what it rounds.
    package = replace(package, architecture="transformer")
    (out := tmp_path / "out").mkdir()
    expected = answers(onnx.load(package.graph), [inputs])
    assert signal_to_noise_db(expected, answers_of(Openvino().compile(package, NUC, 1, out), inputs)) > 60
    assert_sums_are_exact(package, calibration, inputs, tmp_path)


@pytest.mark.parametrize("depth", [1, 3, 4, 5])
@pytest.mark.parametrize("sign", [1, -1])
def test_without_vnni_weights_are_as_large_as_no_sum_clips(tmp_path, depth, sign):
    """Whatever the input, on a CPU that clips, too: here with the largest activations there are."""
    g = Graph(depth)
    x = g.add("Relu", g.conv("pixel_values", depth, 16)) if sign > 0 else g.conv("pixel_values", depth, 16)
    x = g.add("Conv", x, g.weight(16, 1, 3, 3), group=16)
    # Two filters a channel are no depthwise convolution: places of the kernel are neighbours there.
    x = g.add("Conv", x, g.weight(32, 1, 3, 3), group=16)
    x = g.add("ReduceMean", g.add("Relu", g.conv(x, 32, 5)), g.constant(np.array([2, 3])), keepdims=0)
    g.add("Identity", g.linear(x, 5, CLASSES), out="logits")
    spec = TensorSpec("pixel_values", "float32", (BATCH, depth, 8, 8))
    package = save(g, tmp_path / "float", [spec], "convolutional", {}, 20)
    routes = Openvino().candidates(package, load_profile("x86-64-avx2"), calibration_of(package))
    route = next(route for route in routes if route.name == "static-u8s8-unsaturated")
    for folder in (made := tmp_path / "made", out := tmp_path / "out"):
        folder.mkdir()
    quantized = route.as_it_is().make(made)
    graph = onnx.load(quantized.graph)
    weights = [numpy_helper.to_array(w) for w in graph.graph.initializer if w.data_type == onnx.TensorProto.INT8]
    kernels = {w.shape: w for w in weights if w.ndim == 4}
    # Where no weight has a neighbour nothing is taken from them.
    assert np.abs(kernels[16, 1, 3, 3].astype(int)).max(axis=(1, 2, 3)).tolist() == [127] * 16
    assert np.abs(kernels[32, 1, 3, 3].astype(int)).max() <= 64
    for kernel in kernels.values():
        channels = np.concatenate([kernel, np.zeros_like(kernel[:, :1])], axis=1) if len(kernel[0]) % 2 else kernel
        assert (largest_pair(as_matrix(channels)) <= LARGEST_PAIR).all()
    inputs = {"pixel_values": np.full((2, depth, 8, 8), 9 * sign, np.float32)}
    found = answers_of(Openvino().compile(quantized, load_profile("x86-64-avx2"), 1, out), inputs)
    assert signal_to_noise_db(answers(graph, [inputs]), found) > 40
