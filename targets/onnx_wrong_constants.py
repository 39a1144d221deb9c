"""Weights and biases of an ONNX artifact that are not the reference's, and inputs that are not."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from calibration.divergence import Finding, Kind, differs_in_float, joined
from calibration.fault_evidence import wrong_constant
from calibration.quantization import dequantize, quantize
from targets.onnx_expected import Expected
from targets.onnx_integers import Constant
from targets.onnx_matching import INTEGERS, READS_INTEGERS, Sides

if TYPE_CHECKING:
    import onnx

# What gives the same values in another shape.
SHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
# A correction is as large as the errors that it makes up for; quantizers measure these on other samples, and roughly.
CORRECTED = 2.0
# Cosine of weights before and after some training; of unrelated ones it is about 0.
ALIKE = 0.5


@dataclass
class Constants:
    """rounded: constant of the reference -> the steps to which it is itself rounded, where it was quantized."""

    sides: Sides
    should: Expected
    rounded: Mapping[str, np.ndarray]

    def findings(self) -> dict[int, list[Finding]]:
        """Index of a node of the artifact -> what is wrong with its constants and what it reads."""
        found: dict[int, list[Finding]] = {}
        for ours, theirs in self.sides.matched.items():
            node, own = self.sides.reference.nodes[ours], self.sides.artifact.nodes[theirs]
            for position, name in enumerate(node.input):
                expected = self.sides.reference.arrays.get(name)
                read = self.sides.same_input(ours, position)
                if expected is None:
                    found.setdefault(theirs, []).extend(self._wiring_findings(own, name, read))
                elif expected.dtype.kind == "f":
                    constant = self.sides.artifact.constants.get(read) if read else None
                    if constant is None and not read and expected.any():
                        finding = Finding("fusion", own.name, name, f"{name} of the reference was dropped")
                        found.setdefault(theirs, []).append(finding)
                    elif constant is not None:
                        wrong = self._wrong_constant(own, position, name, constant)
                        found.setdefault(theirs, []).extend(wrong)
        for index, node in enumerate(self.sides.artifact.nodes):
            if node.op_type in READS_INTEGERS:
                found.setdefault(index, []).extend(self._integer_weights(node))
        return {index: findings for index, findings in found.items() if findings}

    @cached_property
    def trained(self) -> bool:
        """Whether most weights are others, but like the reference's: training goes on from what there was."""
        others = count = 0
        for ours, theirs in self.sides.matched.items():
            name = (*self.sides.reference.nodes[ours].input, "", "")[1]
            expected = self.sides.reference.arrays.get(name)
            constant = self.sides.artifact.constants.get((*self.sides.artifact.nodes[theirs].input, "", "")[1])
            if constant is None or expected is None or expected.ndim < 2 or expected.shape != constant.values.shape:
                continue
            count += 1
            wrong = self.unlike(name, self._meant(self.sides.artifact.nodes[theirs], 1, name), constant)
            others += wrong is not None and wrong[0] == "weights" and _alike(expected, constant.values)
        return others > count / 2

    def _wiring_findings(self, node: "onnx.NodeProto", wanted: str, read: str | None) -> list[Finding]:
        reads = self.sides.tensor_of(read) if read else None
        if reads is None or reads in self._as_good_as(wanted) or wanted not in self.sides.known:
            return []
        if self.sides.unknown and self.sides.reference.producer.get(wanted, -1) not in (-1, *self.sides.matched):
            # What gives it here was not found in the artifact: it may well be what is read.
            return []
        if wanted in self.sides.expected[0] and reads in self.sides.expected[0]:
            wants, has = (joined([sample[n] for sample in self.sides.expected]) for n in (wanted, reads))
            if wants.shape == has.shape and not differs_in_float(wants, has):
                return []
        return [Finding("layout", node.name, wanted, f"it reads {reads}, the reference's reads {wanted}")]

    def _as_good_as(self, tensor: str) -> set[str]:
        """A tensor of the reference, and those that it is another shape of, by operators that the artifact lacks."""
        found, graph = {tensor}, self.sides.reference
        while (index := graph.producer.get(tensor)) is not None and index not in self.sides.matched:
            if graph.nodes[index].op_type not in SHAPES:
                break
            tensor = graph.nodes[index].input[0]
            found.add(tensor)
        return found

    def _wrong_constant(self, node: "onnx.NodeProto", position: int, name: str, constant: Constant) -> list[Finding]:
        expected = self._meant(node, position, name)
        wrong = self.unlike(name, expected, constant)
        if wrong is None:
            return []
        kind, why = wrong
        if self.trained and (kind == "weights" or (expected.ndim < 2 and kind != "fusion")):
            return []
        is_bias = expected.ndim == 1 and expected.shape == constant.values.shape
        if is_bias and kind != "fusion" and self._corrects(node, constant.values - expected):
            return []
        op = constant.op if constant.op and kind in ("scale", "zero point") else node.name
        return [Finding(kind, op, constant.tensor, why)]

    def _meant(self, node: "onnx.NodeProto", position: int, name: str) -> np.ndarray:
        """A constant of the reference, float64, less what the artifact multiplies its activations with instead."""
        expected = self.sides.reference.arrays[name].astype(np.float64)
        smooth = self._smoothing(node) if position == 1 else None
        if smooth is None or expected.ndim < 2:
            return expected
        along = 1 if node.op_type == "Conv" or (node.op_type == "Gemm" and _is_transposed(node)) else -2
        if smooth.size not in (1, expected.shape[along]):
            return expected
        shape = [-1 if d == along % expected.ndim else 1 for d in range(expected.ndim)]
        return expected / smooth.reshape(shape)

    def _integer_weights(self, node: "onnx.NodeProto") -> list[Finding]:
        name = node.input[READS_INTEGERS[node.op_type]].removesuffix(INTEGERS)
        constant = self.sides.integer_constants.get(name)
        if constant is None:
            return []
        expected = self.sides.reference.arrays[name].astype(np.float64)
        wrong = self.unlike(name, expected, constant)
        return [] if wrong is None else [Finding(wrong[0], node.name, name, wrong[1])]

    def _smoothing(self, node: "onnx.NodeProto") -> np.ndarray | None:
        """What activations are multiplied with before they are quantized, where a quantizer moved that into weights."""
        name = node.input[0]
        if name in self.sides.artifact.reads:
            name = self.sides.artifact.reads[name][0].source
        index = self.sides.artifact.producer.get(name)
        before = self.sides.artifact.nodes[index] if index is not None else None
        if before is None or before.op_type != "Mul" or index in self.sides.counterparts:
            return None
        factors = [self.sides.artifact.arrays[n] for n in before.input if n in self.sides.artifact.arrays]
        return factors[0].astype(np.float64).reshape(-1) if len(factors) == 1 else None

    def _corrects(self, node: "onnx.NodeProto", change: np.ndarray) -> bool:
        """Whether a bias differs by no more than the errors that there would be with the reference's.

        Bias correction (Nagel et al. 2019, arXiv:1906.04721) changes it by their mean.
        """
        axis = 1 if node.op_type == "Conv" else -1
        errors = self._errors_without(node)
        if errors is None or errors[0].shape[axis] != change.size:
            return False
        axis %= errors[0].ndim
        over = tuple(d for d in range(errors[0].ndim) if d != axis)
        noise = float(np.sqrt(np.mean([(error**2).mean(axis=over) for error in errors], axis=0).sum()))
        return float(np.linalg.norm(change)) <= CORRECTED * noise

    def _errors_without(self, node: "onnx.NodeProto") -> list[np.ndarray] | None:
        """Of each sample: what a node with the reference's bias would give less the reference's, where it is rounded
        or, where that has another shape, before.
        """
        index, expected = self.sides.artifact.producer[node.output[0]], self.sides.expected
        result = node.output[0]
        name = next((n for n in self.sides.seen if index in self.sides.segment_of(n)), None)
        tensor = self.sides.tensor_of(name) if name else None
        known = result in expected[0] and tensor in expected[0]
        if tensor is None or (known and expected[0][tensor].shape != expected[0][result].shape):
            tensor, name = result, None
        values = self.should.unbiased.get(tensor)
        if values is None or tensor not in expected[0]:
            return None
        activation = self.sides.artifact.activations.get(name) if name else None
        if activation is not None and (how := activation.how) is not None:
            axis = activation.axis
            values = [dequantize(quantize(array, how, axis), how, axis) for array in values]
        return [array - sample[tensor] for array, sample in zip(values, expected, strict=True)]

    def unlike(self, name: str, expected: np.ndarray, constant: Constant) -> tuple[Kind, str] | None:
        step = constant.step
        own = self.rounded.get(name)
        if own is not None and expected.shape == constant.values.shape:
            # Two roundings of one value lie as far apart as both together.
            if np.allclose(expected, constant.values, rtol=1e-6, atol=0):
                return None
            step = np.broadcast_to(step, expected.shape) + np.broadcast_to(own, expected.shape)
        return wrong_constant(expected, constant.values, step, constant.axis)


def _alike(x: np.ndarray, y: np.ndarray) -> bool:
    return float((x * y).sum()) > ALIKE * float(np.linalg.norm(x)) * float(np.linalg.norm(y))


def _is_transposed(node: "onnx.NodeProto") -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
