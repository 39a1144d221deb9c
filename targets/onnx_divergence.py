"""An ONNX artifact against the float graph it was made from: each operator judged by the inputs that it really had.

The artifact's own tensors are given to the reference graph, operator by operator, so that no error is carried on: what
an operator of the reference then gives is what the artifact's should have given, but for the rounding of its result.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.divergence import (
    FLOAT_TOLERANCE,
    Difference,
    Finding,
    Kind,
    Layer,
    difference,
    differs_in_float,
    differs_in_steps,
    joined,
    kind_of_output,
    rounding_db,
    steps_apart,
)
from calibration.fault_evidence import misfit, unlike, wrong_constant, wrong_range
from calibration.quantization import QuantizationParameters, dequantize
from targets.onnx_integers import PAIR, Activation, Constant, QuantizedGraph
from targets.onnx_pairs import can_clip
from targets.onnx_rescaling import as_rounded
from targets.onnx_taps import ACTIVATIONS, GIVEN, MOVES, cut, float_names, tapped

if TYPE_CHECKING:
    import onnx

Run = Sequence[Mapping[str, np.ndarray]]

SUFFIX = "_QuantizeLinear_Input"
# Scales are products in float32.
SCALE_TOLERANCE = 1e-3
COMMUTATIVE = ("Add", "Mul", "Min", "Max")
# Few samples do not tell whether a correction of this share of the noise helped.
LOST_IN_NOISE = 0.5
# Nor how large it should be to a half.
CORRECTED = 1.5
PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm", "MatMulInteger")
# What runtimes compute in the kernel of the operator before it, beside activations and what moves values.
FOLLOWING = ("Add", "Sub", "Mul", "Div", "Gelu", "Erf", "Cast")


def compare(
    reference: "onnx.ModelProto",
    artifact: "onnx.ModelProto",
    expected: Run,
    found: Run,
    rounded: Mapping[str, np.ndarray] | None = None,
    meant: Mapping[str, np.ndarray] | None = None,
    unknown: Collection[str] = (),
    saturates: bool = True,
) -> list[Layer]:
    """The artifact's tensors in topological order, with what is wrong with each.

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
        reference, expected = rescaled, _seen_of(rescaled, expected)
    sides = QuantizedGraph(reference), graph
    return list(Comparison(*sides, expected, found, rounded or {}, meant, frozenset(unknown), saturates).layers())


def _seen_of(model: "onnx.ModelProto", samples: Run) -> Run:
    """Of each sample: the inputs, and what a graph makes of them."""
    inputs = [value.name for value in model.graph.input]
    feeds = [{name: sample[name] for name in inputs if name in sample} for sample in samples]
    names = sorted(float_names(model))
    return [{**f, **s} for f, s in zip(feeds, _run(tapped(model, names), feeds, names), strict=True)]


