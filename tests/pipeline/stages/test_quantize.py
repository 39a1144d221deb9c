import json
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration.errors import InputError, UnsupportedError
from pipeline.recipe import Budget, Device
from pipeline.stage import Work
from pipeline.stages.calibrate import Calibrate
from pipeline.stages.export import Export
from pipeline.stages.quantize import Quantize
from targets.onnx_graph import read_graph
from targets.onnx_saturation import saturating_layers
from targets.profile import Runtime, load_profile
from targets.target import ModelPackage
from tests.processor import CLIPS

HOST = Device(load_profile("host"), "onnxruntime-cpu", Budget())

# A target of a user's own: ONNX Runtime, with routes that go wrong in every way a route can.
ODD_TARGET = """
import numpy as np, onnx
from onnx import numpy_helper
from calibration.errors import UnsupportedError
from targets.onnx_graph import read_graph, write_package
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.target import Candidate


class Odd(OnnxruntimeCpu):
    def candidates(self, package, profile, calibration):
        def spoilt(factor):
            def make(folder, in_float=frozenset()):
                graph = read_graph(package)
                for weight in graph.graph.initializer:
                    array = numpy_helper.to_array(weight)
                    if array.ndim == 4:
                        weight.CopyFrom(numpy_helper.from_array(array * np.float32(factor), weight.name))
                return write_package(package, graph, folder, "int8")
            return make

        def refused(folder, in_float=frozenset()):
            raise UnsupportedError("the node Conv_0 is too wide")

        def broken(folder, in_float=frozenset()):
            graph = read_graph(package)
            graph.graph.node[0].input[0] = "nowhere"
            return write_package(package, graph, folder, "int8")

        return [
            Candidate("refused", "int8", refused),
            Candidate("broken", "int8", broken),
            Candidate("wrong", "int8", spoilt(-1)),
            Candidate("undefined", "int8", spoilt(np.nan)),
            Candidate("unwanted", "fp8", refused),
        ]
"""


# Whose one route clips nearly all that its first layer gives, and whose float has far more to do than that.
CLIPPING_TARGET = """
import numpy as np
import onnx
from onnx import helper, numpy_helper
from targets.onnx_graph import read_graph
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.target import Candidate


class Clipping(OnnxruntimeCpu):
    def candidates(self, package, profile, calibration):
        pairs = next(c for c in super().candidates(package, profile, calibration) if c.name.startswith("static-u8s8"))

        def make(folder, in_float=frozenset()):
            made = pairs.plain(folder, in_float)
            graph = read_graph(made)
            scales = [n.input[1] for n in graph.graph.node if n.op_type == "QuantizeLinear"]
            for tensor in graph.graph.initializer:
                if tensor.name == scales[0]:
                    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 200, tensor.name))
            onnx.save(graph, made.graph)
            return made

        return [Candidate("clipped", "int8", make)]

    def compile(self, package, profile, threads, out):
        made = super().compile(package, profile, threads, out)
        if package.precision == "fp32":
            file = out / made.files[0]
            graph = onnx.load(file)
            result = graph.graph.output[0].name
            for node in graph.graph.node:
                node.output[:] = ["before" if name == result else name for name in node.output]
            graph.graph.initializer.append(numpy_helper.from_array(np.zeros((256, 256), np.float32), "burden"))
            graph.graph.node.append(helper.make_node("ReduceMean", ["before"], ["burden_0"], keepdims=1))
            graph.graph.node.append(helper.make_node("Add", ["burden_0", "burden"], ["burden_1"]))
            for i in range(1, 9):
                graph.graph.node.append(helper.make_node("MatMul", [f"burden_{i}", "burden"], [f"burden_{i + 1}"]))
            graph.graph.node.append(helper.make_node("ReduceMean", ["burden_9"], ["nothing"], keepdims=0))
            graph.graph.node.append(helper.make_node("Add", ["before", "nothing"], [result]))
            onnx.save(graph, file)
        return made
"""


# Whose one route is right, and larger than the model was.
LARGE_TARGET = """
import numpy as np
from onnx import numpy_helper
from targets.onnx_graph import read_graph, write_package
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.target import Candidate


class Large(OnnxruntimeCpu):
    def candidates(self, package, profile, calibration):
        def make(folder, in_float=frozenset()):
            graph = read_graph(package)
            graph.graph.initializer.append(numpy_helper.from_array(np.zeros(9999, np.float32), "ballast"))
            return write_package(package, graph, folder, "int8")

        return [Candidate("large", "int8", make)]
"""


