"""Scales and zero points of an ONNX artifact's activations that contradict each other, a bias, or the values."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from calibration.divergence import Finding
from calibration.fault_evidence import misfit, unlike, wrong_range
from calibration.quantization import QuantizationParameters
from targets.onnx_expected import Expected
from targets.onnx_integers import Activation, Constant
from targets.onnx_matching import PRODUCTS, Sides
from targets.onnx_wrong_constants import Constants

# Scales are products in float32.
SCALE_TOLERANCE = 1e-3


@dataclass
class Parameters:
    """Of the artifact's activations."""

    sides: Sides
    expected: Expected
    constants: Constants

    @cached_property
    def _scales_by_bias(self) -> dict[str, tuple[float, str]]:
        """Key of an activation -> the scale that the bias of an operator behind it was made for, and that operator.

        A kernel adds the bias to sums of integers: its scale has to be the product of activation's and weights'.
        """
        found: dict[str, tuple[float, str]] = {}
        for ours, theirs in self.sides.matched.items():
            node = self.sides.artifact.nodes[theirs]
            if node.op_type not in PRODUCTS or len(node.input) < 3 or node.input[0] not in self.sides.artifact.reads:
                continue
            activation, _ = self.sides.artifact.reads[node.input[0]]
            weights, bias = (self.sides.artifact.constants.get(name) for name in node.input[1:3])
            if weights is None or bias is None or weights.scale is None or bias.scale is None:
                continue
            if not (self._wrong_scale(ours, 1, weights) or self._wrong_scale(ours, 2, bias)):
                made_for = np.median(bias.scale.astype(np.float64) / weights.scale.astype(np.float64))
                found[activation.key] = (float(made_for), node.name)
        return found

    def _wrong_scale(self, ours: int, position: int, constant: Constant) -> bool:
        name = self.sides.reference.nodes[ours].input[position]
        expected = self.sides.reference.arrays.get(name)
        return expected is None or self.constants.unlike(name, expected.astype(np.float64), constant) is not None

    def findings(self, activation: Activation) -> Iterator[Finding]:
        """What is wrong with the scale and zero point of an activation."""
        how = activation.how
        if how is None:
            return
        tensor = self.sides.tensor_of(activation.key) or activation.source
        unknown = self.expected.is_unknown(activation.key)
        target = None if unknown else self.expected.targets.get(activation.key, self.expected.meant.get(activation.key))
        made_for, by = self._scales_by_bias.get(activation.key, (None, ""))
        for reader in activation.readers:
            wrong = unlike(how, reader.how)
            if wrong is not None:
                agree = any(unlike(how, other.how) is None for other in activation.readers)
                guilty = reader.op if agree or not _is_worse(how, reader.how, target, made_for) else activation.op
                yield Finding(wrong[0], guilty, tensor, wrong[1])
        if target is None or any(unlike(how, reader.how) for reader in activation.readers):
            return
        scale = float(how.scale[0])
        wrong = wrong_range(target, how)
        if made_for is not None and how.scale.size == 1 and not np.isclose(scale, made_for, rtol=SCALE_TOLERANCE):
            why = f"its scale is {scale / made_for:.4g} times the one that the bias of {by} was made for"
            yield Finding("scale", activation.op, tensor, why)
        elif wrong is not None:
            yield Finding(wrong[0], activation.op, tensor, wrong[1])


def _is_worse(
    quantizer: QuantizationParameters,
    reader: QuantizationParameters,
    values: np.ndarray | None,
    made_for: float | None,
) -> bool:
    """Of two that do not agree, whether the quantizer is the wrong one: a bias was made for the right scale, and the
    right range fits the values.
    """
    if quantizer.scale.size != 1 or reader.scale.size != 1:
        return False
    if made_for is not None and quantizer.scale[0] != reader.scale[0]:
        return not np.isclose(float(quantizer.scale[0]), made_for, rtol=SCALE_TOLERANCE)
    return values is not None and misfit(values, quantizer) > misfit(values, reader)
