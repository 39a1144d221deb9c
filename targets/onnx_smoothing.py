"""SmoothQuant on an ONNX graph: outlying channels of a normalization's output are moved into the weights that follow.

Xiao et al. 2023, arXiv:2211.10438: s_j = max|X_j|^a / max|W_j|^(1 - a); X is divided by s, W multiplied by it. The
division goes into the normalization's own scale and shift, so that it costs nothing when the model runs.
"""

from typing import TYPE_CHECKING

import numpy as np

from targets.onnx_edges import Edges
from targets.onnx_ranges import open_session
from targets.onnx_weights import Weights

if TYPE_CHECKING:
    import onnx

MIGRATION_STRENGTH = 0.5
SMALLEST = 1e-5
PRODUCTS = ("MatMul", "Gemm")


def smoothed(model: "onnx.ModelProto", feeds: list[dict[str, np.ndarray]]) -> "onnx.ModelProto | None":
    """A copy of the graph that computes the same with evener activations; None where no normalization feeds only
    products with weights.

    feeds: samples that show how large each channel gets.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = Weights(copy.graph)
    found = smoothable(copy.graph, weights)
    if not found:
        return None
    largest = _largest_by_channel(model, [node.output[0] for node, _ in found], feeds)
    for node, readers in found:
        reach = np.maximum(largest[node.output[0]], SMALLEST)
        taken = np.max([np.abs(by_input(reader, weights)).max(axis=1) for reader in readers], axis=0)
        divide(
            node, readers, weights, reach**MIGRATION_STRENGTH / np.maximum(taken, SMALLEST) ** (1 - MIGRATION_STRENGTH)
        )
    weights.write()
    return copy


def smoothable(graph: "onnx.GraphProto", weights: Weights) -> "list[tuple[onnx.NodeProto, list[onnx.NodeProto]]]":
    """Normalizations that feed only products with weights, and those products."""
    edges, outputs = Edges(graph), {output.name for output in graph.output}
    places = [(node, edges.readers(node.output[0])) for node in graph.node if _can_be_scaled(node, weights)]
    return [
        (node, readers)
        for node, readers in places
        if node.output[0] not in outputs
        and readers
        and all(_is_product_of(reader, node.output[0], weights) for reader in readers)
    ]


def divide(node: "onnx.NodeProto", readers: "list[onnx.NodeProto]", weights: Weights, scale: np.ndarray) -> None:
    """Divides a normalization's output by scale, [channels], and multiplies the weights that read it."""
    for name in node.input[1:3]:
        weights[name] = weights[name] / scale
    for reader in readers:
        weight = weights[reader.input[1]]
        weights[reader.input[1]] = weight * (scale if _is_transposed(reader) else scale[:, None])


def _can_be_scaled(node: "onnx.NodeProto", weights: Weights) -> bool:
    """A normalization over the last axis with scale, and shift if any, of its own."""
    if node.op_type != "LayerNormalization" or next((a.i for a in node.attribute if a.name == "axis"), -1) != -1:
        return False
    return weights.owned_by(node, 1) and (len(node.input) < 3 or weights.owned_by(node, 2))


def _is_product_of(node: "onnx.NodeProto", tensor: str, weights: Weights) -> bool:
    """Does the node multiply the tensor, as it is, by a matrix of its own?"""
    if node.op_type not in PRODUCTS or tensor in node.input[1:] or not weights.owned_by(node, 1):
        return False
    return weights[node.input[1]].ndim == 2 and not any(a.name == "transA" and a.i for a in node.attribute)


def _is_transposed(node: "onnx.NodeProto") -> bool:
    return node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)


def by_input(node: "onnx.NodeProto", weights: Weights) -> np.ndarray:
    """[inputs, outputs]."""
    weight = weights[node.input[1]]
    return weight.T if _is_transposed(node) else weight


def _largest_by_channel(
    model: "onnx.ModelProto", tensors: list[str], feeds: list[dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    session = open_session(model, tensors)
    largest: dict[str, np.ndarray] = {}
    for feed in feeds:
        for name, array in zip(tensors, session.run(tensors, feed), strict=True):
            reach = np.abs(array).reshape(-1, array.shape[-1]).max(axis=0).astype(np.float64)
            largest[name] = np.maximum(largest[name], reach) if name in largest else reach
    return largest