@dataclass
class Comparison:
    """Both graphs with what was seen of them; see compare."""

    reference: QuantizedGraph
    artifact: QuantizedGraph
    expected: Run
    found: Run
    rounded: Mapping[str, np.ndarray]
    said: Mapping[str, np.ndarray] | None
    unknown: frozenset[str]
    saturates: bool

    def layers(self) -> Iterator[Layer]:
        constants = self._constant_findings()
        scales = self._scales_by_bias()
        reported: set[int] = set()
        for name in self.seen:
            activation = self.artifact.activations.get(name)
            tensor = self.tensor_of(name)
            source = activation.source if activation else name
            segment = self.segment(source)
            op = self._kernel(segment)
            wrong = [i for i in segment if i in constants]
            # What several tensors are computed from is said of the first.
            findings = [f for i in wrong if i not in reported for f in constants[i]]
            reported.update(wrong)
            own: Difference | None = None
            if not wrong and segment:
                findings += self._output_findings(name, activation, segment)
            if activation is not None:
                findings += self._parameter_findings(activation, scales)
            target = self.targets.get(name, self.meant.get(name) if segment else None)
            value = joined([sample[self.value_name(name)] for sample in self.values])
            if target is not None and target.shape == value.shape:
                own = difference(target, value)
            how = activation.how if activation else None
            yield Layer(
                tensor=tensor or source,
                op=self.artifact.nodes[op].name if op is not None else (activation.op if activation else name),
                op_type=self.artifact.nodes[op].op_type if op is not None else "Input",
                quantized=_words(how, activation),
                total=self._total(tensor, value),
                own=own,
                expected_db=rounding_db(target, how, self._axis(activation))
                if activation is not None and how is not None and target is not None
                else None,
                findings=tuple(findings),
            )

    # What was seen

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
            if node.op_type in (*PAIR, "Mul") or node.input[0] in self.artifact.reads:
                break
            sources.append(node.input[0])
        names = (*sources, *(s.removesuffix(SUFFIX) for s in sources), *(r.output for r in activation.readers))
        return next((n for n in names if n in self.known), None)

    @cached_property
    def known(self) -> set[str]:
        """The float tensors of the reference, its inputs among them."""
        return float_names(self.reference.model) | {n for n in self.reference.inputs if n not in self.reference.arrays}

    def _axis(self, activation: Activation) -> int | None:
        """Counted from the end, so that it holds with the samples in front."""
        return None if activation.axis is None else activation.axis - self.found[0][activation.key].ndim

    # Which operator is which

    @cached_property
    def matched(self) -> dict[int, int]:
        """Index of a node of the reference -> of the same node of the artifact: by name, else by what it computes."""
        by_name = {(node.name, node.op_type): i for i, node in enumerate(self.artifact.nodes) if node.name}
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

    # What each operator should have given

    @cached_property
    def targets(self) -> dict[str, np.ndarray]:
        """Seen name -> what the reference's operator makes of the inputs that the artifact's had, and its constants."""
        wanted = {
            name: tensor
            for name in self.seen
            if (tensor := self.tensor_of(name)) is not None and not self._is_unknown(name)
        }
        runs = self._run_reference(sorted({t for t in wanted.values() if t in self.reference.producer}))
        found: dict[str, np.ndarray] = {}
        for name, tensor in wanted.items():
            samples = runs if tensor in self.reference.producer else self.expected
            found[name] = joined([sample[tensor] for sample in samples])
        return found

    def _is_unknown(self, name: str) -> bool:
        activation = self.artifact.activations.get(name)
        nodes = {self.artifact.nodes[index].name for index in self._segment_of(name)}
        return bool(self.unknown & (nodes | {activation.op} if activation else nodes))

    def _run_reference(self, outputs: list[str]) -> list[dict[str, np.ndarray]]:
        from onnx import numpy_helper

        edges: dict[tuple[int, int], str] = {}
        constants: dict[tuple[int, int], Any] = {}
        for index, node in enumerate(self.reference.nodes):
            for position, name in enumerate(node.input):
                theirs = self.same_input(index, position)
                if name in self.reference.arrays:
                    own = self.artifact.constants.get(theirs) if theirs else self._integer_constants.get(name)
                    array = self.reference.arrays[name]
                    if own is not None and array.dtype.kind == "f" and own.values.shape == array.shape:
                        constants[index, position] = numpy_helper.from_array(own.values.astype(array.dtype))
                elif name in self.known:
                    given = theirs if theirs in self.values[0] else self._stand_in(name, node.op_type)
                    if given is not None:
                        edges[index, position] = given
        model = cut(self.reference.model, edges, constants, outputs)
        return _run(
            model, [self._feed(sample, v) for sample, v in zip(self.expected, self.values, strict=True)], outputs
        )

    def _feed(self, sample: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        feed = {name: sample[name] for name in self.reference.inputs if name in sample}
        return feed | {GIVEN + name: array.astype(np.float32) for name, array in values.items()}

    def _stand_in(self, tensor: str, op_type: str) -> str | None:
        """What was seen of a tensor of the reference, for a node that the artifact has in another form."""
        seen = self._by_tensor.get(tensor, [])
        integers = [self.value_name(name) for name in seen if name in self.artifact.activations]
        floats = [name for name in seen if name not in self.artifact.activations]
        ordered = [*integers, *floats] if op_type in PRODUCTS else [*floats, *integers]
        return ordered[0] if ordered else None

    @cached_property
    def _by_tensor(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self.seen:
            if (tensor := self.tensor_of(name)) is not None:
                found.setdefault(tensor, []).append(name)
        return found

    @cached_property
    def meant(self) -> Mapping[str, np.ndarray]:
        """Seen name -> what the artifact's own graph says, operator by operator in float, of the inputs it had."""
        if self.said is not None:
            return self.said
        graph = self.artifact
        given = [n for n in self.found[0] if n not in graph.inputs and n not in graph.reads]
        edges = {(i, p): n for i, node in enumerate(graph.nodes) for p, n in enumerate(node.input) if n in given}
        sources = {name: graph.activations[name].source if name in graph.activations else name for name in self.seen}
        outputs = sorted({source for source in sources.values() if source in graph.producer})
        from onnx import helper

        types = {n: helper.np_dtype_to_tensor_dtype(self.found[0][n].dtype) for n in given}
        model = cut(graph.model, edges, {}, outputs, types)
        used = set(edges.values())
        feeds = [
            {n: s[n] for n in graph.inputs if n in s} | {GIVEN + n: s[n] for n in given if n in used}
            for s in self.found
        ]
        runs = _run(model, feeds, outputs)
        return {
            name: joined([sample[source] for sample in (runs if source in graph.producer else self.found)])
            for name, source in sources.items()
        }

    # Findings

    def _output_findings(self, name: str, activation: Activation | None, segment: list[int]) -> list[Finding]:
        """Whether the operator's result is wrong given its inputs and constants, and why."""
        how, axis = (activation.how, self._axis(activation)) if activation else (None, None)
        if activation is not None and how is None:
            return []
        raw = joined([sample[name] for sample in self.found])
        values = raw if how is None else dequantize(raw, how, axis)
        target, meant = self.targets.get(name), self.meant[name]
        tensor = self.tensor_of(name) or (activation.source if activation else name)
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
        low, high = (self.reference.arrays.get(f"{tensor}::{end}") for end in ("low", "high"))
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
        kernel = self.artifact.nodes[self._kernel(segment) or 0]
        if how is None:
            off = difference(meant, values).relative
            words = f"the kernel's values are up to {100 * off:.3g}% of the largest away from what the graph says"
        else:
            steps = steps_apart(meant, raw, how, axis)
            words = f"{100 * (steps > 1).mean():.2f}% of the kernel's integers are wrong, by up to {steps.max()} steps"
        if self.saturates and kernel.op_type in PRODUCTS and can_clip(self.artifact.model, kernel):
            return Finding("saturation", kernel.name, tensor, f"{words}: sums of two of its products exceed 16 bits")
        return Finding("values", kernel.name, tensor, words)

    def _kernel(self, segment: list[int]) -> int | None:
        """Of the nodes that compute a tensor, the one whose kernel does: the last that is not computed in another's."""
        light = (*ACTIVATIONS, *MOVES, *FOLLOWING)
        return next(
            (i for i in reversed(segment) if self.artifact.nodes[i].op_type not in light), (segment or [None])[-1]
        )

    def _culprit(
        self, segment: list[int], tensor: str, activation: Activation | None, kind: Kind, words: str
    ) -> Finding:
        """The node at fault among those that compute a tensor, where the graph itself is not the reference's."""
        for index in segment:
            node = self.artifact.nodes[index]
            if index not in self.counterparts and node.op_type not in ("Cast", "MatMulInteger"):
                limits = node.op_type in ("Clip", "Min", "Max")
                why = f"{node.op_type} stands here, which the reference does not have: {words}"
                return Finding(kind if limits else "fusion", node.name, tensor, why)
            ours = self.reference.nodes[self.counterparts[index]] if index in self.counterparts else None
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
        return Finding(kind, self.artifact.nodes[self._kernel(segment) or 0].name, tensor, words)

    def _missing(self, tensor: str, segment: list[int]) -> "onnx.NodeProto | None":
        pending, ours = [tensor], {self.counterparts[i] for i in segment if i in self.counterparts}
        while pending:
            name = pending.pop()
            index = self.reference.producer.get(name)
            if index is None or index in ours:
                continue
            if index not in self.matched:
                return self.reference.nodes[index]
        return None

    def _constant_findings(self) -> dict[int, list[Finding]]:
        """Index of a node of the artifact -> what is wrong with its constants and what it reads."""
        found: dict[int, list[Finding]] = {}
        for ours, theirs in self.matched.items():
            node, own = self.reference.nodes[ours], self.artifact.nodes[theirs]
            for position, name in enumerate(node.input):
                expected = self.reference.arrays.get(name)
                read = self.same_input(ours, position)
                if expected is None:
                    found.setdefault(theirs, []).extend(self._wiring_findings(own, name, read))
                elif expected.dtype.kind == "f":
                    constant = self.artifact.constants.get(read) if read else None
                    if constant is None and not read and expected.any():
                        finding = Finding("fusion", own.name, name, f"{name} of the reference was dropped")
                        found.setdefault(theirs, []).append(finding)
                    elif constant is not None:
                        wrong = self._wrong_constant(own, position, name, constant)
                        found.setdefault(theirs, []).extend(wrong)
        for index, node in enumerate(self.artifact.nodes):
            if node.op_type == "MatMulInteger":
                found.setdefault(index, []).extend(self._integer_weights(node))
        return {index: findings for index, findings in found.items() if findings}

    def _wiring_findings(self, node: "onnx.NodeProto", wanted: str, read: str | None) -> list[Finding]:
        reads = self.tensor_of(read) if read else None
        if reads is None or reads == wanted or wanted not in self.known:
            return []
        if wanted in self.expected[0] and reads in self.expected[0]:
            wants, has = (joined([sample[n] for sample in self.expected]) for n in (wanted, reads))
            if wants.shape == has.shape and not differs_in_float(wants, has):
                return []
        return [Finding("layout", node.name, wanted, f"it reads {reads}, the reference's reads {wanted}")]

    def _wrong_constant(self, node: "onnx.NodeProto", position: int, name: str, constant: Constant) -> list[Finding]:
        expected = self.reference.arrays[name].astype(np.float64)
        smooth = self._smoothing(node) if position == 1 else None
        if smooth is not None and expected.ndim > 1:
            along = 1 if node.op_type == "Conv" or (node.op_type == "Gemm" and _flag(node, "transB")) else -2
            shape = [-1 if d == along % expected.ndim else 1 for d in range(expected.ndim)]
            expected = expected / smooth.reshape(shape)
        wrong = self._unlike(name, expected, constant)
        if wrong is None:
            return []
        kind, why = wrong
        if expected.ndim == 1 and kind != "fusion" and self._corrects(node, constant.values - expected):
            return []
        op = constant.op if constant.op and kind in ("scale", "zero point") else node.name
        return [Finding(kind, op, constant.tensor, why)]

    def _integer_weights(self, node: "onnx.NodeProto") -> list[Finding]:
        name = node.input[1].removesuffix("_quantized")
        constant = self._integer_constants.get(name)
        if constant is None:
            return []
        expected = self.reference.arrays[name].astype(np.float64)
        wrong = self._unlike(name, expected, constant)
        return [] if wrong is None else [Finding(wrong[0], node.name, name, wrong[1])]

    @cached_property
    def _integer_constants(self) -> dict[str, Constant]:
        """Weights of the dynamic quantizer's products, which it names after the reference's."""
        found: dict[str, Constant] = {}
        for node in self.artifact.nodes:
            if node.op_type != "MatMulInteger":
                continue
            name = node.input[1].removesuffix("_quantized")
            integers, scale, zero = (
                self.artifact.arrays.get(f"{name}{end}") for end in ("_quantized", "_scale", "_zero_point")
            )
            expected = self.reference.arrays.get(name)
            if expected is None or integers is None or scale is None or zero is None:
                continue
            values = (integers.astype(np.float64) - zero) * scale.astype(np.float64)
            step, axis = scale.astype(np.float64), -1
            if values.shape != expected.shape and values.T.shape == expected.shape:
                values, step, axis = values.T, scale.astype(np.float64).reshape(-1, 1), 0
            found[name] = Constant(name, "", values, step, axis, scale)
        return found

    def _smoothing(self, node: "onnx.NodeProto") -> np.ndarray | None:
        """What activations are multiplied with before they are quantized, where a quantizer moved that into weights."""
        name = node.input[0]
        if name in self.artifact.reads:
            name = self.artifact.reads[name][0].source
        index = self.artifact.producer.get(name)
        before = self.artifact.nodes[index] if index is not None else None
        if before is None or before.op_type != "Mul" or index in self.counterparts:
            return None
        factors = [self.artifact.arrays[n] for n in before.input if n in self.artifact.arrays]
        return factors[0].astype(np.float64).reshape(-1) if len(factors) == 1 else None

    def _corrects(self, node: "onnx.NodeProto", change: np.ndarray) -> bool:
        """Whether a bias is another because that brings the mean of each channel nearer to the reference's.

        Bias correction (Nagel et al. 2019, arXiv:1906.04721) changes it by less than the noise that it makes up for.
        """
        axis = 1 if node.op_type == "Conv" else -1
        errors = self._errors_behind(node)
        if errors is None or errors[0].shape[axis] != change.size or not change.any():
            return False
        over = tuple(d for d in range(errors[0].ndim) if d != axis % errors[0].ndim)
        mean = np.mean([error.mean(axis=over) for error in errors], axis=0)
        shape = [-1 if d == axis % errors[0].ndim else 1 for d in range(errors[0].ndim)]
        # What there would be without the change, which is as large as what it makes up for.
        before = [error - change.reshape(shape) for error in errors]
        noise = float(np.sqrt(np.mean([(error**2).mean(axis=over) for error in before], axis=0).sum()))
        size = float(np.linalg.norm(change))
        nearer = float(np.linalg.norm(mean)) <= float(np.linalg.norm(mean - change))
        return size <= CORRECTED * noise and (nearer or size <= LOST_IN_NOISE * noise)

    def _errors_behind(self, node: "onnx.NodeProto") -> list[np.ndarray] | None:
        """Of each sample: the artifact's result of a node less the reference's, where it was rounded or, where that is
        of another shape, as computed from its inputs.
        """
        index = self.artifact.producer[node.output[0]]
        name = next((n for n in self.seen if index in self._segment_of(n)), None)
        tensor = self.tensor_of(name) if name else None
        result = node.output[0]
        if name is not None and tensor is not None and tensor in self.expected[0]:
            found = [values[self.value_name(name)] for values in self.values]
            if result not in self.expected[0] or found[0].shape == self.expected[0][result].shape:
                return [f - e[tensor] for f, e in zip(found, self.expected, strict=True)]
        if result not in self.sums:
            return None
        return [found - e[result] for found, e in zip(self.sums[result], self.expected, strict=True)]

    @cached_property
    def sums(self) -> dict[str, list[np.ndarray]]:
        """Result of each node that adds a bias -> what the reference makes of the artifact's values and constants."""
        vectors = {name for name, array in self.reference.arrays.items() if array.ndim == 1 and array.dtype.kind == "f"}
        names = {n.output[0] for n in self.reference.nodes if vectors & set(n.input)} & self.expected[0].keys()
        runs = self._run_reference(sorted(names))
        return {name: [sample[name] for sample in runs] for name in names}

    def _segment_of(self, name: str) -> list[int]:
        activation = self.artifact.activations.get(name)
        return self.segment(activation.source if activation else name)

    def _scales_by_bias(self) -> dict[str, tuple[float, str]]:
        """Key of an activation -> the scale that the bias of an operator behind it was made for, and that operator.

        A kernel adds the bias to sums of integers: its scale has to be the product of activation's and weights'.
        """
        found: dict[str, tuple[float, str]] = {}
        for ours, theirs in self.matched.items():
            node = self.artifact.nodes[theirs]
            if node.op_type not in PRODUCTS or len(node.input) < 3 or node.input[0] not in self.artifact.reads:
                continue
            activation, _ = self.artifact.reads[node.input[0]]
            weights, bias = (self.artifact.constants.get(name) for name in node.input[1:3])
            if weights is None or bias is None or weights.scale is None or bias.scale is None:
                continue
            if not (self._wrong_scale(ours, 1, weights) or self._wrong_scale(ours, 2, bias)):
                made_for = np.median(bias.scale.astype(np.float64) / weights.scale.astype(np.float64))
                found[activation.key] = (float(made_for), node.name)
        return found

    def _wrong_scale(self, ours: int, position: int, constant: Constant) -> bool:
        name = self.reference.nodes[ours].input[position]
        expected = self.reference.arrays.get(name)
        return expected is None or self._unlike(name, expected.astype(np.float64), constant) is not None

    def _unlike(self, name: str, expected: np.ndarray, constant: Constant) -> tuple[Kind, str] | None:
        step = constant.step
        own = self.rounded.get(name)
        if own is not None and expected.shape == constant.values.shape:
            # Two roundings of one value lie as far apart as both together.
            if np.allclose(expected, constant.values, rtol=1e-6, atol=0):
                return None
            step = np.broadcast_to(step, expected.shape) + np.broadcast_to(own, expected.shape)
        return wrong_constant(expected, constant.values, step, constant.axis)

    def _parameter_findings(self, activation: Activation, scales: Mapping[str, tuple[float, str]]) -> Iterator[Finding]:
        """What is wrong with the scale and zero point of an activation."""
        how = activation.how
        if how is None:
            return
        tensor = self.tensor_of(activation.key) or activation.source
        unknown = self._is_unknown(activation.key)
        target = None if unknown else self.targets.get(activation.key, self.meant.get(activation.key))
        made_for, by = scales.get(activation.key, (None, ""))
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

    def _total(self, tensor: str | None, value: np.ndarray) -> Difference | None:
        if tensor is None or tensor not in self.expected[0]:
            return None
        expected = joined([sample[tensor] for sample in self.expected])
        return difference(expected, value) if expected.shape == value.shape else None


def _wrong(target: np.ndarray, found: np.ndarray, how: QuantizationParameters | None, axis: int | None) -> bool:
    return differs_in_float(target, found) if how is None else differs_in_steps(target, found, how, axis)


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


def _ends(how: QuantizationParameters) -> tuple[float, float]:
    scale, zero = float(how.scale[0]), int(how.zero_point[0])
    return scale * (how.scheme.lowest - zero), scale * (how.scheme.highest - zero)


def _dequantized(activation: Activation, seen: Mapping[str, np.ndarray]) -> np.ndarray:
    """The float values of integers; of those that are quantized sample by sample, by the scale that was computed."""
    if activation.how is not None:
        return dequantize(seen[activation.key], activation.how, activation.axis)
    stem = activation.key.removesuffix("_quantized")
    scale, zero = seen.get(f"{stem}_scale"), seen.get(f"{stem}_zero_point")
    if scale is None or zero is None:
        return seen[activation.key].astype(np.float32)
    return ((seen[activation.key].astype(np.float32) - zero) * scale).astype(np.float32)


def _run(
    model: "onnx.ModelProto", feeds: Sequence[Mapping[str, np.ndarray]], outputs: list[str]
) -> list[dict[str, Any]]:
    """Every node by itself, as the standard says, in float."""
    import onnxruntime

    if not outputs:
        return [{} for _ in feeds]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    return [
        dict(zip(outputs, session.run(outputs, {n: a for n, a in f.items() if n in wanted}), strict=True))
        for f in feeds
    ]


def _attributes(node: "onnx.NodeProto") -> dict[str, Any]:
    import onnx

    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _unlike_attributes(ours: "onnx.NodeProto", theirs: "onnx.NodeProto") -> str:
    a, b = _attributes(ours), _attributes(theirs)
    return ", ".join(f"{k} {b.get(k)} for {a.get(k)}" for k in sorted({*a, *b}) if a.get(k) != b.get(k))


def _flag(node: "onnx.NodeProto", name: str) -> bool:
    return bool(_attributes(node).get(name, 0))


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
