"""Signed activations of a Q/DQ graph made unsigned, as ONNX Runtime does on x86-64 when it loads one."""

from typing import TYPE_CHECKING

import numpy as np

from targets.onnx_products import optimized

if TYPE_CHECKING:
    import onnx

# From int8 to uint8 all integers move by so much.
SHIFT = 128


def with_unsigned_activations(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The same values in other integers; names stay.

    Where an activation's integers are looked at, the runtime leaves them as they are and takes other kernels: those of
    signed activations clip nothing. With integers that are unsigned already it takes the ones that it ships with. It
    does not make all of them so; which, the optimized graph shows, where those that stay have their names.
    """
    import onnx

    stay = {name for node in optimized(model).graph.node for name in node.output}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    arrays = {tensor.name: tensor for tensor in made.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in made.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in made.graph.node:
        pair = [node, *readers.get(node.output[0], [])]
        zero = arrays.get(node.input[2]) if node.op_type == "QuantizeLinear" and len(node.input) > 2 else None
        if zero is None or zero.data_type != onnx.TensorProto.INT8 or node.input[0] in arrays:
            continue
        if node.output[0] in stay:
            continue
        if any(reader.op_type != "DequantizeLinear" or len(reader.input) < 3 for reader in pair[1:]):
            continue
        name = f"{zero.name}::unsigned"
        if name not in arrays:
            moved = onnx.numpy_helper.to_array(zero).astype(np.int16) + SHIFT
            arrays[name] = onnx.numpy_helper.from_array(moved.astype(np.uint8), name)
            made.graph.initializer.append(arrays[name])
        for one in pair:
            one.input[2] = name
    return made
