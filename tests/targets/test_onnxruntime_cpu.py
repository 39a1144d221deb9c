from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration.errors import UnsupportedError
from calibration.saturation import LARGEST_PAIR, as_matrix, largest_pair
from targets import int8_kernels
from targets.onnx_integers import QuantizedGraph
from targets.onnx_products import optimized, products
from targets.onnx_quantized import is_of_pairs
from targets.onnx_ranges import answers
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.profile import Runtime, load_profile
from tests.models import (
    answers_of,
    calibration_of,
    convolutional,
    inputs_of,
    products_of_activations,
    recurrent,
    signal_to_noise_db,
    transformer,
)

HOST = load_profile("host")
PI = load_profile("raspberry-pi-5")
NUC = load_profile("intel-nuc")


def older(profile, versions):
    return replace(profile, runtimes=(Runtime("onnxruntime-cpu", versions),))


def names(package, profile):
    return [c.name for c in OnnxruntimeCpu().candidates(package, profile, calibration_of(package))]


def test_the_rule_follows_the_processor_and_the_architecture(tmp_path):
    network, text = convolutional(tmp_path / "c"), transformer(tmp_path / "t")
    plain = replace(NUC, isa=("sse4_2", "avx2"))
    assert names(network, NUC) == [
        "static-u8s8",
        "nncf",
        "static-s8s8",
        "static-u8s8-products",
        "static-u8s8-fused",
    ]
    assert names(network, PI)[0] == "static-s8s8"
    assert names(network, plain)[0] == "static-u8s8-unsaturated"
    assert names(text, NUC)[0] == names(text, PI)[0] == "dynamic"


@pytest.mark.parametrize("route", ["static-u8s8-unsaturated", "nncf"])
def test_without_vnni_weights_are_rounded_once(tmp_path, route):
    """The scale with which nothing clips may be the second that they get: the first must leave no trace in them."""
    package = convolutional(tmp_path / "c")
    routes = OnnxruntimeCpu().candidates(package, load_profile("x86-64-avx2"), calibration_of(package))
    (tmp_path / "made").mkdir()
    made = next(r for r in routes if r.name == route).as_it_is().make(tmp_path / "made")
    floats = [numpy_helper.to_array(w) for w in onnx.load(package.graph).graph.initializer if len(w.dims) > 1]
    quantized = QuantizedGraph(onnx.load(made.graph))
    weights = [c for c in quantized.constants.values() if c.values.ndim > 1 and c.step.any()]
    assert len(weights) == len(floats)
    for weight in weights:
        apart = [np.abs(w - weight.values) / weight.step for w in floats if w.shape == weight.values.shape]
        # What clips at the largest integer is farther: one in some thousand.
        assert min(np.quantile(each, 0.99) for each in apart) < 0.501


def test_a_recurrent_layer_gets_integer_weights(tmp_path):
    package = recurrent(tmp_path / "r")
    first = OnnxruntimeCpu().candidates(package, HOST, calibration_of(package))[0]
    for folder in ("made", "float", "int8"):
        (tmp_path / folder).mkdir()
    made = first.make(tmp_path / "made")
    assert "DynamicQuantizeLSTM" in [node.op_type for node in onnx.load(made.graph).graph.node]
    inputs = inputs_of(package, 1)
    expected = answers_of(OnnxruntimeCpu().compile(package, HOST, 1, tmp_path / "float"), inputs)
    found = answers_of(OnnxruntimeCpu().compile(made, HOST, 1, tmp_path / "int8"), inputs)
    assert signal_to_noise_db(expected, found) > 25
    assert [region.name for region in first.regions()] == ["lstm", "Gemm_3"]


def test_a_recurrent_layer_left_in_float_stays_as_it_was(tmp_path):
    package = recurrent(tmp_path / "r")
    first = OnnxruntimeCpu().candidates(package, HOST, calibration_of(package))[0]
    (tmp_path / "made").mkdir()
    made = first.make(tmp_path / "made", frozenset(first.regions()[0].nodes))
    operators = [node.op_type for node in onnx.load(made.graph).graph.node]
    assert "LSTM" in operators
    assert "DynamicQuantizeLSTM" not in operators


@pytest.mark.parametrize("profile", ["host", "x86-64-avx2"])
def test_dynamic_routes_leave_a_gemm_in_float_or_not(tmp_path, profile):
    package = transformer(tmp_path / "t")
    route = OnnxruntimeCpu().candidates(package, load_profile(profile), calibration_of(package))[0]
    counts = []
    for name, nodes in (("all", ()), ("but one", route.regions()[-1].nodes)):
        (tmp_path / name).mkdir()
        graph = onnx.load(route.make(tmp_path / name, frozenset(nodes)).graph)
        counts.append(sum("Integer" in node.op_type for node in graph.graph.node))
    assert "Gemm" in route.regions()[-1].name
    assert counts[1] == counts[0] - 1


