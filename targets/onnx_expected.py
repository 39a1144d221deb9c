"""What the operators of an ONNX artifact should have given of the inputs that they had."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.divergence import joined
from targets.onnx_matching import Run, Sides
from targets.onnx_taps import GIVEN, cut, float_names, tapped

if TYPE_CHECKING:
    import onnx


@dataclass
class Expected:
    """said: what the artifact's own graph says, where it was computed elsewhere."""

    sides: Sides
    said: Mapping[str, np.ndarray] | None

    @cached_property
    def targets(self) -> dict[str, np.ndarray]:
        """Seen name -> what the reference's operator makes of the inputs that the artifact's had, and its constants."""
        wanted = {
            name: tensor
            for name in self.sides.seen
            if (tensor := self.sides.tensor_of(name)) is not None and not self.is_unknown(name)
        }
        runs = self._run_reference(sorted({t for t in wanted.values() if t in self.sides.reference.producer}))
        found: dict[str, np.ndarray] = {}
        for name, tensor in wanted.items():
            samples = runs if tensor in self.sides.reference.producer else self.sides.expected
            found[name] = joined([sample[tensor] for sample in samples])
        return found

    def is_unknown(self, name: str) -> bool:
        activation = self.sides.artifact.activations.get(name)
        nodes = {self.sides.artifact.nodes[index].name for index in self.sides.segment_of(name)}
        return bool(self.sides.unknown & (nodes | {activation.op} if activation else nodes))

    def _run_reference(self, outputs: list[str], *, biased: bool = True) -> list[dict[str, np.ndarray]]:
        """The reference with the artifact's constants, each operator given what the artifact's had.

        biased: with the artifact's constants of one dimension too.
        """
        sides, edges = self.sides, dict[tuple[int, int], str]()
        for index, node in enumerate(sides.reference.nodes):
            for position, name in enumerate(node.input):
                seen = sides.expected[0].get(name)
                if name not in sides.known or (seen is not None and seen.dtype.kind != "f"):
                    continue
                theirs = sides.same_input(index, position)
                given = theirs if theirs in sides.values[0] else sides.stand_in(name, node.op_type)
                if given is not None:
                    edges[index, position] = given
        model = cut(sides.reference.model, edges, self._constants(biased=biased), outputs)
        feeds: list[dict[str, np.ndarray]] = []
        for sample, values in zip(sides.expected, sides.values, strict=True):
            feed = {name: sample[name] for name in sides.reference.inputs if name in sample}
            given = {GIVEN + name: values[name].astype(np.float32) for name in set(edges.values())}
            feeds.append(feed | given)
        return run(model, feeds, outputs)

    def _constants(self, *, biased: bool) -> "dict[tuple[int, int], onnx.TensorProto]":
        """Node of the reference and input -> the artifact's constant there."""
        from onnx import numpy_helper

        sides, found = self.sides, dict[tuple[int, int], Any]()
        for index, node in enumerate(sides.reference.nodes):
            for position, name in enumerate(node.input):
                array = sides.reference.arrays.get(name)
                if array is None or array.dtype.kind != "f" or not (biased or array.ndim > 1):
                    continue
                theirs = sides.same_input(index, position)
                own = sides.artifact.constants.get(theirs) if theirs else None
                own = own or sides.integer_constants.get(name)
                if own is not None and own.values.shape == array.shape:
                    found[index, position] = numpy_helper.from_array(own.values.astype(array.dtype))
        return found

    @cached_property
    def meant(self) -> Mapping[str, np.ndarray]:
        """Seen name -> what the artifact's own graph says, operator by operator in float, of the inputs it had."""
        if self.said is not None:
            return self.said
        graph = self.sides.artifact
        given = [n for n in self.sides.found[0] if n not in graph.inputs and n not in graph.reads]
        edges = {(i, p): n for i, node in enumerate(graph.nodes) for p, n in enumerate(node.input) if n in given}
        sources = {
            name: graph.activations[name].source if name in graph.activations else name for name in self.sides.seen
        }
        outputs = sorted({source for source in sources.values() if source in graph.producer})
        from onnx import helper

        types = {n: helper.np_dtype_to_tensor_dtype(self.sides.found[0][n].dtype) for n in given}
        model = cut(graph.model, edges, {}, outputs, types)
        used = set(edges.values())
        feeds = [
            {n: s[n] for n in graph.inputs if n in s} | {GIVEN + n: s[n] for n in given if n in used}
            for s in self.sides.found
        ]
        runs = run(model, feeds, outputs)
        return {
            name: joined([sample[source] for sample in (runs if source in graph.producer else self.sides.found)])
            for name, source in sources.items()
        }

    @cached_property
    def unbiased(self) -> dict[str, list[np.ndarray]]:
        """Tensor of the reference -> what it makes of the artifact's values and weights, with its own biases."""
        sides = self.sides
        names = {t for name in sides.seen if (t := sides.tensor_of(name)) is not None}
        vectors = {name for name, array in sides.reference.arrays.items() if array.ndim == 1}
        names |= {node.output[0] for node in sides.reference.nodes if vectors & set(node.input)}
        wanted = sorted(names & sides.expected[0].keys() & sides.reference.producer.keys())
        runs = self._run_reference(wanted, biased=False)
        return {name: [sample[name] for sample in runs] for name in wanted}


def seen_of(model: "onnx.ModelProto", samples: Run) -> Run:
    """Of each sample: the inputs, and what a graph makes of them."""
    inputs = [value.name for value in model.graph.input]
    feeds = [{name: sample[name] for name in inputs if name in sample} for sample in samples]
    names = sorted(float_names(model))
    return [{**f, **s} for f, s in zip(feeds, run(tapped(model, names), feeds, names), strict=True)]


def run(
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
