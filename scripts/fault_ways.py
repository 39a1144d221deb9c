"""Ways to spoil an int8 artifact: each changes `model` and returns the operators that are then at fault, or None where
the drawn place does not suit it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from targets.onnx_integers import Activation, QuantizedGraph

Rng = np.random.Generator
Truth = tuple[str, ...]


def scale_of_reader(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth:
    """One DequantizeLinear reads with another scale than the integers were made with."""
    activation = draw(rng, [a for a in graph.activations.values() if a.readers])
    reader = draw(rng, activation.readers)
    give(model, reader.op, 1, reader.how.scale * np.float32(draw(rng, (0.5, 0.7, 1.4, 2.0))))
    return (reader.op,)


def scale_of_pair(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth:
    """Quantizer and readers share a scale that is not the tensor's."""
    activation = draw(rng, [a for a in graph.activations.values() if a.readers and a.how])
    factor = np.float32(draw(rng, (0.1, 0.25, 8.0, 16.0)))
    for op in both(activation):
        give(model, op, 1, array_of(model, node_of(model, op).input[1]) * factor)
    return both(activation)


def scale_of_weights(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth:
    """Scales of a weight's channels are off: one, or all alike."""
    constant = draw(rng, weights(graph))
    scale = constant.scale.copy()
    factor = np.float32(draw(rng, (0.5, 0.8, 1.25, 2.0)))
    if rng.random() < 0.5:
        scale[int(rng.integers(scale.size))] *= factor
    else:
        scale *= factor
    give(model, constant.op, 1, scale)
    return (constant.op,)


def zero_point_of_reader(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth:
    """One DequantizeLinear reads with another zero point than the integers were made with."""
    activation = draw(rng, [a for a in graph.activations.values() if a.readers])
    reader = draw(rng, activation.readers)
    shift(model, reader.op, int(rng.integers(3, 40)))
    return (reader.op,)


def zero_point_of_pair(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth:
    """Quantizer and readers share a zero point that is not the tensor's."""
    activation = draw(rng, [a for a in graph.activations.values() if a.readers and a.how])
    by = int(rng.integers(64, 128))
    for op in both(activation):
        shift(model, op, by)
    return both(activation)


def zero_point_of_weights(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth:
    """Symmetric weights get a zero point."""
    constant = draw(rng, weights(graph))
    shift(model, constant.op, int(rng.integers(2, 12)))
    return (constant.op,)


def permuted_channels(
    model: onnx.ModelProto, graph: QuantizedGraph, rng: np.random.Generator
) -> tuple[str, ...] | None:
    """The integers of a weight stand in another order of its output or input channels."""
    constant = draw(rng, weights(graph))
    axis = int(rng.integers(2))
    if constant.values.shape[axis] < 4:
        return None
    order = rng.permutation(constant.values.shape[axis])
    rewrite(model, constant.op, lambda integers: integers.take(order, axis=axis))
    return (consumer(graph, constant.tensor),)


def transposed_weights(
    model: onnx.ModelProto, graph: QuantizedGraph, rng: np.random.Generator
) -> tuple[str, ...] | None:
    """A square matrix, or the window of a convolution, is transposed."""
    constant = draw(rng, weights(graph))
    axes = (2, 3) if constant.values.ndim == 4 else (0, 1)
    if constant.values.shape[axes[0]] != constant.values.shape[axes[1]] or constant.values.shape[axes[0]] == 1:
        return None
    rewrite(model, constant.op, lambda integers: np.swapaxes(integers, *axes))
    return (consumer(graph, constant.tensor),)


def other_order(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth | None:
    """A Transpose moves axes of one length in another order."""
    nodes = [n for n in graph.nodes if n.op_type == "Transpose"]
    if not nodes:
        return None
    node = node_of(model, draw(rng, nodes).name)
    order = list(node.attribute[0].ints)
    if len(order) != 5:
        return None
    order[2], order[4] = order[4], order[2]
    node.attribute[0].ints[:] = order
    return (node.name,)


def dropped_bias(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth | None:
    """A bias was taken for folded and is gone."""
    nodes = [n for n in graph.nodes if n.op_type in ("Conv", "Gemm") and len(n.input) > 2]
    if not nodes:
        return None
    node = node_of(model, draw(rng, nodes).name)
    del node.input[2]
    return (node.name,)


def zeroed_bias(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth | None:
    """A bias was folded as zeros."""
    nodes = [n for n in graph.nodes if n.op_type in ("Conv", "Gemm") and len(n.input) > 2]
    if not nodes:
        return None
    node = draw(rng, nodes)
    rewrite(model, graph.constants[node.input[2]].op, np.zeros_like)
    return (node.name,)


def added_activation(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth:
    """A ReLU was fused where there is none."""
    activation = draw(rng, [a for a in graph.activations.values() if a.source in graph.producer])
    return (insert(model, activation, "Relu"),)


def other_activation(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth | None:
    """An activation was fused as another one."""
    nodes = [n for n in graph.nodes if n.op_type in ("Relu", "Gelu", "Clip", "Sigmoid", "Softmax")]
    if not nodes:
        return None
    node = node_of(model, draw(rng, nodes).name)
    del node.attribute[:]
    del node.input[1:]
    node.op_type = "Relu" if node.op_type != "Relu" else "Sigmoid"
    return (node.name,)


def lost_addition(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth | None:
    """The shortcut of a residual block was fused away."""
    nodes = [n for n in graph.nodes if n.op_type == "Add" and not any(name in graph.arrays for name in n.input)]
    if not nodes:
        return None
    node = node_of(model, draw(rng, nodes).name)
    del node.input[1]
    node.op_type = "Identity"
    return (node.name,)


def clipped_result(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth | None:
    """The accumulator of an operator saturates at a part of the range of its result."""
    activation = draw(rng, [a for a in graph.activations.values() if a.source in graph.producer and a.readers])
    how = activation.readers[0].how
    high = float(how.scale[0]) * (how.scheme.highest - int(how.zero_point[0])) * draw(rng, (0.2, 0.35, 0.5))
    low = float(how.scale[0]) * (how.scheme.lowest - int(how.zero_point[0])) * draw(rng, (0.2, 0.35, 0.5))
    if high <= 0:
        return None
    return (insert(model, activation, "Clip", low, high),)


WAYS: dict[str, Sequence[Callable[..., tuple[str, ...] | None]]] = {
    "scale": (scale_of_reader, scale_of_pair, scale_of_weights),
    "zero point": (zero_point_of_reader, zero_point_of_pair, zero_point_of_weights),
    "layout": (permuted_channels, transposed_weights, other_order),
    "fusion": (dropped_bias, zeroed_bias, added_activation, other_activation, lost_addition),
    "saturation": (clipped_result,),
}


# Small changes of a graph


def draw(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]


def both(activation: Activation) -> tuple[str, ...]:
    return (activation.op, *(reader.op for reader in activation.readers))


def weights(graph: QuantizedGraph) -> list[Any]:
    """Quantized constants of two dimensions or more."""
    return [c for c in graph.constants.values() if c.op and c.values.ndim > 1 and c.scale is not None]


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def consumer(graph: QuantizedGraph, tensor: str) -> str:
    return graph.nodes[graph.consumers[tensor][0]].name


def array_of(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def give(model: onnx.ModelProto, op: str, position: int, array: np.ndarray) -> None:
    """Gives one node another initializer, and leaves that of others as it is."""
    node = node_of(model, op)
    old = array_of(model, node.input[position])
    name = f"{node.input[position]}_of_{op}"
    node.input[position] = name
    # A scalar stays one.
    shaped = array.astype(old.dtype).reshape(old.shape if array.size == old.size and old.ndim < 2 else array.shape)
    model.graph.initializer.append(numpy_helper.from_array(shaped, name))


def rewrite(model: onnx.ModelProto, op: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes the integers that a DequantizeLinear reads."""
    give(model, op, 0, change(array_of(model, node_of(model, op).input[0])))


def shift(model: onnx.ModelProto, op: str, by: int) -> None:
    """Moves a zero point by so many integers, to the side on which there is room."""
    old = array_of(model, node_of(model, op).input[2])
    ends = np.iinfo(old.dtype)
    moved = old.astype(np.int64) + (by if int(old.max()) + by <= ends.max else -by)
    give(model, op, 2, np.clip(moved, ends.min, ends.max).astype(old.dtype))


def insert(model: onnx.ModelProto, activation: Activation, op_type: str, *ends: float) -> str:
    """Puts an operator between a result and its quantizer; returns its name."""
    name = f"{activation.source}_{op_type}"
    for end, value in zip(("low", "high"), ends, strict=False):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), f"{name}_{end}"))
    extra = [f"{name}_low", f"{name}_high"][: len(ends)]
    node_of(model, activation.op).input[0] = name
    position = next(i for i, n in enumerate(model.graph.node) if n.name == activation.op)
    model.graph.node.insert(position, helper.make_node(op_type, [activation.source, *extra], [name], name))
    return name