def test_the_weights_of_a_gemm_may_be_the_first_that_are_scaled(tmp_path):
    """The quantizer holds the first of the settings against the graph that it was given."""
    package = recurrent(tmp_path / "r")
    route = OnnxruntimeCpu().candidates(package, load_profile("x86-64-avx2"), calibration_of(package))[0]
    (tmp_path / "made").mkdir()
    assert route.name == "dynamic-unsaturated"
    assert route.make(tmp_path / "made").precision == "int8"


def test_without_vnni_no_pair_of_weights_is_in_danger(tmp_path):
    package, plain = convolutional(tmp_path / "c"), replace(NUC, isa=("sse4_2", "avx2"))
    (folder := tmp_path / "made").mkdir()
    graph = onnx.load(OnnxruntimeCpu().candidates(package, plain, calibration_of(package))[0].make(folder).graph)
    weights = [numpy_helper.to_array(w) for w in graph.graph.initializer if w.data_type == onnx.TensorProto.INT8]
    kernels = [w for w in weights if w.ndim == 4]
    assert len(kernels) == 3
    assert all((largest_pair(as_matrix(k)) <= LARGEST_PAIR).all() for k in kernels)
    assert max(np.abs(k.astype(int)).max() for k in kernels) > 64
    (out := tmp_path / "out").mkdir()
    made = replace(package, folder=folder, precision="int8")
    assert OnnxruntimeCpu().compile(made, plain, 1, out).requires["isa"] == []


@pytest.mark.parametrize("front", ["Sigmoid", "Relu"])
@pytest.mark.parametrize("behind", ["", "Add"])
def test_without_vnni_no_product_of_activations_is_in_danger(tmp_path, front, behind):
    """Between the pairs of its neighbours the runtime finds one that has none of its own."""
    package = products_of_activations(tmp_path / "float", front, behind)
    routes = OnnxruntimeCpu().candidates(package, load_profile("x86-64-avx2"), calibration_of(package))
    for route in routes:
        (folder := tmp_path / route.name).mkdir()
        quantized = onnx.load(route.as_it_is().make(folder).graph)
        assert not [product for product in products(optimized(quantized)) if product.can_clip.any()], route.name


def test_int8_for_vnni_asks_for_it_and_float_does_not(tmp_path):
    package = convolutional(tmp_path / "c")
    for precision, flags in (("int8", ["avx_vnni"]), ("fp32", [])):
        (out := tmp_path / precision).mkdir()
        compiled = OnnxruntimeCpu().compile(replace(package, precision=precision), NUC, 1, out)
        assert compiled.requires["isa"] == flags


@pytest.mark.parametrize(("versions", "opset", "ir"), [(">=1.16,<2", 19, 9), (">=1.17", 20, 9), (">=1.20", 20, 10)])
def test_the_graph_fits_the_oldest_runtime_of_the_range(tmp_path, versions, opset, ir):
    package = convolutional(tmp_path / "c", opset=20)
    (out := tmp_path / "out").mkdir()
    compiled = OnnxruntimeCpu().compile(package, older(HOST, versions), 2, out)
    graph = onnx.load(out / compiled.files[0])
    assert (graph.opset_import[0].version, graph.ir_version) == (opset, ir)
    (plain := tmp_path / "plain").mkdir()
    inputs = inputs_of(package, 5)
    expected = answers_of(OnnxruntimeCpu().compile(package, HOST, 1, plain), inputs)
    assert np.allclose(answers_of(compiled, inputs), expected, atol=1e-5)
    assert compiled.options == {"threads": 2, "optimization": "all"}


def test_an_operator_without_an_older_form_is_refused(tmp_path):
    (out := tmp_path / "out").mkdir()
    with pytest.raises(UnsupportedError, match=r"(?s)opset 20 and has no form in opset 19.*Gelu"):
        OnnxruntimeCpu().compile(transformer(tmp_path / "t"), older(HOST, ">=1.16"), 1, out)


def test_operator_sets_that_no_node_uses_are_not_declared(tmp_path):
    package = convolutional(tmp_path / "c")
    for candidate in OnnxruntimeCpu().candidates(package, NUC, calibration_of(package)):
        if candidate.name.endswith("-fused"):
            continue
        (folder := tmp_path / candidate.name).mkdir()
        assert [o.domain for o in onnx.load(candidate.make(folder).graph).opset_import] == [""]


