import pytest

from calibration.errors import UnsupportedError
from pipeline.recipe import Budget, Device
from pipeline.stages.compile import Compile
from targets.profile import load_profile
from targets.target import CompiledModel
from tests.models import convolutional


@pytest.mark.parametrize(("name", "target"), [("host", "onnxruntime-cpu"), ("jetson-orin-nano", "tensorrt")])
def test_the_target_of_the_device_compiles(make_work, tmp_path, name, target):
    package = convolutional(tmp_path / "package")
    said = []
    work = make_work("compile", lambda _fraction, text: said.append(text))
    Compile()(work, package=package.folder, device=Device(load_profile(name), target, Budget(), threads=2))
    compiled = CompiledModel.load(work.out)
    assert compiled.target == target
    assert compiled.options["threads"] == 2
    assert said == [f"fp32, {compiled.size_bytes / 1e6:.2f} MB, {compiled.status}"]


def test_a_target_that_the_device_has_not_is_refused(make_work, tmp_path):
    device = Device(load_profile("raspberry-pi-5"), "openvino", Budget())
    with pytest.raises(UnsupportedError, match="raspberry-pi-5 has no runtime 'openvino'"):
        Compile()(make_work("compile"), package=convolutional(tmp_path / "p").folder, device=device)
