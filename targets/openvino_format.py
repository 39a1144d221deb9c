"""OpenVINO's own format (.xml and .bin), the same bytes for the same model."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvino import Model

FILES = ("model.xml", "model.bin")


def save_openvino(model: "Model", folder: Path) -> None:
    """Writes FILES; weights stay in their types.

    Nodes without a name of their own get one from a counter of the process, so they are numbered anew.
    """
    from openvino import save_model

    for number, node in enumerate(model.get_ordered_ops()):
        if re.fullmatch(rf"{node.get_type_name()}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_{number}")
    save_model(model, folder / FILES[0], compress_to_fp16=False)