def test_a_package_of_another_runtime_is_refused(tmp_path):
    package = replace(convolutional(tmp_path / "c"), graphs={"model": "model.xml"})
    with pytest.raises(UnsupportedError, match=r"model.xml is not an ONNX file"):
        OnnxruntimeCpu().compile(package, HOST, 1, tmp_path)


def test_a_model_with_nothing_to_quantize_is_refused(tmp_path):
    package = convolutional(tmp_path / "c")
    calibration = calibration_of(package)
    graph = onnx.load(package.graph)
    del graph.graph.node[:], graph.graph.initializer[:]
    square = onnx.helper.make_node("Mul", ["pixel_values", "pixel_values"], ["square"], "square")
    means = onnx.helper.make_node("ReduceMean", ["square", "axes"], ["means"], "mean", keepdims=0)
    join = onnx.helper.make_node("Concat", ["means"] * 4, ["logits"], "join", axis=1)
    graph.graph.node.extend([square, means, join])
    graph.graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), "axes"))
    onnx.save(graph, package.graph)
    for architecture in ("convolutional", "transformer"):
        kind = replace(package, architecture=architecture)
        for candidate in OnnxruntimeCpu().candidates(kind, NUC, calibration):
            refused = f"{candidate.name} cannot take this model: .*no convolution or matrix product of it"
            with pytest.raises(UnsupportedError, match=refused):
                candidate.make(tmp_path)


def test_it_times_only_where_the_device_would_run_alike():
    able = OnnxruntimeCpu().capabilities
    assert able(HOST).executes_here
    assert able(PI).answers_here
    assert not able(PI).executes_here
    assert "aarch64" in able(PI).why_not
    assert not able(older(HOST, "==1.20.1")).executes_here


def test_a_timed_choice_depends_on_the_processor_and_a_rule_does_not():
    assert {"cpu", "onnxruntime"} <= set(OnnxruntimeCpu().decides_by(HOST))
    assert "cpu" not in OnnxruntimeCpu().decides_by(PI)


@pytest.mark.parametrize("model", [convolutional, transformer])
def test_sums_that_this_processor_clips_and_the_device_does_not_are_imitated(tmp_path, monkeypatch, model):
    """To what the operators of the graph, one by one in float, give: as on a machine without VNNI, whatever this is."""
    package = model(tmp_path / "model")
    calibration = calibration_of(package)
    monkeypatch.setattr(int8_kernels, "isa", lambda: frozenset({"avx2"}))
    for profile in (PI, NUC):
        able = OnnxruntimeCpu().capabilities(profile)
        assert able.imitated == int8_kernels.NOT_CLIPPED
        assert (able.clips, able.answers_as_it_ships) == ("", False)
        for route in OnnxruntimeCpu().candidates(package, profile, calibration):
            for folder in (made := tmp_path / f"{profile.name}-{route.name}", made / "package", made / "simulated"):
                folder.mkdir()
            quantized = route.make(made / "package")
            simulated = OnnxruntimeCpu().simulate(quantized, profile, made / "simulated")
            exact = answers(onnx.load(quantized.graph), [inputs_of(package, 32)])
            found = answers_of(simulated, inputs_of(package, 32))
            # Ties round otherwise; the integer graphs of the dynamic and the fused route have no form in float.
            if quantized.precision == "int8" and is_of_pairs(onnx.load(quantized.graph)):
                assert signal_to_noise_db(exact, found) > 30, route.name


def test_convolutions_of_the_dynamic_route_keep_eight_bits_where_sums_clip(tmp_path):
    package = replace(recurrent(tmp_path / "model"), architecture="recurrent")
    convolutions = replace(convolutional(tmp_path / "c"), architecture="recurrent")
    for kind in (package, convolutions):
        (out := tmp_path / f"{kind.folder.name}-int8").mkdir()
        route = OnnxruntimeCpu().candidates(kind, load_profile("x86-64-avx2"), calibration_of(kind))[0]
        assert route.name == "dynamic-unsaturated"
        made = onnx.load(route.make(out).graph)
    weights = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    integers = [weights[node.input[1]] for node in made.graph.node if node.op_type == "ConvInteger"]
    assert integers
    assert all(np.abs(w.astype(int)).max() == 127 for w in integers)


def test_an_architecture_without_a_release_is_refused():
    with pytest.raises(UnsupportedError, match="armv7l"):
        OnnxruntimeCpu().capabilities(replace(PI, architecture="armv7l"))
