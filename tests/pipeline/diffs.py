"""What `edgewright diff` compares in its tests."""

import numpy as np
import onnx
from onnx import numpy_helper

from targets.onnx_float import FloatGraph
from targets.onnx_quantization import StaticScheme, static
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.profile import load_profile
from tests.models import calibration_of, convolutional, inputs_of
from tests.processor import GUARD


def write_artifacts(folder):
    """Writes float.onnx, int8.onnx, wrong.onnx, whose first convolution has its weights transposed, and in.npz.

    fused.onnx is int8.onnx with integer operators.
    """
    package = convolutional(folder / "float")
    able = OnnxruntimeCpu().capabilities(load_profile("host"))
    for name, fused in (("int8", False), ("fused", True)):
        (folder / name).mkdir()
        scheme = StaticScheme("uint8", guard=GUARD, fused=fused)
        graph = FloatGraph(package, calibration_of(package))
        made = static("static", scheme, graph, able).as_it_is().make(folder / name)
        (folder / f"{name}.onnx").write_bytes(made.graph.read_bytes())
    (folder / "float.onnx").write_bytes(package.graph.read_bytes())
    wrong = onnx.load(folder / "int8.onnx")
    name = next(n for n in wrong.graph.node if n.op_type == "Conv").name
    own = next(n for n in onnx.load(package.graph).graph.node if n.name == name)
    tensor = next(t for t in wrong.graph.initializer if t.name == f"{own.input[1]}_quantized")
    swapped = np.ascontiguousarray(numpy_helper.to_array(tensor).swapaxes(2, 3))
    tensor.CopyFrom(numpy_helper.from_array(swapped, tensor.name))
    onnx.save(wrong, folder / "wrong.onnx")
    arrays = inputs_of(package, 4)
    np.savez(folder / "in.npz", **arrays)


def wrong_operator(folder):
    """The first convolution."""
    return next(n.name for n in onnx.load(folder / "float.onnx").graph.node if n.op_type == "Conv")
