"""What a Q/DQ graph says of its quantization: which tensor is rounded where, to which integers, with which scale."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from calibration.errors import UnsupportedError
from calibration.saturation import is_depthwise
from pipeline.fake_quantization import RANGES, Integers
from pipeline.onnx_operators import OLDEST_OPSET, OPERATORS

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
STANDARD = ("", "ai.onnx")
# The inputs of operators that are a model's weights. Constants of a formula, such as attention masks, are none.
WEIGHTS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "Gather": (0,),
    "Gemm": (0, 1, 2),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
}
# Of these a vector along one axis is a weight: biases and layer scales.
VECTORS = ("Add", "Mul")
# Between a weight and the operator that reads it.
PASSING = (QUANTIZE, DEQUANTIZE, "Identity", "Reshape", "Transpose")
# They hand values on as they are: runtimes spare the rounding where the scales on both sides are equal.
HANDING_ON = (
    *("Clip", "Concat", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Relu", "Reshape", "Slice"),
    *("Split", "Squeeze", "Transpose", "Unsqueeze"),
)
# A bias's scale and the product that it stands for are both rounded to float32.
SCALE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Rounding:
    """One place where a tensor is rounded.

    scale: the initializer with the scale; axis: of its channels, None where the whole tensor has one scale.
    product: of a bias, the scales of the inputs and weights that its own is the product of, else None.
    stored: the initializer that is rounded; None of an activation.
    """

    scale: str
    axis: int | None
    integers: Integers
    stored: str | None = None
    product: tuple[str, str] | None = None

    def along(self, scale: Tensor, dimensions: int) -> Tensor:
        """The scale, shaped to meet its axis of a tensor."""
        if self.axis is None or scale.ndim == 0:
            return scale.reshape(())
        return scale.reshape([-1 if d == self.axis % dimensions else 1 for d in range(dimensions)])


class QuantizedGraph:
    """A model's nodes and initializers, and its roundings by the output of the node that does them.

    Raises UnsupportedError naming the first node that cannot be trained, or where nothing is quantized.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = _lifted(model)
        self.nodes = list(self.model.graph.node)
        self.attributes = [attributes_of(node) for node in self.nodes]
        self.tensors = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in self.model.graph.initializer}
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.inputs = [i.name for i in self.model.graph.input if i.name not in self.tensors]
        self.output = self.model.graph.output[0].name
        self._check()
        self.roundings = dict(self._roundings())

    @cached_property
    def weights(self) -> set[str]:
        """The initializers that are a model's weights: float, or integers that are dequantized where they are read."""
        found: set[str] = set()
        for node in self.nodes:
            for position, name in enumerate(node.input):
                origin = self._origin(name)
                if origin is None or not self._holds_numbers(origin):
                    continue
                tensor = self.tensors[origin]
                vector = node.op_type in VECTORS and sum(d > 1 for d in tensor.shape) == 1
                if tensor.numel() > 1 and (vector or position in WEIGHTS.get(node.op_type, ())):
                    found.add(origin)
        return found

    @cached_property
    def tied(self) -> Mapping[str, str]:
        """Scale -> the one that it must go on being equal to: of a pair, and around what hands values on."""
        roots = {name: name for rounding in self.roundings.values() for name in (rounding.scale,)}

        def root(name: str) -> str:
            while roots.setdefault(name, name) != name:
                name = roots[name]
            return name

        for node in self.nodes:
            if node.op_type == DEQUANTIZE and self._maker(node.input[0]) == QUANTIZE:
                roots[root(node.input[1])] = root(self.makers[node.input[0]].input[1])
            if node.op_type not in HANDING_ON:
                continue
            before = [self.makers[name] for name in node.input if self._maker(name) == DEQUANTIZE]
            after = [r for name in node.output for r in self.readers.get(name, ()) if r.op_type == QUANTIZE]
            around = [n for n in (*before, *after) if self.tensors[n.input[1]].numel() == 1]
            for one in around[1:]:
                if self._parameters(one) == self._parameters(around[0]):
                    roots[root(one.input[1])] = root(around[0].input[1])
        return {name: root(name) for name in roots}

    def _check(self) -> None:
        opsets = {o.domain: o.version for o in self.model.opset_import}
        opset = opsets.get("", opsets.get("ai.onnx", 0))
        if opset < OLDEST_OPSET:
            raise UnsupportedError(f"a graph of opset {opset} cannot be trained", f"opset {OLDEST_OPSET} or later can")
        for node in self.nodes:
            known = node.op_type in (QUANTIZE, DEQUANTIZE) or (node.op_type in OPERATORS and node.domain in STANDARD)
            if not known:
                raise UnsupportedError(f"{_named(node)} has no form that can be trained")
        if not any(node.op_type == QUANTIZE for node in self.nodes):
            raise UnsupportedError("no activation of the graph is quantized by QuantizeLinear")

    def _roundings(self) -> Iterator[tuple[str, Rounding]]:
        for node, attributes in zip(self.nodes, self.attributes, strict=True):
            if node.op_type not in (QUANTIZE, DEQUANTIZE) or self._maker(node.input[0]) == QUANTIZE:
                continue
            stored = node.input[0] if node.input[0] in self.tensors else None
            if node.op_type == DEQUANTIZE and stored is None:
                raise UnsupportedError(f"{_named(node)} reads integers that no {QUANTIZE} gives")
            if attributes.get("block_size", 0) or node.input[1] not in self.tensors:
                raise UnsupportedError(f"{_named(node)} has scales of blocks, or computed ones")
            yield node.output[0], self._rounding(node, attributes.get("axis", 1), stored)

    def _rounding(self, node: onnx.NodeProto, axis: int, stored: str | None) -> Rounding:
        scale, zero_point = self.tensors[node.input[1]], self._zero_point(node)
        if zero_point.dtype not in RANGES or scale.dtype != torch.float32:
            raise UnsupportedError(f"{_named(node)} has integers or scales that are not those of int8")
        per_channel = axis if scale.numel() > 1 else None
        rounding = Rounding(node.input[1], per_channel, Integers(torch.zeros(()), *RANGES[zero_point.dtype]), stored)
        if stored is None:
            shift = rounding.along(zero_point.float(), 1) if per_channel is None else None
            if shift is None:
                raise UnsupportedError(f"{_named(node)} quantizes an activation per channel")
            return Rounding(node.input[1], None, Integers(shift, *RANGES[zero_point.dtype]))
        tensor = self.tensors[stored]
        shift = rounding.along(zero_point.float(), tensor.ndim)
        integers = Integers(shift, *RANGES[zero_point.dtype])
        if zero_point.dtype == torch.int32:
            return Rounding(node.input[1], per_channel, integers, stored, self._product(node))
        whole = tensor.float() - shift
        if node.op_type == QUANTIZE:
            whole = integers.of(tensor / rounding.along(scale, tensor.ndim))
        return Rounding(node.input[1], per_channel, integers.keeping(whole, self._order_of_summing(node)), stored)

    def _product(self, node: onnx.NodeProto) -> tuple[str, str]:
        """The scales of input and weights whose product the runtime takes for the scale of an int32 bias."""
        [reader, *others] = self.readers[node.output[0]]
        parts = [self.makers.get(name) for name in reader.input[:2]]
        if others or any(part is None or part.op_type != DEQUANTIZE for part in parts):
            raise UnsupportedError(f"{_named(node)} reads int32 that are no bias of an operator with quantized inputs")
        x, w = (part.input[1] for part in parts if part is not None)
        own, product = self.tensors[node.input[1]], self.tensors[x] * self.tensors[w]
        if not torch.allclose(own, product.expand_as(own), rtol=SCALE_TOLERANCE, atol=0.0):
            raise UnsupportedError(
                f"{_named(node)} has a scale that is not that of the input times that of the weights"
            )
        return x, w

    def _order_of_summing(self, node: onnx.NodeProto) -> tuple[int, ...] | None:
        """As calibration/saturation.py has it, output channels last; None where it is not known, or no kernel clips."""
        name = node.output[0]
        while len(readers := self.readers.get(name, ())) == 1 and readers[0].op_type == DEQUANTIZE:
            name = readers[0].output[0]
        if len(readers) != 1 or readers[0].input[1:2] != [name]:
            return None
        [reader] = readers
        weights, attributes = self.tensors[node.input[0]], attributes_of(reader)
        if reader.op_type == "Conv" and not is_depthwise(weights.numpy(), attributes.get("group", 1)):
            return (*range(2, weights.ndim), 1, 0)
        if reader.op_type in ("MatMul", "Gemm") and weights.ndim == 2:
            return (1, 0) if attributes.get("transB", 0) else (0, 1)
        return None

    def _origin(self, name: str) -> str | None:
        """The initializer that a tensor is, but for its form; None where it is computed."""
        while self._maker(name) in PASSING:
            name = self.makers[name].input[0]
        return name if name in self.tensors else None

    def _holds_numbers(self, name: str) -> bool:
        dequantized = any(rounding.stored == name for rounding in self.roundings.values())
        return dequantized or self.tensors[name].dtype == torch.float32

    def _maker(self, name: str) -> str:
        return self.makers[name].op_type if name in self.makers else ""

    def _zero_point(self, node: onnx.NodeProto) -> Tensor:
        if len(node.input) > 2 and node.input[2]:
            return self.tensors[node.input[2]]
        stored = self.tensors.get(node.input[0])
        return torch.zeros((), dtype=torch.uint8 if node.op_type == QUANTIZE or stored is None else stored.dtype)

    def _parameters(self, node: onnx.NodeProto) -> tuple[float, int]:
        return self.tensors[node.input[1]].item(), int(self._zero_point(node).item())


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes, tensors and types as torch has them, and how many "outputs" it has."""
    found: dict[str, Any] = {"outputs": len(node.output)}
    for attribute in node.attribute:
        value: Any = helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            value = torch.from_numpy(numpy_helper.to_array(value).copy())
        if node.op_type == "Cast" and attribute.name == "to":
            value = torch.from_numpy(np.zeros(0, helper.tensor_dtype_to_np_dtype(value))).dtype
        found[attribute.name] = value
    return found


def _lifted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with constants as initializers, where scales and weights are looked for."""
    lifted = onnx.ModelProto()
    lifted.CopyFrom(model)
    del lifted.graph.node[:]
    for node in model.graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is None:
            lifted.graph.node.add().CopyFrom(node)
        else:
            lifted.graph.initializer.add().CopyFrom(value)
            lifted.graph.initializer[-1].name = node.output[0]
    return lifted


def _named(node: onnx.NodeProto) -> str:
    domain = "" if node.domain in STANDARD else f"{node.domain}."
    return f"node {node.name or node.output[0]} ({domain}{node.op_type})"
