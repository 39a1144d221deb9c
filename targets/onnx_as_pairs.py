"""Integer operators of an ONNX graph as float operators between Q/DQ pairs, which say what is to be computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from targets.onnx_matching import INTEGERS, SUFFIX

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Operator:
    """How an integer operator is written.

    op_type: what it computes in float. operands: positions of its inputs, each followed by scale and zero point.
    result: position of the result's scale, before its zero point. bias: position of integers at the product of both
    scales. plain: positions of what it takes as it is. output_axis: of the second operand's scales, where there are
    several.
    """

    op_type: str
    operands: tuple[int, ...] = (0,)
    result: int = 3
    bias: int | None = None
    plain: tuple[int, ...] = ()
    output_axis: int = 0


OPERATORS = {
    "QLinearConv": Operator("Conv", (0, 3), 6, bias=8),
    "QLinearMatMul": Operator("MatMul", (0, 3), 6, output_axis=-1),
    "QGemm": Operator("Gemm", (0, 3), 7, bias=6, output_axis=1),
    "QLinearAdd": Operator("Add", (0, 3), 6),
    "QLinearMul": Operator("Mul", (0, 3), 6),
    "QLinearWhere": Operator("Where", (1, 4), 7, plain=(0,)),
    "QLinearLeakyRelu": Operator("LeakyRelu"),
    "QLinearSigmoid": Operator("Sigmoid"),
    "QLinearSoftmax": Operator("Softmax"),
    "QLinearAveragePool": Operator("AveragePool"),
    "QLinearGlobalAveragePool": Operator("GlobalAveragePool"),
}
# Of the integer operators alone: the layout of the kernel, and the standard's version that a softmax is of.
OWN_ATTRIBUTES = ("channels_last", "opset")
# What hands integers on as they are.
HANDED_ON = (
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Transpose",
    "MaxPool",
    "Split",
    "Gather",
    "Slice",
    "Identity",
)


def in_pairs(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The same graph without integer operators; the model itself where it has none. The integers keep their names."""
    if not any(_operator(node) for node in model.graph.node):
        return model
    return _Writer(model).write()


def _operator(node: "onnx.NodeProto") -> Operator | None:
    if node.op_type == "QLinearConcat":
        return Operator("Concat", tuple(range(2, len(node.input), 3)), result=0)
    return OPERATORS.get(node.op_type)


class _Writer:
    """parameters: name of integers -> the names of their scale and zero point, by who makes or reads them."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        import onnx

        self.made = onnx.ModelProto()
        self.made.CopyFrom(model)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.parameters: dict[str, tuple[str, str]] = {}
        self.nodes: list[onnx.NodeProto] = []

    def write(self) -> "onnx.ModelProto":
        given = list(self.made.graph.node)
        for node in given:
            self._note_parameters(node)
        for node in given:
            operator = _operator(node)
            if operator is not None and all(node.input[place + 1] in self.constants for place in operator.operands):
                self._unfuse(node, operator)
            elif node.op_type in HANDED_ON and any(n in self.parameters for n in (node.input[0], node.output[0])):
                self._around(node)
            else:
                self.nodes.append(node)
        del self.made.graph.node[:]
        self.made.graph.node.extend(self.nodes)
        del self.made.graph.value_info[:]
        return self.made

    def _note_parameters(self, node: "onnx.NodeProto") -> None:
        named = [*node.input, "", ""]
        if node.op_type == "QuantizeLinear":
            self.parameters[node.output[0]] = (named[1], named[2])
        elif node.op_type == "DequantizeLinear":
            self.parameters[named[0]] = (named[1], named[2])
        elif (operator := _operator(node)) is not None:
            for place in operator.operands:
                self.parameters[named[place]] = (named[place + 1], named[place + 2])

    def _unfuse(self, node: "onnx.NodeProto", operator: Operator) -> None:
        from onnx import helper

        named = [*node.input, "", "", ""]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name not in OWN_ATTRIBUTES}
        reads = {place: named[place] for place in operator.plain}
        for count, place in enumerate(operator.operands):
            output_axis = 0 if attributes.get("transB") else operator.output_axis
            axis = output_axis if count else None
            reads[place] = self._dequantized(node, named[place], named[place + 1 : place + 3], axis)
        if operator.bias is not None and named[operator.bias]:
            scale = self._scale_of_bias(node, *(named[place + 1] for place in operator.operands))
            reads[operator.bias] = self._dequantized(node, named[operator.bias], [scale, ""], 0)
        operands = [reads[place] for place in sorted(reads)]
        self._computed(node, operator.op_type, operands, named[operator.result :], attributes)

    def _around(self, node: "onnx.NodeProto") -> None:
        """What hands integers on, of float values instead."""
        from onnx import helper

        how = self.parameters.get(node.input[0]) or self.parameters[node.output[0]]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        reads = [self._dequantized(node, node.input[0], how, None), *node.input[1:]]
        self._computed(node, node.op_type, reads, how, attributes)

    def _computed(
        self, node: "onnx.NodeProto", op_type: str, reads: list[str], how: Sequence[str], attributes: dict[str, Any]
    ) -> None:
        from onnx import helper

        if not how[0]:
            self.nodes.append(helper.make_node(op_type, reads, list(node.output), node.name, **attributes))
            return
        results = [name.removesuffix(INTEGERS) + SUFFIX for name in node.output]
        self.nodes.append(helper.make_node(op_type, reads, results, node.name, **attributes))
        for result, name in zip(results, node.output, strict=True):
            self.nodes.append(helper.make_node("QuantizeLinear", [result, *_present(how)], [name], _at(node, name)))
            self.parameters[name] = (how[0], how[1])

    def _dequantized(self, node: "onnx.NodeProto", name: str, how: Sequence[str], axis: int | None) -> str:
        """The name of the float values of what a node reads."""
        from onnx import helper

        scale = self.constants.get(how[0])
        several = scale is not None and len(scale.dims) > 0 and scale.dims[0] > 1
        result = _at(node, name)
        if any(result in made.output for made in self.nodes[-3:]):  # a node may read one tensor twice
            return result
        reader = helper.make_node("DequantizeLinear", [name, *_present(how)], [result], result)
        if several and axis is not None:
            reader.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(reader)
        return result

    def _scale_of_bias(self, node: "onnx.NodeProto", *scales: str) -> str:
        """Its name: the product of the operands' scales."""
        from onnx import numpy_helper

        name = _at(node, "bias_scale")
        first, second = (numpy_helper.to_array(self.constants[scale]) for scale in scales)
        self.constants[name] = numpy_helper.from_array(first * second, name)
        self.made.graph.initializer.append(self.constants[name])
        return name


def _at(node: "onnx.NodeProto", name: str) -> str:
    """A name of one's own for what stands at a node."""
    return f"{node.name or node.output[0]}::{name}"


def _present(how: Sequence[str]) -> list[str]:
    """Names of scale and, where there is one, zero point."""
    return [name for name in how[:2] if name]
