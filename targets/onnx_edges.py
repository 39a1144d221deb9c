"""Who writes and who reads each tensor of an ONNX graph."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


class Edges:
    """Of one graph, as it was when this was made."""

    def __init__(self, graph: "onnx.GraphProto") -> None:
        self._outputs = {output.name for output in graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def readers(self, tensor: str) -> "list[onnx.NodeProto]":
        """The nodes that read a tensor, one that reads it twice twice."""
        return self._readers.get(tensor, [])

    def only_reader(self, tensor: str) -> "onnx.NodeProto | None":
        """The one node that reads a tensor; None where there are others, or it is an output of the graph."""
        found = self.readers(tensor)
        return found[0] if len(found) == 1 and tensor not in self._outputs else None
