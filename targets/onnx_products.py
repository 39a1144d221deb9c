"""Which matrix products of a quantized ONNX graph ONNX Runtime sums in pairs on an x86-64 CPU without VNNI.

That is not to be read from the graph that ships: the runtime fuses Q/DQ pairs with the operators between them where it
has an integer kernel, leaves the others float, and turns signed activations into unsigned ones on the way. So the graph
is optimized as it will be on the device, and the integer operators of the result are looked at.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calibration.errors import UnsupportedError
from calibration.saturation import LARGEST_PAIR, as_matrix, is_depthwise, largest_pair

if TYPE_CHECKING:
    import onnx

# ConvInteger is not among them: it takes the weights as the first matrix, and signed by unsigned is exact.
# Operator -> positions of activations, weights, their scales, their zero points, bias; -1: it has none, or makes it.
OPERANDS = {
    "QLinearConv": (0, 3, 1, 4, 2, 5, 8),
    "QLinearMatMul": (0, 3, 1, 4, 2, 5, -1),
    "MatMulInteger": (0, 1, -1, -1, 2, 3, -1),
    "MatMulIntegerToFloat": (0, 1, 2, 3, 4, 5, 6),
    "DynamicQuantizeMatMul": (0, 1, -1, 2, -1, 3, 4),
    "QGemm": (0, 3, 1, 4, 2, 5, 6),
}
# These, too, add up in pairs, but what they quantize and how is inside them.
UNKNOWN = ("QAttention", "DynamicQuantizeLSTM", "QOrderedMatMul", "MatMulIntegerToFloat16")


@dataclass(frozen=True)
class Product:
    """An integer product of unsigned activations and signed weights in an optimized graph.

    node: its place in the graph. name: of the node. operator: a key of OPERANDS.
    x, w, x_scale, w_scale, x_zero, w_zero, bias: names of its operands; empty where it has none.
    weights: int8, as stored; None where they are computed too.
    group: of a convolution. transposed: weights are [outputs, inputs].
    """

    node: int
    name: str
    operator: str
    x: str
    w: str
    x_scale: str
    w_scale: str
    x_zero: str
    w_zero: str
    bias: str
    weights: np.ndarray | None
    group: int = 1
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the stored weights; empty where they are computed."""
        return () if self.weights is None else self.weights.shape

    @property
    def matrices(self) -> list[np.ndarray]:
        """The weights of each group as [k, outputs], in the order of summing."""
        return [] if self.weights is None else self.in_order_of_summing(self.weights)

    def in_order_of_summing(self, weights: np.ndarray) -> list[np.ndarray]:
        """Of each group, [k, outputs] of weights in the shape of those stored."""
        if self.operator == "QLinearConv":
            return [as_matrix(part) for part in np.split(weights, self.group)]
        return [weights.T if self.transposed else weights]

    @property
    def output_axis(self) -> int:
        """Of the stored weights: the axis of output channels."""
        return 0 if self.operator == "QLinearConv" or self.transposed else 1

    @property
    def can_clip(self) -> np.ndarray:
        """[outputs] bool: is there an input for which a pair is clipped? [1], true, of weights that are computed."""
        if self.weights is None:
            return np.ones(1, bool)
        return np.concatenate([largest_pair(matrix) > LARGEST_PAIR for matrix in self.matrices])


def optimized(graph: "onnx.ModelProto") -> "onnx.ModelProto":
    """The graph as the runtime executes it, in the memory layout of ONNX, which changes no number."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(file)
        onnxruntime.InferenceSession(
            graph.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["NhwcTransformer"],
        )
        return onnx.load(file)


def products(graph: "onnx.ModelProto") -> list[Product]:
    """Those of an optimized graph that are summed in pairs, in its order.

    Raises UnsupportedError naming a node of which it is not known how it sums.
    """
    import onnx

    arrays = {tensor.name: tensor for tensor in graph.graph.initializer}
    signed = _signed(graph)
    found: list[Product] = []
    for index, node in enumerate(graph.graph.node):
        if node.op_type in UNKNOWN:
            raise UnsupportedError(f"node {node.name}: how {node.op_type} adds up without VNNI is not known")
        if node.op_type not in OPERANDS:
            continue
        x, w, x_scale, w_scale, x_zero, w_zero, bias = (_operand(node, place) for place in OPERANDS[node.op_type])
        if x in signed or w not in signed:
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        weights = onnx.numpy_helper.to_array(arrays[w]) if w in arrays else None
        group = attributes.get("group", 1)
        if node.op_type == "QLinearConv" and weights is not None and is_depthwise(weights, group):
            continue
        _check(node, weights)
        found.append(
            Product(
                *(index, node.name, node.op_type, x, w, x_scale, w_scale, x_zero, w_zero, bias),
                weights=weights,
                group=group,
                transposed=bool(attributes.get("transB", 0)),
            )
        )
    return found


def integer_tensors(graph: "onnx.ModelProto") -> list[str]:
    """Names of what an optimized graph computes in 8-bit integers, in its order."""
    import onnx

    eight_bits = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    typed = onnx.shape_inference.infer_shapes(graph).graph
    known = {v.name: v.type.tensor_type.elem_type for v in (*typed.value_info, *typed.output)}
    made = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}
    return [
        name
        for node in graph.graph.node
        for place, name in enumerate(node.output)
        if known.get(name) in eight_bits or (node.op_type in made and place == 0)
    ]


def _check(node: "onnx.NodeProto", weights: np.ndarray | None) -> None:
    if weights is None and node.op_type not in ("QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat"):
        raise UnsupportedError(f"node {node.name}: weights of {node.op_type} that are computed are not known to sum")
    if weights is not None and node.op_type != "QLinearConv" and weights.ndim != 2:
        raise UnsupportedError(f"node {node.name}: weights of {node.op_type} have {weights.ndim} axes, not 2")


def _operand(node: "onnx.NodeProto", place: int) -> str:
    return node.input[place] if 0 <= place < len(node.input) else ""


def _signed(graph: "onnx.ModelProto") -> set[str]:
    """Names of the int8 tensors: weights, and what is computed."""
    import onnx

    int8 = {t.name for t in graph.graph.initializer if t.data_type == onnx.TensorProto.INT8}
    values = (*graph.graph.input, *graph.graph.value_info, *graph.graph.output)
    int8 |= {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.INT8}
    for node in graph.graph.node:
        # Of what is computed, an integer has the type of the zero point it is made with; the rest hands it on.
        zero = {"QuantizeLinear": 2, "QLinearConv": 7, "QLinearMatMul": 7, "QGemm": 8}.get(node.op_type)
        last = node.input[-1] if node.domain == "com.microsoft" and node.op_type.startswith("QLinear") else ""
        made_with = _operand(node, zero) if zero is not None else last
        handed_on = node.op_type in ("Transpose", "Reshape", "MaxPool", "Slice", "Gather", "Squeeze", "Unsqueeze")
        if made_with in int8 or (handed_on and node.input[0] in int8):
            int8.update(node.output)
    return int8
