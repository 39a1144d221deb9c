"""The weights of an ONNX graph, to be changed: read as float64, written back in their own type."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx


class Weights:
    """Initializer name -> array. What was set is in the graph only after `write`."""

    def __init__(self, graph: "onnx.GraphProto") -> None:
        import onnx

        self._tensors = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
        self._read_by = Counter(name for node in graph.node for name in node.input)
        self._arrays: dict[str, np.ndarray] = {}
        self._changed: set[str] = set()

    def owned_by(self, node: "onnx.NodeProto", position: int) -> bool:
        """Is this input of the node a float32 weight that no other node reads?"""
        name = node.input[position] if len(node.input) > position else ""
        return name in self._tensors and self._read_by[name] == 1

    def __getitem__(self, name: str) -> np.ndarray:
        import onnx

        if name not in self._arrays:
            self._arrays[name] = onnx.numpy_helper.to_array(self._tensors[name]).astype(np.float64)
        return self._arrays[name]

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        self._arrays[name] = array
        self._changed.add(name)

    def write(self) -> None:
        """Puts what was set into the graph."""
        import onnx

        for name in self._changed:
            array = self._arrays[name].astype(np.float32)
            self._tensors[name].CopyFrom(onnx.numpy_helper.from_array(array, name))
        self._changed.clear()
