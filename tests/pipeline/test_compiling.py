from dataclasses import dataclass, replace

import onnx
import pytest

from calibration.errors import UnsupportedError
from pipeline.compiling import compiled
from pipeline.recipe import Budget, Device
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.profile import load_profile
from targets.target import CompiledModel
from tests.models import convolutional

HOST = Device(load_profile("host"), "onnxruntime-cpu", Budget())


@pytest.fixture
def package(tmp_path):
    return convolutional(tmp_path / "c")


def test_what_the_runtime_loads_is_returned(package, tmp_path):
    assert compiled(package, OnnxruntimeCpu(), HOST, tmp_path).size_bytes > 0


def test_what_the_runtime_does_not_load_is_refused(package, tmp_path):
    graph = onnx.load(package.graph)
    graph.graph.node[0].op_type = "Convolve"
    onnx.save(graph, package.graph)
    with pytest.raises(UnsupportedError, match="Convolve"):
        compiled(package, OnnxruntimeCpu(), HOST, tmp_path)


@dataclass(frozen=True)
class Elsewhere(OnnxruntimeCpu):
    """Has no such runtime here."""

    def capabilities(self, profile):
        return replace(super().capabilities(profile), answers_here=False)

    def compile(self, package, profile, threads, out):
        made = super().compile(package, profile, threads, out)
        (out / made.files[0]).write_bytes(b"of another format")
        return CompiledModel.load(out)


def test_what_is_for_another_machine_is_not_loaded(package, tmp_path):
    assert compiled(package, Elsewhere(), HOST, tmp_path).size_bytes == len(b"of another format")
