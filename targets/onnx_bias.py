"""Bias correction: what rounding a layer's weights adds to each channel on average is taken off the bias again.

Nagel et al. 2019, arXiv:1906.04721, section 4.2. The expected shift of a layer is that of its float inputs times what
rounding changed of its weights, measured on calibration samples: each layer answers for its own rounding only, so that
all can be corrected at once and no shift is taken off twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from targets.onnx_edges import Edges
from targets.onnx_ranges import open_session
from targets.onnx_weights import Weights

if TYPE_CHECKING:
    import onnx

Feeds = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class _Biased:
    """A product with weights and a bias of its own, and the axis of its output that has the channels."""

    node: "onnx.NodeProto"
    bias: str
    axis: int

    @property
    def shift(self) -> str:
        return f"{self.node.output[0]}::shift"


def corrected(model: "onnx.ModelProto", quantized: "onnx.ModelProto", feeds: Feeds) -> "onnx.ModelProto | None":
    """A copy of a float graph with biases moved against what its quantized form adds to them; None where none has one.

    quantized: made from `model`, with Q/DQ pairs; its nodes have the same names.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = Weights(copy.graph)
    there = {node.name: node for node in quantized.graph.node}
    computed = {name for node in quantized.graph.node for name in node.output}
    biased = [b for b in _biased(copy.graph, weights) if b.node.name in there]
    biased = [b for b in biased if there[b.node.name].input[1] in computed]
    if not biased:
        return None
    names = [there[b.node.name].input[1] for b in biased]
    rounded = open_session(quantized, names).run(names, feeds[0])
    changes = [np.asarray(w, np.float64) - weights[b.node.input[1]] for w, b in zip(rounded, biased, strict=True)]
    for b, shift in zip(biased, _shifts(model, biased, changes, feeds), strict=True):
        weights[b.bias] = weights[b.bias] - shift
    weights.write()
    return copy


def _biased(graph: "onnx.GraphProto", weights: Weights) -> Iterator[_Biased]:
    edges = Edges(graph)
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or not weights.owned_by(node, 1):
            continue
        if node.op_type != "MatMul":
            plain = all(a.name != "beta" or a.f == 1.0 for a in node.attribute)
            if plain and weights.owned_by(node, 2) and weights[node.input[2]].ndim == 1:
                yield _Biased(node, node.input[2], 1)
            continue
        adding = edges.only_reader(node.output[0])
        if adding is None or adding.op_type != "Add":
            continue
        for position in (0, 1):
            if weights.owned_by(adding, position) and weights[adding.input[position]].ndim == 1:
                yield _Biased(node, adding.input[position], -1)


def _shifts(
    model: "onnx.ModelProto", biased: list[_Biased], changes: list[np.ndarray], feeds: Feeds
) -> list[np.ndarray]:
    """Of each product, the mean of what it gives with changed weights and no bias, [channels] float64."""
    import onnx

    twins = onnx.ModelProto()
    twins.CopyFrom(model)
    for b, change in zip(biased, changes, strict=True):
        twin = onnx.NodeProto()
        twin.CopyFrom(b.node)
        twin.name, twin.output[0], twin.input[1] = b.shift, b.shift, f"{b.shift}::weights"
        del twin.input[2:]
        twins.graph.node.append(twin)
        twins.graph.initializer.append(onnx.numpy_helper.from_array(change.astype(np.float32), twin.input[1]))
    session = open_session(twins, [b.shift for b in biased])
    sums = [np.zeros(()) for _ in biased]
    samples = 0
    for feed in feeds:
        size = len(next(iter(feed.values())))
        samples += size
        given = session.run([b.shift for b in biased], feed)
        for place, (b, array) in enumerate(zip(biased, given, strict=True)):
            others = tuple(axis for axis in range(array.ndim) if axis != b.axis % array.ndim)
            sums[place] = sums[place] + array.mean(axis=others, dtype=np.float64) * size
    return [total / samples for total in sums]
