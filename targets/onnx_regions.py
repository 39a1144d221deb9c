"""The parts of a float graph that are quantized, or left in float, together."""

from typing import TYPE_CHECKING

from targets.target import Region

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx

# What int8 is for: everything else is quantized so that their answers need not become float in between.
PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
# A recurrent layer is integer in dynamic routes only, which have no pairs around it.
HEADS = (*PRODUCTS, "LSTM")


def regions_of(graph: "onnx.ModelProto") -> tuple[Region, ...]:
    """One region for each product, in the graph's order: the product and what follows it up to the next one.

    What comes before the first product goes with that one.
    """
    found: list[list[onnx.NodeProto]] = []
    before: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        if node.op_type in HEADS:
            found.append([*before, node])
            before = []
        elif found:
            found[-1].append(node)
        else:
            before.append(node)
    return tuple(Region(_label(nodes), tuple(node.name for node in nodes)) for nodes in found)


def kinds_of(graph: "onnx.ModelProto") -> tuple[Region, ...]:
    """One region for each kind of operator of which there are several: often all of a kind are slow where one is."""
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    by_kind: dict[str, list[str]] = {}
    for node in graph.graph.node:
        by_kind.setdefault(_kind(node, weights), []).append(node.name)
    return tuple(Region(f"every {kind}", tuple(names)) for kind, names in by_kind.items() if len(names) > 1)


def _label(nodes: "Iterable[onnx.NodeProto]") -> str:
    return next(node.name for node in nodes if node.op_type in HEADS)


def _kind(node: "onnx.NodeProto", weights: "dict[str, onnx.TensorProto]") -> str:
    if node.op_type == "Conv":
        weight = weights.get(node.input[1])
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        if group > 1 and weight is not None and weight.dims[1] == 1:
            return "depthwise Conv"
        if weight is not None and all(size == 1 for size in weight.dims[2:]):
            return "pointwise Conv"
    if node.op_type == "MatMul" and not any(name in weights for name in node.input):
        return "MatMul of activations"
    return node.op_type
