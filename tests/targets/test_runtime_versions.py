import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from calibration.errors import InputError, UnsupportedError
from targets.device.versions import installed_version
from targets.profile import Runtime
from targets.runtime_versions import contains, fingerprint, not_here, onnxruntime_reads


@pytest.mark.parametrize(
    ("versions", "opset", "ir_version"),
    [
        (">=1.20,<2", 21, 10),
        (">=1.17,<2", 20, 9),
        ("==1.19.2", 21, 10),
        ("==1.31.1", 26, 13),
        (">1.23.9", 25, 13),
        ("~=1.23.1", 23, 11),
    ],
)
def test_the_oldest_of_the_range_decides(versions, opset, ir_version):
    assert onnxruntime_reads(Runtime("onnxruntime-cpu", versions)) == (opset, ir_version)


def test_a_range_without_a_known_version_is_refused():
    with pytest.raises(UnsupportedError, match="admits no version of ONNX Runtime"):
        onnxruntime_reads(Runtime("onnxruntime-cpu", "<1.10"))


def test_the_installed_version_reads_what_the_table_says_and_no_newer_form():
    opset, ir_version = onnxruntime_reads(Runtime("onnxruntime-cpu", f"=={installed_version('onnxruntime')}"))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])

    def load(opset: int, ir_version: int) -> None:
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    load(opset, ir_version)
    for newer in ((opset + 1, ir_version), (opset, ir_version + 1)):
        with pytest.raises((RuntimeError, onnxruntime.capi.onnxruntime_pybind11_state.Fail)):
            load(*newer)
    assert ir_version <= onnx.IR_VERSION


def test_a_range_that_is_none_is_refused_by_its_runtime():
    with pytest.raises(InputError, match="runtime openvino: 'newest' is not a range"):
        contains(Runtime("openvino", "newest"), "2026.1")


def test_why_a_runtime_is_not_here():
    version = installed_version("numpy")
    assert not_here(Runtime("x", f"=={version}"), "numpy") == ""
    assert not_here(Runtime("x", "<1"), "numpy") == f"numpy {version} is here, the device has <1"
    assert not_here(Runtime("x", "<1"), "no-such-thing") == "no-such-thing is not installed here"


def test_a_missing_tool_is_named():
    with pytest.raises(UnsupportedError, match="no-such-thing is not installed"):
        fingerprint(["numpy", "no-such-thing"])
