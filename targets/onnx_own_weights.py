"""An ONNX graph in which each product has weights of its own."""

from typing import TYPE_CHECKING

import numpy as np

from targets.onnx_regions import PRODUCTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx


def with_own_weights(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The graph with a copy of what several products read, one each; itself where each has its own.

    What is copied is the constant, and what is computed of it alone: DequantizeLinear, Transpose and the like. A copy
    is stored with its axes turned round, and turned back: what is the same to the byte is often stored once.
    """
    import onnx

    found = onnx.ModelProto()
    found.CopyFrom(model)
    graph = found.graph
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    # Constants, and what is computed of them alone: the node that does so, if any.
    made_by: dict[str, onnx.NodeProto | None] = dict.fromkeys(arrays)
    read: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.input and all(name in made_by for name in node.input if name):
            made_by |= dict.fromkeys(node.output, node)
        if node.op_type in PRODUCTS and node.input[1] in made_by:
            path = _path(node.input[1], made_by)
            constant = path[-1].input[0] if path else node.input[1]
            if constant in read:
                ending = f"/{node.name or node.output[0]}"
                turned = np.ascontiguousarray(onnx.numpy_helper.to_array(arrays[constant]).T)
                graph.initializer.append(onnx.numpy_helper.from_array(turned, f"{constant}/turned{ending}"))
                node.input[1] = f"{constant}{ending}"
                turning = (f"{constant}/turned{ending}", node.input[1])
                nodes.append(onnx.helper.make_node("Transpose", turning[:1], turning[1:], node.input[1]))
                for step in reversed(path):
                    again = onnx.NodeProto()
                    again.CopyFrom(step)
                    again.name, again.input[0] = f"{step.name}{ending}", node.input[1]
                    again.output[0] = node.input[1] = f"{step.output[0]}{ending}"
                    nodes.append(again)
            read.add(constant)
        nodes.append(node)
    if len(nodes) == len(graph.node):
        return model
    del graph.node[:]
    graph.node.extend(nodes)
    return found


def _path(name: str, made_by: "Mapping[str, onnx.NodeProto | None]") -> "list[onnx.NodeProto]":
    """The nodes that lead to a tensor, the last first, each by its first input, which is its data."""
    path: list[onnx.NodeProto] = []
    while (node := made_by[name]) is not None:
        path.append(node)
        name = node.input[0]
    return path
