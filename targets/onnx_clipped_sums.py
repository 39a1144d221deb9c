"""An integer product in a graph, replaced by standard operators that give what a CPU without VNNI makes of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.saturation import HIGHEST, LARGEST_PAIR, LOWEST, largest_in_pairs
from targets.onnx_products import Product

if TYPE_CHECKING:
    import onnx

# Weights of this type, which all such CPUs multiply exactly, stand for signed ones less this.
OFFSET = 128
# Where an operator that gives integers has the scale of these; the zero point follows it.
OUTPUT_SCALE = {"QLinearConv": 6, "QLinearMatMul": 6, "QGemm": 7}
# What is counted of a layer, in this order.
COUNTS = ("clipped", "pairs", "changed", "outputs", "noise", "signal")


@dataclass(frozen=True)
class _Risky:
    """The pairs that can clip: [pairs] each. Rows of the [k, outputs] weights, the weights there, the output."""

    first: np.ndarray
    second: np.ndarray
    w_first: np.ndarray
    w_second: np.ndarray
    output: np.ndarray


def _risky_pairs(product: Product) -> _Risky:
    """Rows are counted through all groups of a convolution: [group, kernel, channel]."""
    columns: list[list[np.ndarray]] = []
    rows = outputs = 0
    for matrix in product.matrices:
        pair, output = np.nonzero(largest_in_pairs(matrix) > LARGEST_PAIR)
        first = 2 * pair
        # The last row of an odd number has no neighbour, and alone is never in danger.
        columns.append(
            [rows + first, rows + first + 1, matrix[first, output], matrix[first + 1, output], outputs + output]
        )
        rows, outputs = rows + len(matrix), outputs + matrix.shape[1]
    return _Risky(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))


class Surgery:
    """The nodes, constants and outputs of the graph in the making."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.counts: list[onnx.ValueInfoProto] = []
        self.arrays = {tensor.name: tensor for tensor in model.graph.initializer}
        self.prefix = ""

    def replace(self, node: "onnx.NodeProto", product: Product, *, clips: bool, counting: bool) -> None:
        self.prefix = f"{product.name or product.node}/without_vnni/"
        x, zero = product.x, product.x_zero
        scale = product.x_scale
        if product.operator == "DynamicQuantizeMatMul":
            x, scale, zero = (f"{self.prefix}{part}" for part in ("x", "scale", "zero"))
            self.nodes.append(_node("DynamicQuantizeLinear", [product.x], [x, scale, zero]))
        exact = self._exact(node, product, x, zero)
        over = self._over(node, product, x, zero) if clips or counting else ""
        clipped = self.add("Sub", exact, self._lost(product, over)) if over else exact
        self._finish(node, product, clipped if clips else exact, scale, node.output[0])
        if counting:
            self._count(node, product, over, exact, clipped, scale)

    def _exact(self, node: "onnx.NodeProto", product: Product, x: str, zero: str) -> str:
        """Int32 sums as of the CPU's exact kernels: unsigned weights with a zero point in the middle."""
        zero = zero or self.constant(np.uint8(0))
        middle = self.constant(np.uint8(OFFSET))
        if product.weights is None:
            wide = self.add("Add", self.add("Cast", product.w, to=6), self.constant(np.int32(OFFSET)))
            return self.add("MatMulInteger", x, self.add("Cast", wide, to=2), zero, middle)
        weights = (product.weights.astype(np.int16) + OFFSET).astype(np.uint8)
        if product.operator == "QLinearConv":
            return self.add("ConvInteger", x, self.constant(weights), zero, middle, **_window(node))
        x = self._rows(node, x)
        weights = weights.T if product.transposed else weights
        return self.add("MatMulInteger", x, self.constant(weights), zero, middle)

    def _rows(self, node: "onnx.NodeProto", x: str) -> str:
        return self.add("Transpose", x, perm=[1, 0]) if _attributes(node).get("transA", 0) else x

    def _over(self, node: "onnx.NodeProto", product: Product, x: str, zero: str) -> str:
        """Float32: by how much each pair that can clip exceeds 16 bits; empty where there is none.

        Convolution: [n, pairs, *positions]; matrix: [..., rows, pairs]; computed weights: [..., rows, pairs, outputs].
        """
        if product.weights is None:
            return self._over_computed(product, x)
        risky = _risky_pairs(product)
        if not len(risky.first):
            return ""
        if product.operator == "QLinearConv":
            values, axis = self._columns(node, product, x, zero), 1
            shape = (-1, *([1] * (product.weights.ndim - 2)))
        else:
            values, axis, shape = self.add("Cast", self._rows(node, x), to=1), -1, (-1,)
        halves = [
            self.add(
                "Mul",
                self.add("Gather", values, self.constant(rows.astype(np.int64)), axis=axis),
                self.constant(weights.astype(np.float32).reshape(shape)),
            )
            for rows, weights in ((risky.first, risky.w_first), (risky.second, risky.w_second))
        ]
        return self._excess(self.add("Add", *halves))

    def _over_computed(self, product: Product, x: str) -> str:
        halves: list[str] = []
        a, b = self.add("Cast", x, to=1), self.add("Cast", product.w, to=1)
        for start, end in ((0, -1), (1, 2**31 - 1)):
            slices = [
                self.add("Slice", t, *(self.constant(np.array([v])) for v in (start, end, axis, 2)))
                for t, axis in ((a, -1), (b, -2))
            ]
            parts = [
                self.add("Unsqueeze", t, self.constant(np.array([axis])))
                for t, axis in zip(slices, (-1, -3), strict=True)
            ]
            halves.append(self.add("Mul", *parts))
        return self._excess(self.add("Add", *halves))

    def _excess(self, pair: str) -> str:
        ends = (self.constant(np.float32(end)) for end in (LOWEST, HIGHEST))
        return self.add("Sub", pair, self.add("Clip", pair, *ends))

    def _columns(self, node: "onnx.NodeProto", product: Product, x: str, zero: str) -> str:
        """[n, group x kernel x channels, *positions] float32: what the kernel lies on, padding included.

        Each place of the kernel is taken by a convolution that has a single 1 there. Zero is padding for those, so the
        zero point is taken off first and put back.
        """
        depth, *kernel = product.shape[1:]
        zero_point = self.add("Cast", zero, to=1) if zero else self.constant(np.float32(0))
        centred = self.add("Sub", self.add("Cast", x, to=1), zero_point)
        places, channels = int(np.prod(kernel)), depth * product.group
        single = np.eye(places, dtype=np.float32).reshape(places, 1, *kernel)
        window = _window(node) | {"group": channels}
        taken = self.add("Conv", centred, self.constant(np.tile(single, (channels, 1, *([1] * len(kernel))))), **window)
        # From [channel of all groups, place] to [group, place, channel of the group].
        order = np.arange(channels * places).reshape(product.group, depth, places).transpose(0, 2, 1).ravel()
        ordered = self.add("Gather", taken, self.constant(order), axis=1) if places > 1 and depth > 1 else taken
        return self.add("Add", ordered, zero_point)

    def _lost(self, product: Product, over: str) -> str:
        """Int32 of the exact sums' shape: what clipping takes from each."""
        if product.weights is None:
            summed = self.add("ReduceSum", over, self.constant(np.array([-2])), keepdims=0)
        else:
            output = _risky_pairs(product).output
            outputs = product.weights.shape[product.output_axis]
            belongs = (output[:, None] == np.arange(outputs)).astype(np.float32)
            if product.operator == "QLinearConv":
                kernel = belongs.T.reshape(outputs, -1, *([1] * (product.weights.ndim - 2)))
                summed = self.add("Conv", over, self.constant(kernel))
            else:
                summed = self.add("MatMul", over, self.constant(belongs))
        return self.add("Cast", summed, to=6)

    def _finish(self, node: "onnx.NodeProto", product: Product, sums: str, scale: str, out: str) -> None:
        """From sums to what the node gives: with bias, scale and rounding in the kernels' order, in float32."""
        if product.operator == "MatMulInteger":
            self.nodes.append(_node("Identity", [sums], [out]))
            return
        inputs = list(node.input) + [""] * 10
        place = OUTPUT_SCALE.get(product.operator)
        y_scale, y_zero = inputs[place : place + 2] if place else ("", "")
        bias = product.bias
        factor = self.add("Mul", scale, product.w_scale)
        if product.operator == "QGemm":
            factor = self.add("Mul", factor, self.constant(np.float32(_attributes(node).get("alpha", 1.0))))
        if y_scale:
            factor = self.add("Div", factor, y_scale)
        integer_bias = product.operator in ("QLinearConv", "QGemm")
        if product.operator == "QLinearConv":
            shape = self.constant(np.array([-1, *([1] * (len(product.shape) - 2))]))
            factor = self.add("Reshape", factor, shape)
            bias = self.add("Reshape", bias, shape) if bias else ""
        if bias and integer_bias:
            sums = self.add("Add", sums, bias)
        scaled = self.add("Mul", self.add("Cast", sums, to=1), factor)
        if y_scale:
            self.nodes.append(_node("QuantizeLinear", [scaled, self.constant(np.float32(1)), y_zero], [out]))
        elif bias and not integer_bias:
            self.nodes.append(_node("Add", [scaled, bias], [out]))
        else:
            self.nodes.append(_node("Identity", [scaled], [out]))

    def _count(self, node: "onnx.NodeProto", product: Product, over: str, exact: str, clipped: str, scale: str) -> None:
        """The output NAME/clipping: COUNTS, all zero where nothing can clip."""
        import onnx

        def total(values: str) -> str:
            return self.add("ReduceSum", self.add("Cast", values, to=1), keepdims=0)

        counts = [self.constant(np.float32(0))] * len(COUNTS)
        if over:
            sides = [f"{self.prefix}{side}" for side in ("exact", "clipped")]
            for sums, side in zip((exact, clipped), sides, strict=True):
                self._finish(node, product, sums, scale, side)
            wide = [self.add("Cast", side, to=1) for side in sides]
            difference = self.add("Sub", *wide)
            outputs = self.add("Cast", self.add("Size", exact), to=1)
            pairs = max((len(m) // 2 for m in product.matrices), default=0)
            zero = self.constant(np.float32(0))
            level = self.add("Cast", self._zero_of(node, product), to=1)
            signal = self.add("Sub", wide[0], level)
            counts = [
                total(self.add("Not", self.add("Equal", over, zero))),
                self.add("Mul", outputs, self.constant(np.float32(pairs)))
                if product.weights is not None
                else self.add("Cast", self.add("Size", over), to=1),
                total(self.add("Not", self.add("Equal", difference, zero))),
                outputs,
                total(self.add("Mul", difference, difference)),
                total(self.add("Mul", signal, signal)),
            ]
        axis = self.constant(np.array([0]))
        rows = [self.add("Unsqueeze", count, axis) for count in counts]
        name = f"{product.name}/clipping"
        self.nodes.append(_node("Concat", rows, [name], axis=0))
        self.counts.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [len(COUNTS)]))

    def _zero_of(self, node: "onnx.NodeProto", product: Product) -> str:
        place = OUTPUT_SCALE.get(product.operator, len(node.input)) + 1
        named = node.input[place] if place < len(node.input) else ""
        return named or self.constant(np.float32(0))

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        out = f"{self.prefix}{operator}_{len(self.nodes)}"
        self.nodes.append(_node(operator, list(inputs), [out], **attributes))
        return out

    def constant(self, value: np.ndarray | np.generic) -> str:
        import onnx

        name = f"{self.prefix}constant_{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name


def _node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> "onnx.NodeProto":
    import onnx

    return onnx.helper.make_node(operator, inputs, outputs, outputs[0], **attributes)


def _attributes(node: "onnx.NodeProto") -> dict[str, Any]:
    import onnx

    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _window(node: "onnx.NodeProto") -> dict[str, Any]:
    """Where a convolution's kernel goes."""
    kept = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    return {key: value for key, value in _attributes(node).items() if key in kept}
