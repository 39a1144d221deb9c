"""Cross-layer equalization of an ONNX graph: channels of neighbouring layers share the burden of quantization.

Nagel, van Baalen, Blankevoort and Welling 2019, arXiv:1906.04721, section 4.1: what one layer's output channel is
divided by, the next layer's weights for it are multiplied by. Between them may stand only what scales with its input.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from targets.onnx_edges import Edges
from targets.onnx_weights import Weights

if TYPE_CHECKING:
    import onnx

# f(s x) = s f(x) for s > 0, each channel by itself.
SCALES_ALONG = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity")
LAYERS = ("Conv", "Gemm")
ROUNDS = 20
SETTLED = 1e-3
# A channel that is all zero, in either layer, has no range to share.
SMALLEST = 1e-8


@dataclass(frozen=True)
class Pair:
    """Two layers with nothing between them but what scales with its input."""

    first: "onnx.NodeProto"
    second: "onnx.NodeProto"


def equalized(model: "onnx.ModelProto") -> "onnx.ModelProto | None":
    """A copy of the graph that computes the same with evener weights; None where no two layers are neighbours so.

    Batch normalizations have to be folded into the convolutions before.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = Weights(copy.graph)
    pairs = pairs_of(copy.graph, weights)
    if not pairs:
        return None
    for _ in range(ROUNDS):
        if max([_equalize(pair, weights) for pair in pairs]) < SETTLED:
            break
    weights.write()
    return copy


def pairs_of(graph: "onnx.GraphProto", weights: Weights) -> list[Pair]:
    """Layers whose outputs reach one other layer alone."""
    edges = Edges(graph)
    found: list[Pair] = []
    for node in graph.node:
        if not _is_layer(node, weights):
            continue
        following = edges.only_reader(node.output[0])
        while following is not None and following.op_type in SCALES_ALONG:
            following = edges.only_reader(following.output[0])
        if following is not None and _is_layer(following, weights) and _same_channels(node, following, weights):
            found.append(Pair(node, following))
    return found


def _is_layer(node: "onnx.NodeProto", weights: Weights) -> bool:
    return node.op_type in LAYERS and weights.owned_by(node, 1) and (len(node.input) < 3 or weights.owned_by(node, 2))


def _same_channels(first: "onnx.NodeProto", second: "onnx.NodeProto", weights: Weights) -> bool:
    """A Flatten between them, or groups that are neither one nor all, would mix channels."""
    return _channels_out(first, weights) == _channels_in(second, weights)


def _attribute(node: "onnx.NodeProto", name: str, default: Any) -> Any:
    import onnx

    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _channels_out(node: "onnx.NodeProto", weights: Weights) -> int:
    return weights[node.input[1]].shape[_out_axis(node)]


def _channels_in(node: "onnx.NodeProto", weights: Weights) -> int:
    weight = weights[node.input[1]]
    if node.op_type == "Gemm":
        return weight.shape[1 - _out_axis(node)]
    group = _attribute(node, "group", 1)
    if group == 1:
        return weight.shape[1]
    return weight.shape[0] if weight.shape[1] == 1 and weight.shape[0] == group else -1


def _out_axis(node: "onnx.NodeProto") -> int:
    return 1 if node.op_type == "Gemm" and not _attribute(node, "transB", 0) else 0


def _in_axis(node: "onnx.NodeProto") -> int:
    # A depthwise filter belongs to the input channel as it does to the output channel.
    if node.op_type == "Conv" and _attribute(node, "group", 1) > 1:
        return 0
    return 1 - _out_axis(node)


def _equalize(pair: Pair, weights: Weights) -> float:
    """Shares the range of each channel between the two; the largest change, as a logarithm."""
    given = _reach(weights[pair.first.input[1]], _out_axis(pair.first))
    taken = _reach(weights[pair.second.input[1]], _in_axis(pair.second))
    alive = (given > SMALLEST) & (taken > SMALLEST)
    scale = np.ones_like(given)
    scale[alive] = np.sqrt(given[alive] / taken[alive])
    rescale_channels(pair, scale, weights)
    return float(np.abs(np.log(scale)).max())


def channels_of(pair: Pair, weights: Weights) -> int:
    """How many there are between the two."""
    return _channels_out(pair.first, weights)


def rescale_channels(pair: Pair, scale: np.ndarray, weights: Weights) -> None:
    """Divides what the first gives by `scale`, [channels], all above 0, and multiplies what the second makes of it."""
    first, second = weights[pair.first.input[1]], weights[pair.second.input[1]]
    weights[pair.first.input[1]] = first / _along(scale, first.ndim, _out_axis(pair.first))
    weights[pair.second.input[1]] = second * _along(scale, second.ndim, _in_axis(pair.second))
    if len(pair.first.input) > 2:
        weights[pair.first.input[2]] = weights[pair.first.input[2]] / scale


def _reach(weight: np.ndarray, axis: int) -> np.ndarray:
    return np.abs(weight).max(axis=tuple(a for a in range(weight.ndim) if a != axis))


def _along(scale: np.ndarray, dimensions: int, axis: int) -> np.ndarray:
    return scale.reshape([-1 if d == axis else 1 for d in range(dimensions)])
