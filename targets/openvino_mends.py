"""What OpenVINO 2026.4 computes otherwise than a model says, in float as in int8, written such that it does not.

Each changes how a graph is written and no answer. They are put between what its CPU plugin merges by mistake.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openvino import Input, Model, Node, Output

# What does not rise with what it is given all the way, or is part of that: x by sigmoid(x) becomes Swish.
NOT_RISING = ("Abs", "Gelu", "HSwish", "Mish", "Multiply", "PRelu", "Swish")
# What a reduction takes in when it alone reads it: of one operand, or of a constant beside it.
MERGED = ("Add", "Clamp", "Divide", "Elu", "FakeQuantize", "Gelu", "Multiply", "PRelu", "Relu", "Sigmoid", "Subtract")
# Dimensions of what a reduction along the last one is wrong for.
SEQUENCE = 3


def write_out_shapes(model: "Model") -> None:
    """Gives what has a known shape that shape as a constant.

    A convolution's bias comes from ONNX with a shape that is computed. Where that has not been folded in time (a Gather
    whose positions follow from the batch is enough, as torch.as_strided has it), the bias becomes part of the
    FakeQuantize operator behind, which then adds the first channel's to every channel.
    """
    from openvino.opset13 import constant

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Reshape" or not node.get_output_partial_shape(0).is_static:
            continue
        shape = np.array(node.get_output_shape(0), np.int64)
        # A zero may stand for the dimension that there was.
        if shape.all() and node.input_value(1).get_node().get_type_name() != "Constant":
            node.input(1).replace_source_output(constant(shape).output(0))


def set_reductions_apart(model: "Model") -> None:
    """Puts what changes the number of dimensions behind reductions: Squeeze, or Unsqueeze.

    A reduction that drops its dimensions, or goes along the last of three, takes the wrong channels of the constants of
    what is merged into it.
    """
    from openvino.opset13 import squeeze, unsqueeze

    for node in model.get_ordered_ops():
        if not node.get_type_name().startswith("Reduce"):
            continue
        keeps = bool(node.get_attributes()["keep_dims"])
        if keeps and not _is_wrong_though_it_keeps(node):
            continue
        port = node.output(0)
        readers, names = list(port.get_target_inputs()), port.get_names()
        node.set_attribute("keep_dims", not keeps)
        node.validate_and_infer_types()
        port.get_tensor().set_names(set())
        other = (unsqueeze if keeps else squeeze)(port, node.input_value(1)).output(0)
        other.get_tensor().set_names(names)
        _move(readers, other)


def set_pools_apart(model: "Model") -> None:
    """Puts a maximum that no value is below between a MaxPool and what does not rise with it.

    Behind a convolution such an operator changes places with the pool, which is right of rising ones alone.
    """
    from openvino import Type
    from openvino.opset13 import constant, maximum

    for node in model.get_ordered_ops():
        if node.get_type_name() != "MaxPool" or node.get_output_element_type(0) != Type.f32:
            continue
        # An output keeps its name, which is the pool's.
        readers = [port for port in node.output(0).get_target_inputs() if port.get_node().get_type_name() != "Result"]
        if any(reader.get_node().get_type_name() in NOT_RISING for reader in readers):
            _move(readers, maximum(node.output(0), constant(np.finfo(np.float32).min)).output(0))


def write_out_rows(model: "Model") -> None:
    """Gives constants behind a matrix product, one value for each index but the last, a value for the last each.

    Of four dimensions and more they are merged into the product as if they were one value for each of its outputs.
    """
    from openvino.opset13 import constant

    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        for reader in _merged(node):
            size = reader.get_output_partial_shape(0)[-1]
            for place, given in _constants(reader):
                values = given.get_data()
                if values.size > 1 and values.shape[-1] == 1 and size.is_static:
                    whole = np.repeat(values, size.get_length(), axis=-1)
                    reader.input(place).replace_source_output(constant(whole).output(0))


def _is_wrong_though_it_keeps(node: "Node") -> bool:
    """Whether it goes along the last of three dimensions, with channels to mistake.

    Others stay as they are: OpenVINO finds layer norms by their reductions.
    """
    rank = node.input_value(0).get_partial_shape().rank
    axes = node.input_value(1).get_node()
    if not rank.is_static or rank.get_length() != SEQUENCE or axes.get_type_name() != "Constant":
        return False
    if [int(axis) % SEQUENCE for axis in axes.get_data().reshape(-1)] != [SEQUENCE - 1]:
        return False
    return any(given.get_data().size > 1 for reader in _merged(node) for _, given in _constants(reader))


def _merged(node: "Node") -> "Iterator[Node]":
    """What may be merged into a node: one after the other what alone reads it, with nothing but constants beside it."""
    while True:
        readers = list(node.output(0).get_target_inputs())
        if len(readers) != 1 or readers[0].get_node().get_type_name() not in MERGED:
            return
        node = readers[0].get_node()
        if len(node.inputs()) - len(_constants(node)) > 1:
            return
        yield node


def _constants(node: "Node") -> "list[tuple[int, Node]]":
    """Its operands that are constants, each with its place."""
    given = [(place, value.get_node()) for place, value in enumerate(node.input_values())]
    return [(place, other) for place, other in given if other.get_type_name() == "Constant"]


def _move(readers: "list[Input]", port: "Output") -> None:
    for reader in readers:
        reader.replace_source_output(port)
