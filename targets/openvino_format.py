"""Models in OpenVINO: read with known shapes written out, saved as the same bytes for the same model."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from openvino import Model

FILES = ("model.xml", "model.bin")


def read_openvino(source: "Path | bytes") -> "Model":
    """A model of a file (.onnx, or .xml beside its .bin) or of ONNX's bytes. Raises RuntimeError as OpenVINO does.

    A convolution's bias comes from ONNX with a shape that is computed. Where OpenVINO 2026.4 has not folded it in time
    (a Gather whose positions follow from the batch is enough, as torch.as_strided has it), the bias becomes part of
    the FakeQuantize operator behind, which then adds the first channel's to every channel.
    """
    from openvino import Core
    from openvino.opset13 import constant

    model = Core().read_model(source)
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Reshape" or not node.get_output_partial_shape(0).is_static:
            continue
        shape = np.array(node.get_output_shape(0), np.int64)
        # A zero may stand for the dimension that there was.
        if shape.all() and node.input_value(1).get_node().get_type_name() != "Constant":
            node.input(1).replace_source_output(constant(shape).output(0))
    model.validate_nodes_and_infer_types()
    return model


def save_openvino(model: "Model", folder: Path) -> None:
    """Writes FILES; weights stay in their types.

    Nodes without a name of their own get one from a counter of the process, so they are numbered anew.
    """
    from openvino import save_model

    for number, node in enumerate(model.get_ordered_ops()):
        if re.fullmatch(rf"{node.get_type_name()}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_{number}")
    save_model(model, folder / FILES[0], compress_to_fp16=False)
