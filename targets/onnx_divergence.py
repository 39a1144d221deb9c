"""An ONNX artifact against the float graph it was made from: each operator judged by the inputs that it really had.

The artifact's own tensors are given to the reference graph, operator by operator, so that no error is carried on: what
an operator of the reference then gives is what the artifact's should have given, but for the rounding of its result.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from calibration.divergence import Difference, Layer, difference, joined, rounding_db
from calibration.quantization import QuantizationParameters
from targets.onnx_expected import Expected, seen_of
from targets.onnx_integers import Activation, QuantizedGraph
from targets.onnx_matching import Run, Sides
from targets.onnx_rescaling import as_rounded
from targets.onnx_wrong_constants import Constants
from targets.onnx_wrong_outputs import Outputs
from targets.onnx_wrong_parameters import Parameters

if TYPE_CHECKING:
    import onnx

TRAINED = (
    "most of B's weights are others than A's, though like them: B was trained further, and its weights are not judged; "
    "compare it with the float model that was quantized"
)


def compare(
    reference: "onnx.ModelProto",
    artifact: "onnx.ModelProto",
    expected: Run,
    found: Run,
    rounded: Mapping[str, np.ndarray] | None = None,
    meant: Mapping[str, np.ndarray] | None = None,
    unknown: Collection[str] = (),
    saturates: bool = True,
) -> "Judgement":
    """The artifact's tensors, with what is wrong with each.

    reference: as float_reference gives it; artifact: float or with Q/DQ pairs. expected, found: of each sample, name ->
    array of all tensors that were looked at, the inputs among them. rounded: constant of the reference -> the steps to
    which it is itself rounded, where it was quantized. meant: key or output of the artifact -> what its own operators
    give in float of the inputs that they had, before it is rounded; computed here where none is given. unknown: names
    of the artifact's nodes whose results are not held against the reference's. saturates: whether the processor's
    kernels may clip sums of two products to 16 bits.
    """
    graph = QuantizedGraph(artifact)
    rescaled = as_rounded(reference, graph)
    if rescaled is not None:
        reference, expected = rescaled, seen_of(rescaled, expected)
    sides = Sides(QuantizedGraph(reference), graph, expected, found, frozenset(unknown))
    should = Expected(sides, meant)
    constants = Constants(sides, should, rounded or {})
    outputs, parameters = Outputs(sides, should, saturates), Parameters(sides, should, constants)
    layers = list(Comparison(sides, should, constants, outputs, parameters).layers())
    return Judgement(layers, [TRAINED] if constants.trained else [])


@dataclass(frozen=True)
class Judgement:
    """What is said of each tensor of the artifact, in topological order, and what limits that."""

    layers: list[Layer]
    notes: list[str]


@dataclass
class Comparison:
    """Both sides, and who judges what: constants, results, and the parameters of integers."""

    sides: Sides
    expected: Expected
    constants: Constants
    outputs: Outputs
    parameters: Parameters

    def layers(self) -> Iterator[Layer]:
        constants = self.constants.findings()
        reported: set[int] = set()
        for name in self.sides.seen:
            activation = self.sides.artifact.activations.get(name)
            tensor = self.sides.tensor_of(name)
            source = activation.source if activation else name
            segment = self.sides.segment(source)
            op = self.sides.kernel(segment)
            wrong = [i for i in segment if i in constants]
            # What several tensors are computed from is said of the first.
            findings = [f for i in wrong if i not in reported for f in constants[i]]
            reported.update(wrong)
            own: Difference | None = None
            if not wrong and segment:
                findings += self.outputs.findings(name, activation, segment)
            if activation is not None:
                findings += self.parameters.findings(activation)
            target = self.expected.targets.get(name, self.expected.meant.get(name) if segment else None)
            value = joined([sample[self.sides.value_name(name)] for sample in self.sides.values])
            if target is not None and target.shape == value.shape:
                own = difference(target, value)
            how = activation.how if activation else None
            yield Layer(
                tensor=tensor or source,
                op=self.sides.artifact.nodes[op].name if op is not None else (activation.op if activation else name),
                op_type=self.sides.artifact.nodes[op].op_type if op is not None else "Input",
                quantized=_words(how, activation),
                total=self._total(tensor, value),
                own=own,
                expected_db=rounding_db(target, how, self.sides.axis(activation))
                if activation is not None and how is not None and target is not None
                else None,
                findings=tuple(findings),
            )

    def _total(self, tensor: str | None, value: np.ndarray) -> Difference | None:
        if tensor is None or tensor not in self.sides.expected[0]:
            return None
        expected = joined([sample[tensor] for sample in self.sides.expected])
        return difference(expected, value) if expected.shape == value.shape else None


def _words(how: QuantizationParameters | None, activation: Activation | None) -> str:
    if activation is None:
        return ""
    return "uint8, dynamic" if how is None else in_words(how)


def in_words(how: QuantizationParameters | None) -> str:
    """The type, scale and zero point of integers, in a few words; nothing for what is float."""
    if how is None:
        return ""
    name = f"{'int' if how.scheme.signed else 'uint'}{how.scheme.bits}"
    scale = f"{float(how.scale[0]):.4g}" if how.scale.size == 1 else f"{how.scale.size} scales"
    return f"{name} × {scale}, zero {int(how.zero_point[0])}"
