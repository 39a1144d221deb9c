"""An ONNX artifact beside the float graph it was made from: which operator is which, and what was seen of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from calibration.quantization import dequantize
from targets.onnx_integers import PAIR, Activation, Constant, QuantizedGraph
from targets.onnx_taps import ACTIVATIONS, MOVES, float_names

Run = Sequence[Mapping[str, np.ndarray]]

SUFFIX = "_QuantizeLinear_Input"
# What ONNX Runtime's quantizer adds to the name of a tensor for its integers.
INTEGERS = "_quantized"
# What quantizers add to the name of an operator that they replace.
RENAMED = "_quant"
# Operators of the dynamic quantizer -> which of their inputs is a constant in integers.
READS_INTEGERS = {"MatMulInteger": 1, "ConvInteger": 1, "Gather": 0}
COMMUTATIVE = ("Add", "Mul", "Min", "Max")
PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm", "MatMulInteger", "ConvInteger")
# What runtimes compute in the kernel of the operator before it, beside activations and what moves values.
FOLLOWING = ("Add", "Sub", "Mul", "Div", "Gelu", "Erf", "Cast")


@dataclass
class Sides:
    """Both graphs, and of each sample, name -> array of all tensors that were looked at, the inputs among them.

    unknown: names of the artifact's nodes that are none of the reference's, or whose results are not what it says.
    """

    reference: QuantizedGraph
    artifact: QuantizedGraph
    expected: Run
    found: Run
    unknown: frozenset[str] = frozenset()

    @cached_property
    def seen(self) -> list[str]:
        """What was looked at of the artifact, in topological order: keys of quantized activations and float tensors."""
        there = self.found[0]
        names: list[str] = []
        for node in self.artifact.nodes:
            of_interest = (n for n in node.output if n in there)
            names += [n for n in of_interest if n in self.artifact.activations or there[n].dtype.kind == "f"]
            if node.op_type == "DynamicQuantizeLinear":
                names = [n for n in names if n not in node.output[1:]]
        return [n for n in names if n not in self.artifact.reads]

    @cached_property
    def values(self) -> list[dict[str, np.ndarray]]:
        """Of each sample, the float tensors of the artifact as its operators read them, by the names that they read."""
        samples: list[dict[str, np.ndarray]] = []
        for seen in self.found:
            values = {name: array for name, array in seen.items() if array.dtype.kind == "f"}
            for key, activation in self.artifact.activations.items():
                if key not in seen:
                    continue
                values[f"{key}::values"] = _dequantized(activation, seen)
                for reader in activation.readers:
                    values[reader.output] = dequantize(seen[key], reader.how, activation.axis)
            samples.append(values)
        return samples

    def value_name(self, name: str) -> str:
        """Of something seen: the name of its float values."""
        activation = self.artifact.activations.get(name)
        if activation is None:
            return name
        return activation.readers[0].output if activation.readers else f"{name}::values"

    def tensor_of(self, name: str) -> str | None:
        """The reference's name for a tensor of the artifact, given by key, source or as a reader's output."""
        activation = self.artifact.activations.get(name)
        if name in self.artifact.reads:
            activation = self.artifact.reads[name][0]
        if activation is None:
            return name if name in self.known else None
        sources = [activation.source]
        # What was put between a result and its quantizer; not what a quantizer itself moves into weights.
        while (index := self.artifact.producer.get(sources[-1])) is not None and index not in self.counterparts:
            node = self.artifact.nodes[index]
            if node.op_type in (*PAIR, "Mul") or node.input[0] in self.artifact.reads or node.name in self.unknown:
                break
            sources.append(node.input[0])
        names = (*sources, *(s.removesuffix(SUFFIX) for s in sources), *(r.output for r in activation.readers))
        return next((n for n in names if n in self.known), None)

    @cached_property
    def known(self) -> set[str]:
        """The float tensors of the reference, its inputs among them."""
        return float_names(self.reference.model) | {n for n in self.reference.inputs if n not in self.reference.arrays}

    def axis(self, activation: Activation) -> int | None:
        """Counted from the end, so that it holds with the samples in front."""
        return None if activation.axis is None else activation.axis - self.found[0][activation.key].ndim

    @cached_property
    def matched(self) -> dict[int, int]:
        """Index of a node of the reference -> of the same node of the artifact: by name, else by what it computes."""
        nodes = enumerate(self.artifact.nodes)
        by_name = {(n.name.removesuffix(RENAMED), n.op_type): i for i, n in nodes if n.name}
        by_output = {
            (name, node.op_type): i for i, node in enumerate(self.artifact.nodes) for name in node.output if name
        }
        found: dict[int, int] = {}
        for index, node in enumerate(self.reference.nodes):
            same = by_name.get((node.name, node.op_type)) if node.name else None
            same = by_output.get((node.output[0], node.op_type)) if same is None else same
            if same is not None:
                found[index] = same
        return found

    @cached_property
    def counterparts(self) -> dict[int, int]:
        """The other way round."""
        return {theirs: ours for ours, theirs in self.matched.items()}

    def segment(self, tensor: str) -> list[int]:
        """Nodes of the artifact that compute a tensor from what was seen, in order."""
        found: set[int] = set()
        pending = [tensor]
        while pending:
            index = self.artifact.producer.get(pending.pop())
            if index is None or index in found:
                continue
            node = self.artifact.nodes[index]
            if node.op_type in PAIR:
                continue
            found.add(index)
            pending += [n for n in node.input if n not in self.found[0]]
        return sorted(found)

    def segment_of(self, name: str) -> list[int]:
        activation = self.artifact.activations.get(name)
        return self.segment(activation.source if activation else name)

    def same_input(self, ours: int, position: int) -> str | None:
        """What the artifact's node reads where the reference's reads its input at this position."""
        theirs = self.matched.get(ours)
        if theirs is None or position >= len(self.artifact.nodes[theirs].input):
            return None
        node = self.artifact.nodes[theirs]
        name = node.input[position]
        if node.op_type in COMMUTATIVE and len(node.input) == 2:
            wanted = self.reference.nodes[ours].input[position]
            other = node.input[1 - position]
            if self.tensor_of(name) != wanted and self.tensor_of(other) == wanted:
                return other
        return name

    def kernel(self, segment: list[int]) -> int | None:
        """Of the nodes that compute a tensor, the one whose kernel does: the last that is not computed in another's."""
        light = (*ACTIVATIONS, *MOVES, *FOLLOWING)
        return next(
            (i for i in reversed(segment) if self.artifact.nodes[i].op_type not in light), (segment or [None])[-1]
        )

    @cached_property
    def by_tensor(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self.seen:
            if (tensor := self.tensor_of(name)) is not None:
                found.setdefault(tensor, []).append(name)
        return found

    def stand_in(self, tensor: str, op_type: str) -> str | None:
        """What was seen of a tensor of the reference, for a node that the artifact has in another form."""
        seen = self.by_tensor.get(tensor, [])
        integers = [self.value_name(name) for name in seen if name in self.artifact.activations]
        floats = [name for name in seen if name not in self.artifact.activations]
        ordered = [*integers, *floats] if op_type in PRODUCTS else [*floats, *integers]
        return ordered[0] if ordered else None

    @cached_property
    def integer_constants(self) -> dict[str, Constant]:
        """Weights of the dynamic quantizer's products, and its tables, which it names after the reference's."""
        found: dict[str, Constant] = {}
        gemms = (node for node in self.reference.nodes if node.op_type == "Gemm")
        transposed = {node.input[1] for node in gemms if any(a.name == "transB" and a.i for a in node.attribute)}
        for node in self.artifact.nodes:
            if node.op_type not in READS_INTEGERS:
                continue
            name = node.input[READS_INTEGERS[node.op_type]].removesuffix(INTEGERS)
            integers, scale, zero = (
                self.artifact.arrays.get(f"{name}{end}") for end in (INTEGERS, "_scale", "_zero_point")
            )
            expected = self.reference.arrays.get(name)
            if expected is None or integers is None or scale is None or zero is None:
                continue
            if expected.size != integers.size:  # another constant that an exporter gave the same number
                continue
            step, axis = scale.astype(np.float64), -1
            if node.op_type == "ConvInteger" and scale.size > 1:
                channels = (-1, *[1] * (integers.ndim - 1))
                step, zero, axis = step.reshape(channels), zero.reshape(channels), 0
            values = (integers.astype(np.float64) - zero) * step
            if name in transposed and node.op_type == "MatMulInteger":
                values, step, axis = values.T, scale.astype(np.float64).reshape(-1, 1), 0
            found[name] = Constant(name, "", values, step, axis, scale)
        return found


def _dequantized(activation: Activation, seen: Mapping[str, np.ndarray]) -> np.ndarray:
    """The float values of integers; of those that are quantized sample by sample, by the scale that was computed."""
    if activation.how is not None:
        return dequantize(seen[activation.key], activation.how, activation.axis)
    stem = activation.key.removesuffix(INTEGERS)
    scale, zero = seen.get(f"{stem}_scale"), seen.get(f"{stem}_zero_point")
    if scale is None or zero is None:
        return seen[activation.key].astype(np.float32)
    return ((seen[activation.key].astype(np.float32) - zero) * scale).astype(np.float32)
