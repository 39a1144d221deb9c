"""Results of an ONNX artifact's operators that are not what they should be of the inputs that they had."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.divergence import (
    FLOAT_TOLERANCE,
    Finding,
    Kind,
    difference,
    differs_in_float,
    differs_in_steps,
    joined,
    kind_of_output,
    steps_apart,
)
from calibration.quantization import QuantizationParameters, dequantize
from targets.onnx_expected import Expected
from targets.onnx_integers import Activation
from targets.onnx_matching import PRODUCTS, Sides
from targets.onnx_pairs import can_clip
from targets.onnx_taps import ACTIVATIONS, MOVES

if TYPE_CHECKING:
    import onnx


@dataclass
class Outputs:
    """saturates: whether the processor's kernels may clip sums of two products to 16 bits."""

    sides: Sides
    expected: Expected
    saturates: bool

    def findings(self, name: str, activation: Activation | None, segment: list[int]) -> list[Finding]:
        """Whether the operator's result is wrong given its inputs and constants, and why."""
        how, axis = (activation.how, self.sides.axis(activation)) if activation else (None, None)
        if activation is not None and how is None:
            return []
        raw = joined([sample[name] for sample in self.sides.found])
        values = raw if how is None else dequantize(raw, how, axis)
        target, meant = self.expected.targets.get(name), self.expected.meant[name]
        tensor = self.sides.tensor_of(name) or (activation.source if activation else name)
        if _wrong(meant, raw, how, axis):
            return [self._kernel_finding(tensor, meant, raw, values, how, axis, segment)]
        if target is None or target.shape != meant.shape:
            return []
        if (inside := self._inside(tensor, target)) is not None:
            target, raw, values, axis = target[inside], raw[inside], values[inside], None
        if (how is not None and axis is None and how.scale.size > 1) or not _wrong(target, raw, how, axis):
            return []
        tolerance = 1.5 * float(how.scale.max()) if how else FLOAT_TOLERANCE * float(np.abs(target).max())
        # Beyond the range of the integers nothing can be told apart.
        within = target if how is None else np.clip(target, *_ends(how))
        kind, words = kind_of_output(within, values, tolerance)
        return [self._culprit(segment, tensor, activation, kind, words)]

    def _inside(self, tensor: str, target: np.ndarray) -> np.ndarray | None:
        """Where the reference, itself dequantized, was not at an end of its own range: what lay beyond is not known."""
        low, high = (self.sides.reference.arrays.get(f"{tensor}::{end}") for end in ("low", "high"))
        if low is None or high is None:
            return None
        return (target > float(low) * (1 - FLOAT_TOLERANCE)) & (target < float(high) * (1 - FLOAT_TOLERANCE))

    def _kernel_finding(
        self,
        tensor: str,
        meant: np.ndarray,
        raw: np.ndarray,
        values: np.ndarray,
        how: QuantizationParameters | None,
        axis: int | None,
        segment: list[int],
    ) -> Finding:
        """The runtime's kernel gives something else than the graph says."""
        kernel = self.sides.artifact.nodes[self.sides.kernel(segment) or 0]
        if how is None:
            off = difference(meant, values).relative
            words = f"the kernel's values are up to {100 * off:.3g}% of the largest away from what the graph says"
        else:
            steps = steps_apart(meant, raw, how, axis)
            words = f"{100 * (steps > 1).mean():.2f}% of the kernel's integers are wrong, by up to {steps.max()} steps"
        if self.saturates and kernel.op_type in PRODUCTS and can_clip(self.sides.artifact.model, kernel):
            return Finding("saturation", kernel.name, tensor, f"{words}: sums of two of its products exceed 16 bits")
        return Finding("values", kernel.name, tensor, words)

    def _culprit(
        self, segment: list[int], tensor: str, activation: Activation | None, kind: Kind, words: str
    ) -> Finding:
        """The node at fault among those that compute a tensor, where the graph itself is not the reference's."""
        for index in segment:
            node = self.sides.artifact.nodes[index]
            if index not in self.sides.counterparts and node.op_type not in ("Cast", "MatMulInteger", "ConvInteger"):
                limits = node.op_type in ("Clip", "Min", "Max")
                why = f"{node.op_type} stands here, which the reference does not have: {words}"
                return Finding(kind if limits else "fusion", node.name, tensor, why)
            ours = (
                self.sides.reference.nodes[self.sides.counterparts[index]] if index in self.sides.counterparts else None
            )
            if ours is not None and _attributes(ours) != _attributes(node):
                why = f"its attributes are not the reference's: {_unlike_attributes(ours, node)}"
                return Finding("layout" if node.op_type in MOVES else "fusion", node.name, tensor, why)
        missing = self._missing(tensor, segment)
        if missing is not None and missing.op_type in ACTIVATIONS and activation is not None:
            # The quantizer's range has taken its place.
            why = f"its range does not do what {missing.op_type} {missing.name} of the reference does: {words}"
            zero_moved = (
                activation.how is not None and int(activation.how.zero_point[0]) != activation.how.scheme.lowest
            )
            return Finding("zero point" if zero_moved else "scale", activation.op, tensor, why)
        if missing is not None:
            return Finding("fusion", missing.name, tensor, f"{missing.op_type} of the reference is missing: {words}")
        return Finding(kind, self.sides.artifact.nodes[self.sides.kernel(segment) or 0].name, tensor, words)

    def _missing(self, tensor: str, segment: list[int]) -> "onnx.NodeProto | None":
        pending, ours = [tensor], {self.sides.counterparts[i] for i in segment if i in self.sides.counterparts}
        while pending:
            name = pending.pop()
            index = self.sides.reference.producer.get(name)
            if index is None or index in ours:
                continue
            if index not in self.sides.matched:
                return self.sides.reference.nodes[index]
        return None


def _wrong(target: np.ndarray, found: np.ndarray, how: QuantizationParameters | None, axis: int | None) -> bool:
    return differs_in_float(target, found) if how is None else differs_in_steps(target, found, how, axis)


def _ends(how: QuantizationParameters) -> tuple[float, float]:
    scale, zero = float(how.scale[0]), int(how.zero_point[0])
    return scale * (how.scheme.lowest - zero), scale * (how.scheme.highest - zero)


def _attributes(node: "onnx.NodeProto") -> dict[str, Any]:
    """With those that are left out because they are the standard's defaults."""
    import onnx

    stated = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.domain or not onnx.defs.has(node.op_type):
        return stated
    standard = onnx.defs.get_schema(node.op_type).attributes
    defaults = {name: a.default_value for name, a in standard.items() if a.default_value.name}
    return {name: onnx.helper.get_attribute_value(value) for name, value in defaults.items()} | stated


def _unlike_attributes(ours: "onnx.NodeProto", theirs: "onnx.NodeProto") -> str:
    a, b = _attributes(ours), _attributes(theirs)
    return ", ".join(f"{k} {b.get(k)} for {a.get(k)}" for k in sorted({*a, *b}) if a.get(k) != b.get(k))
