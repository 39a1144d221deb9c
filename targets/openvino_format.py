"""Models in OpenVINO: read and saved such that OpenVINO 2026.4 computes what they say, as the same bytes each time."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from targets.onnx_own_weights import with_own_weights

if TYPE_CHECKING:
    from openvino import Model

FILES = ("model.xml", "model.bin")


def read_openvino(source: "Path | bytes") -> "Model":
    """A model of a file (.onnx, or .xml beside its .bin) or of ONNX's bytes. Raises RuntimeError as OpenVINO does.

    Weights that two products read each in its own way (a convolution and a transposed one, a matrix and its transpose)
    OpenVINO lays out for one of them: each gets its own.
    """
    from openvino import Core

    model = Core().read_model(_with_own_weights(source))
    _write_out_shapes(model)
    model.validate_nodes_and_infer_types()
    return model


def _with_own_weights(source: "Path | bytes") -> "Path | bytes":
    import onnx

    if isinstance(source, Path) and source.suffix != ".onnx":
        return source
    graph = onnx.load(source) if isinstance(source, Path) else onnx.load_from_string(source)
    own = with_own_weights(graph)
    return source if own is graph else own.SerializeToString()


def _write_out_shapes(model: "Model") -> None:
    """Gives what has a known shape that shape as a constant.

    A convolution's bias comes from ONNX with a shape that is computed. Where OpenVINO has not folded it in time (a
    Gather whose positions follow from the batch is enough, as torch.as_strided has it), the bias becomes part of the
    FakeQuantize operator behind, which then adds the first channel's to every channel.
    """
    from openvino.opset13 import constant

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Reshape" or not node.get_output_partial_shape(0).is_static:
            continue
        shape = np.array(node.get_output_shape(0), np.int64)
        # A zero may stand for the dimension that there was.
        if shape.all() and node.input_value(1).get_node().get_type_name() != "Constant":
            node.input(1).replace_source_output(constant(shape).output(0))


def save_openvino(model: "Model", folder: Path) -> None:
    """Writes FILES; weights stay in their types, reductions keep their dimensions.

    Nodes without a name of their own get one from a counter of the process, so they are numbered anew.
    """
    from openvino import save_model

    # Not when it is read: a quantizer would round between a reduction and what takes its dimensions away.
    _keep_dimensions(model)
    for number, node in enumerate(model.get_ordered_ops()):
        if re.fullmatch(rf"{node.get_type_name()}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_{number}")
    save_model(model, folder / FILES[0], compress_to_fp16=False)


def _keep_dimensions(model: "Model") -> None:
    """Lets each reduction keep the dimensions it reduces, and takes them away behind it.

    A kernel that drops them takes the wrong channels of what it multiplies by, or adds, in the same go: in float, too.
    """
    from openvino.opset13 import squeeze

    for node in model.get_ordered_ops():
        if not node.get_type_name().startswith("Reduce") or node.get_attributes()["keep_dims"]:
            continue
        port = node.output(0)
        readers, names = list(port.get_target_inputs()), port.get_names()
        node.set_attribute("keep_dims", True)
        node.validate_and_infer_types()
        port.get_tensor().set_names(set())
        less = squeeze(port, node.input_value(1)).output(0)
        less.get_tensor().set_names(names)
        for reader in readers:
            reader.replace_source_output(less)
