"""Matrix products of two computed operands, which stay float where a CPU clips sums of two products to 16 bits.

There, kernels take the second operand for weights, and it may be as large as its integers go: no scale makes it safe.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

# A runtime moves these past a DequantizeLinear: an integer stays one behind them.
HANDING_ON = ("Flatten", "Gather", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
LOWEST = "lowest_float"


def products_by_activations(graph: "onnx.ModelProto") -> frozenset[str]:
    """Names of the matrix products whose second operand is computed: attention's, and weights in front."""
    weights = {tensor.name for tensor in graph.graph.initializer}
    products = (node for node in graph.graph.node if node.op_type in ("MatMul", "Gemm"))
    return frozenset(node.name for node in products if node.input[1] not in weights)


def kept_in_float(graph: "onnx.ModelProto", names: Collection[str]) -> "onnx.ModelProto":
    """A quantized graph in which no runtime makes integer operators of these products, and nothing else changed.

    That a quantizer left a product out is not enough: where its neighbours have pairs, a runtime finds it between them.
    A maximum that no value is below keeps the second operand's pair away.
    """
    import onnx

    found = onnx.ModelProto()
    found.CopyFrom(graph)
    made_by = {name: node for node in graph.graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in found.graph.node:
        if node.name in names and _is_integer(node.input[1], made_by):
            apart = f"{node.name}/apart"
            nodes.append(onnx.helper.make_node("Max", [node.input[1], LOWEST], [apart], apart))
            node.input[1] = apart
        nodes.append(node)
    if len(nodes) == len(found.graph.node):
        return graph
    lowest = np.array(np.finfo(np.float32).min, np.float32)
    found.graph.initializer.append(onnx.numpy_helper.from_array(lowest, LOWEST))
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    return found


def _is_integer(name: str, made_by: "dict[str, onnx.NodeProto]") -> bool:
    """Whether a tensor is integers, dequantized, that were only moved since."""
    while name in made_by and made_by[name].op_type in HANDING_ON:
        name = made_by[name].input[0]
    return name in made_by and made_by[name].op_type == "DequantizeLinear"