def work_in(folder: Path, recipe_folder: Path) -> Work:
    return Work(folder, folder, recipe_folder, nullcontext, lambda _fraction, _text: None)


@pytest.fixture(scope="module")
def package(tmp_path_factory, recipe_folder, task, data, teacher) -> Path:
    out = tmp_path_factory.mktemp("package")
    Export()(work_in(out, recipe_folder), task=task, data=data, model=teacher)
    return out


@pytest.fixture(scope="module")
def calibration(tmp_path_factory, recipe_folder, task, data) -> Path:
    out = tmp_path_factory.mktemp("calibration")
    work = work_in(out, recipe_folder)
    Calibrate(samples=48)(work, task=task, data=data, calibration_source=None, tokenizer=None)
    return out


@pytest.fixture
def quantize(make_work, task, data, package, calibration):
    def run(stage: Quantize, route: Device, work: Work | None = None) -> tuple[ModelPackage, dict]:
        work = work or make_work("quantize")
        stage(work, task=task, data=data, calibration=calibration, package=package, route=route)
        return ModelPackage.load(work.out), json.loads((work.out / "choice.json").read_text())

    return run


def test_everything_tried_is_written_down_and_the_fastest_is_kept(quantize, make_work):
    alone = []

    @contextmanager
    def measuring():
        alone.append(True)
        yield

    made, choice = quantize(Quantize(max_drop=5, seconds=10), HOST, replace(make_work("q"), measuring=measuring))
    assert alone == [True, True]
    assert choice["choice"] == "measured"
    tried = {c["name"]: c for c in choice["candidates"]}
    guarded = "-unsaturated" if CLIPS else ""
    assert {"float", f"static-u8s8{guarded}", "nncf", f"static-s8s8{guarded}"} <= set(tried)
    assert [c["name"] for c in choice["candidates"] if c["chosen"]] == [choice["chosen"]]
    assert all(c["why"] for c in tried.values())
    figures = tried[choice["chosen"]]["figures"]
    assert {"accuracy", "drop_points", "size_bytes", "latency_ms", "ratio_to_float"} <= set(figures)
    if choice["chosen"] != "float":
        assert figures["ratio_to_float"]["low95"] > 1
        assert figures["drop_points"] <= 5
    assert made.precision == tried[choice["chosen"]]["precision"]
    onnx.checker.check_model(onnx.load(made.graph))


@pytest.mark.parametrize(
    ("name", "target", "first"),
    [("raspberry-pi-5", "onnxruntime-cpu", "static-s8s8"), ("jetson-orin-nano", "tensorrt", "explicit-s8s8")],
)
def test_for_a_device_that_is_not_here_the_first_of_the_rule_that_holds_is_taken(quantize, name, target, first):
    made, choice = quantize(Quantize(max_drop=10), Device(load_profile(name), target, Budget()))
    assert (choice["choice"], choice["chosen"]) == ("rule", first)
    assert made.precision == "int8"
    assert not [c for c in choice["candidates"] if "latency_ms" in c["figures"]]


def test_for_a_cpu_without_vnni_its_arithmetic_is_imitated_and_what_it_clips_is_told(quantize):
    """Or had from this processor, if it is such a one. Of a runtime that is not here, so that nothing is timed."""
    profile = replace(load_profile("x86-64-avx2"), runtimes=(Runtime("onnxruntime-cpu", "==1.20.1"),))
    plain = Device(profile, "onnxruntime-cpu", Budget())
    made, choice = quantize(Quantize(max_drop=10, seconds=10), plain)
    assert (choice["choice"], choice["chosen"]) == ("rule", "static-u8s8-unsaturated")
    clipping = choice["clipping"]
    assert "16 bits" in clipping["what"]
    assert {"accuracy", "drop_points"} <= set(clipping["unguarded"])
    assert any(layer["channels"] > 0 for layer in clipping["layers"])
    # What ships is not in danger, whatever the input.
    feeds = [{made.inputs[0].name: np.zeros([1, *made.inputs[0].shape[1:]], np.float32)}]
    assert all(layer.channels == 0 for layer in saturating_layers(read_graph(made), feeds))


