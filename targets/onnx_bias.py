"""Bias correction: what quantization adds to a channel on average is taken off its bias again.

Nagel et al. 2019, arXiv:1906.04721, section 4.2, with the shift measured on calibration samples. All layers are
measured at once and again after the first correction, since what one layer no longer adds, the next no longer receives.
"""

from typing import TYPE_CHECKING

import numpy as np

from targets.onnx_edges import Edges
from targets.onnx_ranges import open_session
from targets.onnx_weights import Weights

if TYPE_CHECKING:
    import onnx

Feeds = list[dict[str, np.ndarray]]


def corrected(
    model: "onnx.ModelProto", reference: "onnx.ModelProto", quantized: "onnx.ModelProto", feeds: Feeds
) -> "onnx.ModelProto | None":
    """A copy of a float graph with biases moved by what its quantized form is off the reference; None without biases.

    model: what `quantized` was made from: the reference itself, or an earlier correction of it. Their nodes have the
    same names.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = Weights(copy.graph)
    known = {node.name: node.output[0] for node in quantized.graph.node}
    biases = {node: bias for node, bias in _biases(copy.graph, weights).items() if node in known}
    if not biases:
        return None
    outputs = {node.name: node.output[0] for node in reference.graph.node if node.name in biases}
    expected = _means(reference, outputs, biases, feeds)
    found = _means(quantized, {node: known[node] for node in biases}, biases, feeds)
    for node, (name, _) in biases.items():
        weights[name] = weights[name] + expected[node] - found[node]
    weights.write()
    return copy


def _biases(graph: "onnx.GraphProto", weights: Weights) -> dict[str, tuple[str, int]]:
    """Node that adds a bias of its own -> the bias and the axis of its output that has the channels."""
    edges = Edges(graph)
    found: dict[str, tuple[str, int]] = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm") and weights.owned_by(node, 2) and weights[node.input[2]].ndim == 1:
            found[node.name] = node.input[2], 1
        elif node.op_type == "MatMul" and weights.owned_by(node, 1):
            adding = edges.only_reader(node.output[0])
            if adding is None or adding.op_type != "Add":
                continue
            for position in (0, 1):
                if weights.owned_by(adding, position) and weights[adding.input[position]].ndim == 1:
                    found[adding.name] = adding.input[position], -1
    return found


def _means(
    model: "onnx.ModelProto", outputs: dict[str, str], biases: dict[str, tuple[str, int]], feeds: Feeds
) -> dict[str, np.ndarray]:
    """Node -> the mean of its output, [channels] float64."""
    tensors = sorted(set(outputs.values()))
    session = open_session(model, tensors)
    sums: dict[str, np.ndarray] = {}
    samples = 0
    for feed in feeds:
        values = dict(zip(tensors, session.run(tensors, feed), strict=True))
        size = len(next(iter(feed.values())))
        samples += size
        for node, tensor in outputs.items():
            array = np.asarray(values[tensor], np.float64)
            axis = biases[node][1] % array.ndim
            mean = array.mean(axis=tuple(a for a in range(array.ndim) if a != axis)) * size
            sums[node] = sums.get(node, 0.0) + mean
    return {node: total / samples for node, total in sums.items()}
