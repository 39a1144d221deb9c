"""What the integers of a quantized ONNX graph stand for: its Q/DQ pairs, read from the graph."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from calibration.quantization import QuantizationParameters, QuantizationScheme, dequantize

if TYPE_CHECKING:
    import onnx

QUANTIZERS = ("QuantizeLinear", "DynamicQuantizeLinear")
PAIR = (*QUANTIZERS, "DequantizeLinear")
BITS = {"int8": 8, "uint8": 8, "int16": 16, "uint16": 16, "int32": 32}


@dataclass(frozen=True)
class Reader:
    """A DequantizeLinear: its node's name, the float tensor it gives, and by which parameters."""

    op: str
    output: str
    how: QuantizationParameters


@dataclass(frozen=True)
class Activation:
    """A tensor that is computed in integers.

    key: name of the integers; source: name of the float tensor that is quantized; op: name of the quantizing node; how:
    None where scale and zero point are computed from each sample; axis: of scales, where there are several.
    """

    key: str
    source: str
    op: str
    how: QuantizationParameters | None
    axis: int | None
    readers: tuple[Reader, ...]


@dataclass(frozen=True)
class Constant:
    """A weight or bias: the values that it stands for (float64), and the steps between them, 0 where it is float.

    op: name of the DequantizeLinear node, "" where there is none; scale: as it stands in the file.
    """

    tensor: str
    op: str
    values: np.ndarray
    step: np.ndarray
    axis: int | None
    scale: np.ndarray | None


class QuantizedGraph:
    """An ONNX graph, and what its integers stand for."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self.producer = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self.consumers: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in node.input:
                self.consumers.setdefault(name, []).append(index)

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Initializers, and what Constant nodes give."""
        from onnx import helper, numpy_helper

        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                arrays[node.output[0]] = numpy_helper.to_array(helper.get_attribute_value(node.attribute[0]))
        return arrays

    @cached_property
    def activations(self) -> dict[str, Activation]:
        """Key -> quantized activation, in topological order."""
        found: dict[str, Activation] = {}
        for node in self.nodes:
            if node.op_type in QUANTIZERS and node.input[0] not in self.arrays:
                how = self._parameters(node) if node.op_type == "QuantizeLinear" else None
                if node.op_type == "QuantizeLinear" and how is None:
                    continue
                key = node.output[0]
                readers = tuple(self._readers(key))
                found[key] = Activation(key, node.input[0], node.name or key, how, _axis(node, how), readers)
        return found

    @cached_property
    def constants(self) -> dict[str, Constant]:
        """Name of the float tensor -> constant, for float initializers and those behind a DequantizeLinear."""
        found = {
            name: Constant(name, "", array.astype(np.float64), np.zeros(()), None, None)
            for name, array in self.arrays.items()
            if array.dtype.kind == "f"
        }
        for node in self.nodes:
            how = self._parameters(node) if node.op_type == "DequantizeLinear" else None
            integers = self._integers(node.input[0]) if how is not None else None
            if how is None or integers is None:
                continue
            axis = _axis(node, how)
            shape = [-1 if axis is not None and d == axis % integers.ndim else 1 for d in range(integers.ndim)]
            found[node.output[0]] = Constant(
                tensor=node.output[0],
                op=node.name or node.output[0],
                values=dequantize(integers, how, axis).astype(np.float64),
                step=how.scale.astype(np.float64).reshape(shape) if integers.ndim else how.scale.reshape(()),
                axis=axis,
                scale=how.scale,
            )
        return found

    @cached_property
    def reads(self) -> dict[str, tuple[Activation, Reader]]:
        """Float tensor that a DequantizeLinear gives -> whose integers it reads, and how."""
        return {r.output: (a, r) for a in self.activations.values() for r in a.readers}

    def _integers(self, name: str) -> np.ndarray | None:
        """Integers that are in the file, or made by quantizing what is in the file."""
        if name in self.arrays:
            return self.arrays[name]
        index = self.producer.get(name)
        node = None if index is None else self.nodes[index]
        if node is None or node.op_type != "QuantizeLinear" or node.input[0] not in self.arrays:
            return None
        from calibration.quantization import quantize

        how = self._parameters(node)
        return None if how is None else quantize(self.arrays[node.input[0]], how, _axis(node, how))

    def _readers(self, key: str) -> Iterator[Reader]:
        for index in self.consumers.get(key, []):
            node = self.nodes[index]
            how = self._parameters(node) if node.op_type == "DequantizeLinear" else None
            if how is not None:
                yield Reader(node.name or node.output[0], node.output[0], how)

    def _parameters(self, node: "onnx.NodeProto") -> QuantizationParameters | None:
        """None where they are not in the file, or of another type than integers of 8, 16 or 32 bits."""
        scale = self.arrays.get(node.input[1])
        named = len(node.input) > 2 and node.input[2]
        zero = self.arrays.get(node.input[2]) if named else None
        if scale is None or (named and zero is None):
            return None
        integers = self.arrays.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        like = zero if zero is not None else integers if integers is not None else np.zeros((), np.uint8)
        if like.dtype.name not in BITS:
            return None
        scheme = QuantizationScheme(BITS[like.dtype.name], signed=like.dtype.kind == "i")
        zeros = np.zeros(scale.size, np.int32) if zero is None else zero.astype(np.int32).reshape(-1)
        return QuantizationParameters(scheme, scale.astype(np.float32).reshape(-1), zeros)


def _axis(node: "onnx.NodeProto", how: QuantizationParameters | None) -> int | None:
    if how is None or how.scale.size == 1:
        return None
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 1)