def test_an_engine_of_unknown_speed_must_at_least_be_smaller(quantize):
    made, choice = quantize(Quantize(max_drop=10), Device(load_profile("rtx-4060"), "tensorrt-rtx", Budget()))
    sizes = {c["name"]: c["figures"]["size_bytes"] for c in choice["candidates"]}
    assert sizes[choice["chosen"]] < sizes["float"]
    assert made.precision == "fp16"
    assert "not smaller than float" in next(c["why"] for c in choice["candidates"] if c["name"] == "explicit-s8s8")


def test_what_is_not_timed_must_at_least_be_smaller(quantize, recipe_folder):
    (recipe_folder / "large.py").write_text(LARGE_TARGET)
    made, choice = quantize(Quantize(max_drop=10), Device(load_profile("raspberry-pi-5"), "large.py:Large", Budget()))
    assert made.precision == "fp32"
    assert "is not smaller than float" in next(c["why"] for c in choice["candidates"] if c["name"] == "large")


def test_routes_that_go_wrong_are_told_and_the_float_model_is_kept(quantize, recipe_folder, package):
    (recipe_folder / "odd.py").write_text(ODD_TARGET)
    made, choice = quantize(Quantize(), replace(HOST, target="odd.py:Odd"))
    why = {c["name"]: c["why"] for c in choice["candidates"]}
    assert choice["chosen"] == "float"
    assert "no route" in why["float"]
    assert why["refused"] == "the node Conv_0 is too wide"
    assert "does not load it" in why["broken"]
    assert why["broken"].startswith("compiled/model.onnx")
    assert "points on 64 validation samples; 0.5 are allowed" in why["wrong"]
    assert "NaN" in why["undefined"]
    assert "unwanted" not in why
    assert made.graph.read_bytes() == ModelPackage.load(package).graph.read_bytes()


def test_a_fast_route_that_loses_too_much_is_kept_for_training(quantize, recipe_folder):
    (recipe_folder / "clipping.py").write_text(CLIPPING_TARGET)
    made, choice = quantize(Quantize(fast=True), replace(HOST, target="clipping.py:Clipping"))
    assert made.precision == "fp32"
    assert choice["chosen"] == "float"
    wrong = next(c for c in choice["candidates"] if c["name"] == "clipped")
    assert "points on" in wrong["why"]
    assert choice["trainable"] == {"name": "clipped", "max_drop": 0.5}
    assert ModelPackage.load(made.folder / "trainable").precision == "int8"


def test_no_smaller_type_than_asked_for_is_used(quantize):
    jetson = Device(load_profile("jetson-orin-nano"), "tensorrt", Budget())
    made, choice = quantize(Quantize(dtype="fp16", max_drop=10), jetson)
    assert [c["name"] for c in choice["candidates"]] == ["float", "half"]
    assert made.precision == "fp16"


def test_a_device_without_short_types_keeps_float(quantize):
    plain = replace(HOST, profile=replace(HOST.profile, precisions=("fp32",)))
    made, choice = quantize(Quantize(), plain)
    assert [(c["name"], c["why"]) for c in choice["candidates"]] == [
        ("float", "the target offers no route to fewer bits for this device and dtype")
    ]
    assert made.precision == "fp32"


def test_a_model_the_target_cannot_take_is_refused(make_work, task, data, calibration, package, tmp_path):
    package = ModelPackage.load(package).copy_to(tmp_path).folder
    graph = onnx.load(package / "model.onnx")
    graph.graph.node[0].domain = "made.up"
    graph.opset_import.append(onnx.helper.make_opsetid("made.up", 1))
    onnx.save(graph, package / "model.onnx")
    with pytest.raises(UnsupportedError, match=r"made\.up"):
        Quantize()(make_work("q"), task=task, data=data, calibration=calibration, package=package, route=HOST)


def test_nothing_is_left_in_scratch(quantize, make_work):
    work = make_work("q")
    quantize(Quantize(max_drop=5, seconds=0.1), HOST, work)
    assert list(work.scratch.iterdir()) == []


@pytest.mark.parametrize("points", [-1, np.nan, np.inf])
def test_a_drop_is_a_number_from_0_on(points):
    with pytest.raises(InputError, match=rf"quantize\.max_drop is {points:g}"):
        Quantize(max_drop=points)


@pytest.mark.parametrize("seconds", [0, -1, np.nan, np.inf])
def test_timing_takes_time(seconds):
    with pytest.raises(InputError, match=rf"quantize\.seconds is {seconds:g}"):
        Quantize(seconds=seconds)
