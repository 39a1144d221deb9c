"""A float graph with the weights that an artifact was rounded from: what quantizers move between layers before.

Neither changes what the graph computes: cross-layer equalization (targets/onnx_equalization.py) follows from the
weights alone, and is done again; of smoothing (targets/onnx_smoothing.py) the factors are read from the artifact.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from targets.onnx_equalization import equalized
from targets.onnx_integers import Constant, QuantizedGraph
from targets.onnx_smoothing import by_input, divide, smoothable
from targets.onnx_weights import Weights

if TYPE_CHECKING:
    import onnx

PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
# Of a step: rounding, and what float32 and an estimated factor add.
NEAR = 0.6
# Of all weights: by chance as many may be near to either.
CLEARLY_MORE = 0.02


def as_rounded(reference: "onnx.ModelProto", artifact: QuantizedGraph) -> "onnx.ModelProto | None":
    """The reference with weights that more of the artifact's are the rounding of; None where its own are."""
    found = reference
    even = equalized(reference)
    for change in (even, _smoothed(reference, artifact), None if even is None else _smoothed(even, artifact)):
        if change is not None and explained(change, artifact) > explained(found, artifact) + CLEARLY_MORE:
            found = change
    return None if found is reference else found


def explained(reference: "onnx.ModelProto", artifact: QuantizedGraph) -> float:
    """The share of the artifact's weights that are the rounding of the reference's."""
    graph = QuantizedGraph(reference)
    known = _constants(artifact)
    count, size = 0, 1
    for node in graph.nodes:
        array = graph.arrays.get(node.input[1]) if node.op_type in PRODUCTS else None
        own = known.get((node.name, 1))
        if array is not None and own is not None and own.values.shape == array.shape:
            size += array.size
            count += int((np.abs(array - own.values) <= NEAR * own.step + 1e-5 * np.abs(array).max()).sum())
    return count / size


def _constants(artifact: QuantizedGraph) -> dict[tuple[str, int], Constant]:
    """Name of a node and input -> the constant that it reads there."""
    return {
        (node.name, position): artifact.constants[name]
        for node in artifact.nodes
        for position, name in enumerate(node.input)
        if name in artifact.constants
    }


def _smoothed(reference: "onnx.ModelProto", artifact: QuantizedGraph) -> "onnx.ModelProto | None":
    """With the factors of the artifact's weights behind normalizations; None where there is no such normalization."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(reference)
    weights = Weights(copy.graph)
    places = smoothable(copy.graph, weights)
    known = _constants(artifact)
    for node, readers in places:
        gain, own = weights[node.input[1]], known.get((node.name, 1))
        if own is None or own.values.shape != gain.shape:
            continue
        # What is itself rounded tells the factors to half a percent; the many weights behind it tell them better.
        factor = _by_weights(readers, weights, known) if own.step.any() else _ratio(gain, own.values)
        if (factor > 0).all():
            divide(node, readers, weights, factor)
    weights.write()
    return copy if places else None


def _by_weights(
    readers: "list[onnx.NodeProto]", weights: Weights, known: dict[tuple[str, int], Constant]
) -> np.ndarray:
    """The factors with which the weights of products come nearest to the artifact's, [channels]."""
    pairs = [
        (by_input(reader, weights), own.values.T if by_input(reader, weights).shape != own.values.shape else own.values)
        for reader in readers
        if (own := known.get((reader.name, 1))) is not None
    ]
    return _ratio(sum((w * v).sum(axis=1) for w, v in pairs), sum((w * w).sum(axis=1) for w, _ in pairs))


def _ratio(above: Any, below: Any) -> np.ndarray:
    """1 where there is nothing to tell it by."""
    x, y = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    return np.divide(x, y, out=np.ones(x.shape), where=(x != 0) & (y != 0))
