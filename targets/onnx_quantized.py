"""What of an ONNX graph computes in integers, and what does not."""

import re
from collections import Counter
from typing import TYPE_CHECKING

from calibration.errors import InputError
from targets.onnx_graph import inferred

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

# Of the ONNX standard, of com.microsoft and of OpenVINO: all that make, take or stand for values of few bits.
QUANTIZED = re.compile(
    r"(Dynamic)?(Quantize|Dequantize)\w*|FakeQuantize|Q(Linear|Ordered)\w+|Q(Attention|Gemm|MoE|EmbedLayerNormalization)"
    r"|\w+Integer\w*|MatMul(NBits|Bnb4|FpQ4)\w*|GatherBlockQuantized"
)
# What moves values and computes nothing: that it stays in float costs no more than the values do.
MOVES = frozenset(
    (
        *(
            "Cast",
            "Concat",
            "Constant",
            "ConstantOfShape",
            "Expand",
            "Flatten",
            "Gather",
            "Identity",
            "Range",
            "Reshape",
        ),
        *("Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where", "Pad", "Dropout", "Equal"),
    )
)
# Between Q/DQ pairs these become integer operators; any other turns its inputs to float and back.
INTEGER = frozenset(
    (
        *("Conv", "ConvTranspose", "MatMul", "Gemm", "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Softmax"),
        *("MaxPool", "AveragePool", "GlobalAveragePool", "Resize"),
    )
)

# What int8 makes smaller or faster by itself: the rest is quantized for the sake of these.
HEAVY = frozenset(("Conv", "ConvTranspose", "MatMul", "Gemm", "Gather"))
INTEGER_PRODUCT = re.compile(r"QLinear(Conv|MatMul)|QGemm|DynamicQuantize(MatMul|LSTM)|\w+Integer\w*|MatMulNBits")


def refuse_quantized(model: "onnx.ModelProto", where: str) -> None:
    """Raises InputError naming the first node that quantizes, or computes on quantized values.

    The float model is what accuracy, speed and ranges are held against. where: the file, as the user knows it.
    """
    for node in _nodes(model):
        if QUANTIZED.fullmatch(node.op_type):
            name = node.name or f"that gives {node.output[0]}"
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise InputError(
                f"{where} is quantized already: its node {name} is {operator}",
                "give the float model that it was made from; it is what the result is held against",
            )


def is_of_pairs(model: "onnx.ModelProto") -> bool:
    """Whether all that it quantizes is between a QuantizeLinear and a DequantizeLinear, with scales that are known."""
    found = {node.op_type for node in _nodes(model) if QUANTIZED.fullmatch(node.op_type)}
    return bool(found) and found <= {"QuantizeLinear", "DequantizeLinear"}


def has_integer_products(model: "onnx.ModelProto") -> bool:
    """Whether any convolution, matrix product or table of it is stored or computed in integers."""
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    return any(
        INTEGER_PRODUCT.fullmatch(node.op_type)
        or (node.op_type in HEAVY and any(made_by.get(name) == "DequantizeLinear" for name in node.input))
        for node in model.graph.node
    )


def kept_float(model: "onnx.ModelProto") -> str:
    """Which operators of a quantized graph still compute in float: "2 LayerNormalization, 1 Erf"; empty for none.

    One that is INTEGER computes in integers where all that it reads comes from Q/DQ pairs. Operators that no value of
    float32 goes into, or that only move values, do not count.
    """
    import onnx

    graph = model.graph
    typed = inferred(model)
    floats = {
        value.name
        for value in (*typed.value_info, *typed.input, *typed.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    stored = {tensor.name for tensor in graph.initializer}
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    found: Counter[str] = Counter()
    for node in graph.node:
        computed = [name for name in node.input if name in floats - stored]
        if not computed or node.op_type in MOVES or QUANTIZED.fullmatch(node.op_type):
            continue
        if node.op_type not in INTEGER or any(made_by.get(name) != "DequantizeLinear" for name in computed):
            found[node.op_type] += 1
    return ", ".join(f"{count} {operator}" for operator, count in found.most_common())


def _nodes(model: "onnx.ModelProto") -> "Iterator[onnx.NodeProto]":
    """All nodes: of the graph, of functions, and of the branches and bodies within them."""
    pending = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop(0)
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                pending += body.node
