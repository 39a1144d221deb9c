"""An OpenVINO model against a float ONNX graph, or against itself where there is none: findings layer by layer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from calibration.divergence import (
    Difference,
    Finding,
    Layer,
    difference,
    differs_in_float,
    differs_in_steps,
    joined,
    rounding_db,
    steps_apart,
)
from targets.onnx_divergence import Judgement, compare, in_words
from targets.openvino_as_onnx import as_onnx
from targets.openvino_taps import GIVEN
from targets.openvino_watch import Run, Watched, integers_of

if TYPE_CHECKING:
    import onnx


def compare_openvino(
    reference: "onnx.ModelProto",
    watched: Watched,
    expected: Run,
    rounded: Mapping[str, np.ndarray] | None = None,
    saturates: bool = True,
) -> Judgement:
    """An OpenVINO model against a float graph.

    reference, expected, rounded, saturates: as for onnx_divergence.compare.
    """
    graph = watched.graph
    translated = as_onnx(reference, graph, watched.blurred)
    found: list[dict[str, np.ndarray]] = []
    for feed, sample in zip(watched.feeds, watched.found, strict=True):
        values = {**feed, **{name: sample[name] for name in graph.outputs}}
        for op, key in translated.keys.items():
            values[key] = integers_of(graph.fakes[op], sample[GIVEN + op], graph.fakes[op].axis)
        values |= {tensor: sample[GIVEN + node] for node, tensor in translated.floats.items()}
        found.append(values)
    meant = {name: joined([sample[name] for sample in watched.meant]) for name in graph.outputs}
    meant |= {key: watched.targets(op) for op, key in (translated.keys | translated.floats).items()}
    steps = {**translated.steps, **(rounded or {})}
    for name in translated.steps.keys() & (rounded or {}).keys():
        steps[name] = translated.steps[name] + (rounded or {})[name]
    judged = compare(reference, translated.model, expected, found, steps, meant, translated.unknown, saturates)
    if lost := len(graph.fakes) - len(translated.keys):
        judged.notes.append(f"{lost} quantized tensors of B have no name in A: what follows is judged by B's own graph")
    return judged


def alone(watched: Watched, expected: Run) -> list[Layer]:
    """The layers of an OpenVINO model that is judged by its own graph alone, in topological order.

    expected: tensors of another artifact, of each sample by name, whatever they are called there.
    """
    graph = watched.graph
    looked_at = [name for name in graph.nodes if name in graph.fakes or name in graph.floats]
    layers = [_layer(watched, expected, name) for name in looked_at]
    for name in graph.outputs:
        node = graph.named[name].get_node().get_friendly_name()
        found, target = (joined([sample[name] for sample in run]) for run in (watched.found, watched.meant))
        if node not in graph.floats:
            layers.append(_float_layer(watched, expected, node, [name], found, target))
    return layers


def _layer(watched: Watched, expected: Run, name: str) -> Layer:
    graph, found, target = watched.graph, watched.values(name), watched.targets(name)
    fake = graph.fakes.get(name)
    if fake is None:
        names = sorted(graph.nodes[name].output(0).get_names())
        return _float_layer(watched, expected, name, names, found, target)
    node = graph.nodes[name].input_value(0).get_node()
    tensor, total = _total(expected, graph.names_of(fake), found)
    kind = "Input" if node.get_type_name() == "Parameter" else node.get_type_name()
    if fake.how is None or not fake.known:
        return Layer(tensor, node.get_friendly_name(), kind, "", total, None, None, ())
    integers, axis = watched.integers(fake), None if fake.axis is None else fake.axis + 1
    findings: tuple[Finding, ...] = ()
    if differs_in_steps(target, integers, fake.how, axis):
        steps = steps_apart(target, integers, fake.how, axis)
        why = f"{100 * (steps > 1).mean():.2f}% of the kernel's integers are wrong, by up to {steps.max()} steps"
        findings = (Finding("values", node.get_friendly_name(), tensor, why),)
    return Layer(
        tensor=tensor,
        op=node.get_friendly_name(),
        op_type=kind,
        quantized=in_words(fake.how),
        total=total,
        own=difference(target, found),
        expected_db=rounding_db(target, fake.how, axis),
        findings=findings,
    )


def _float_layer(
    watched: Watched, expected: Run, node: str, names: list[str], found: np.ndarray, target: np.ndarray
) -> Layer:
    tensor, total = _total(expected, names, found)
    findings: tuple[Finding, ...] = ()
    if differs_in_float(target, found):
        off = 100 * difference(target, found).relative
        why = f"the kernel's values are up to {off:.3g}% of the largest away from what the graph says"
        findings = (Finding("values", node, tensor, why),)
    kind = watched.graph.nodes[node].get_type_name()
    return Layer(tensor, node, kind, "", total, difference(target, found), None, findings)


def _total(expected: Run, names: list[str], found: np.ndarray) -> tuple[str, Difference | None]:
    """The name by which the other artifact knows a tensor, and how far they differ."""
    tensor = next((name for name in names if name in expected[0]), names[0])
    theirs = joined([sample[tensor] for sample in expected]) if tensor in expected[0] else None
    return tensor, difference(theirs, found) if theirs is not None and theirs.shape == found.shape else None
