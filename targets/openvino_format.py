"""Models in OpenVINO: read and saved such that it computes what they say, as the same bytes for the same model."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from targets.onnx_own_weights import with_own_weights
from targets.openvino_mends import set_pools_apart, set_reductions_apart, write_out_rows, write_out_shapes

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
    write_out_shapes(model)
    model.validate_nodes_and_infer_types()
    return model


def _with_own_weights(source: "Path | bytes") -> "Path | bytes":
    import onnx

    if isinstance(source, Path) and source.suffix != ".onnx":
        return source
    graph = onnx.load(source) if isinstance(source, Path) else onnx.load_from_string(source)
    own = with_own_weights(graph)
    return source if own is graph else own.SerializeToString()


def save_openvino(model: "Model", folder: Path) -> None:
    """Writes FILES, with mends (targets/openvino_mends.py); weights stay in their types.

    Nodes without a name of their own get one from a counter of the process, so they are numbered anew.
    """
    from openvino import save_model

    # Not when it is read: a quantizer would round in between.
    set_reductions_apart(model)
    set_pools_apart(model)
    write_out_rows(model)
    for number, node in enumerate(model.get_ordered_ops()):
        if re.fullmatch(rf"{node.get_type_name()}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_{number}")
    save_model(model, folder / FILES[0], compress_to_fp16=False)
