import json
import subprocess
import sys
from dataclasses import replace

import onnx
import pytest

from calibration.errors import UnsupportedError
from targets.profile import Runtime, load_profile
from targets.tensorrt import Tensorrt
from tests.models import answers_of, calibration_of, convolutional, inputs_of, transformer

JETSON = load_profile("jetson-orin-nano")


def test_the_device_gets_the_graph_its_shapes_and_the_command(tmp_path):
    compiled = Tensorrt().compile(transformer(tmp_path / "t"), JETSON, 1, tmp_path)
    assert compiled.status == "deferred_build"
    assert set(compiled.files) == {"model.onnx", "shapes.json"}
    assert compiled.build == {
        "command": [
            "trtexec",
            "--onnx=model.onnx",
            "--saveEngine=model.engine",
            "--stronglyTyped",
            "--skipInference",
            "--minShapes=input_ids:1x16,attention_mask:1x16",
            "--optShapes=input_ids:1x16,attention_mask:1x16",
            "--maxShapes=input_ids:256x16,attention_mask:256x16",
        ],
        "produces": "model.engine",
    }
    shapes = json.loads((tmp_path / "shapes.json").read_text())["inputs"]
    assert shapes["input_ids"] == [[1, 16], [1, 16], [256, 16]]


def test_precision_stands_in_the_graph(tmp_path):
    package = convolutional(tmp_path / "c")
    for candidate in Tensorrt().candidates(package, JETSON, calibration_of(package)):
        (folder := tmp_path / candidate.name).mkdir()
        (out := tmp_path / f"{candidate.name}-out").mkdir()
        compiled = Tensorrt().compile(candidate.make(folder), JETSON, 1, out)
        graph = onnx.load(out / "model.onnx")
        operators = {node.op_type for node in graph.graph.node}
        kinds = {weight.data_type for weight in graph.graph.initializer}
        if compiled.precision == "int8":
            assert "QuantizeLinear" in operators
        else:
            assert onnx.TensorProto.FLOAT16 in kinds
        assert compiled.build is not None
        assert not [part for part in compiled.build["command"] if part in ("--int8", "--fp16")]


def test_a_simulation_answers_here(tmp_path):
    package = convolutional(tmp_path / "c")
    (folder := tmp_path / "s").mkdir()
    simulation = Tensorrt().simulate(package, JETSON, folder)
    assert answers_of(simulation, inputs_of(package, 3)).shape == (3, 4)
    assert "simulation" in simulation.notes[0]


def test_versions_before_10_are_refused():
    old = replace(JETSON, runtimes=(Runtime("tensorrt", ">=8.5,<11"),))
    with pytest.raises(UnsupportedError, match="before 10"):
        Tensorrt().capabilities(old)


def test_the_library_is_never_imported(tmp_path):
    program = (
        "import sys; from pathlib import Path\n"
        "from targets.tensorrt import Tensorrt; from targets.profile import load_profile\n"
        "from tests.models import convolutional\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "Tensorrt().compile(convolutional(folder / 'c'), load_profile('jetson-orin-nano'), 1, folder)\n"
        "print('tensorrt' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
