"""An OpenVINO model looked into: what its kernels gave, and whether that is what its own graph and A's say.

Its kernels are judged by the model itself, cut apart at its integers: each part is given the values that the kernels
had, and computes in float. Against A's graph it is held as the ONNX graph that it was made from.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.divergence import (
    Finding,
    Layer,
    difference,
    differs_in_float,
    differs_in_steps,
    joined,
    rounding_db,
    steps_apart,
)
from calibration.quantization import quantize
from targets.device.tensors import tensors
from targets.onnx_divergence import compare, in_words
from targets.openvino_as_onnx import as_onnx
from targets.openvino_format import FILES, save_openvino
from targets.openvino_quantized import GIVEN, MEANT, Fake, OpenvinoGraph

if TYPE_CHECKING:
    import onnx

Run = Sequence[Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Watched:
    """Of each sample. found: what the model's kernels gave, by output and GIVEN + node. meant: by output and MEANT + node,
    what they should have of their inputs.
    """

    graph: OpenvinoGraph
    feeds: Run
    found: Run
    meant: Run

    def by_tensor(self) -> list[dict[str, np.ndarray]]:
        """Of each sample: name of a tensor, or else of its node -> what the model's kernels made of it."""
        names = {op: self.graph.names_of(fake) for op, fake in self.graph.fakes.items()}
        return [
            {**feed, **{n: a for n, a in sample.items() if not n.startswith(GIVEN)}}
            | {name: sample[GIVEN + op] for op, sources in names.items() for name in sources}
            for feed, sample in zip(self.feeds, self.found, strict=True)
        ]


def watch(graph: OpenvinoGraph, options: Mapping[str, Any], feeds: Run, emulator: Sequence[str] = ()) -> Watched:
    """Runs the model looked into as it is to be run, and cut apart here; both in processes of their own."""
    runner = "openvino", dict(options)
    found = _run(graph.tapped(), *runner, feeds, emulator)
    for given, names in graph.aliases().items():
        for sample in found:
            # What is a result already is not given twice.
            sample.setdefault(given, next((sample[name] for name in names if name in sample), np.empty(0)))
    cut = graph.cut()
    wanted = {name for port in cut.inputs for name in port.get_names()}
    given = [
        {name: array for name, array in {**feed, **sample}.items() if name in wanted}
        for feed, sample in zip(feeds, found, strict=True)
    ]
    return Watched(graph, feeds, found, _run(cut, *runner, given, ()))


def _run(
    model: Any, runner: str, options: dict[str, Any], feeds: Run, emulator: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    with tempfile.TemporaryDirectory() as scratch:
        save_openvino(model, Path(scratch))
        return tensors(runner, Path(scratch), FILES, options, feeds, emulator)


def compare_openvino(
    reference: "onnx.ModelProto",
    watched: Watched,
    expected: Run,
    rounded: Mapping[str, np.ndarray] | None = None,
    saturates: bool = True,
) -> tuple[list[Layer], int]:
    """The layers of an OpenVINO model against a float graph, and how many of its quantized tensors have no place there.

    reference, expected, rounded, saturates: as for onnx_divergence.compare.
    """
    graph = watched.graph
    translated = as_onnx(reference, graph)
    found: list[dict[str, np.ndarray]] = []
    for feed, sample in zip(watched.feeds, watched.found, strict=True):
        values = {**feed, **{n: sample[n] for n in graph.outputs}}
        for op, key in translated.keys.items():
            values[key] = _integers(graph, op, sample[GIVEN + op])
        values |= {tensor: sample[GIVEN + node] for node, tensor in translated.floats.items()}
        found.append(values)
    meant = {name: joined([sample[name] for sample in watched.meant]) for name in graph.outputs}
    looked_at = translated.keys | translated.floats
    meant |= {key: joined([s[MEANT + op] for s in watched.meant]) for op, key in looked_at.items()}
    steps = {**translated.steps, **(rounded or {})}
    for name in translated.steps.keys() & (rounded or {}).keys():
        steps[name] = translated.steps[name] + (rounded or {})[name]
    layers = compare(reference, translated.model, expected, found, steps, meant, translated.unknown, saturates)
    return layers, len(graph.fakes) - len(translated.keys)


def _integers(graph: OpenvinoGraph, op: str, values: np.ndarray) -> np.ndarray:
    """What was computed, from the values that it was read as."""
    fake = graph.fakes[op]
    read = next(iter(fake.reads.values()))
    assert read is not None
    integers = quantize(values, read, fake.axis)
    kind = np.dtype(f"{'' if read.scheme.signed else 'u'}int{read.scheme.bits}")
    return integers.astype(kind)


def alone(watched: Watched, expected: Run) -> list[Layer]:
    """The layers of an OpenVINO model without a graph that says what it has to compute: its kernels are judged by itself.

    expected: tensors of another artifact, of each sample by name, whatever they are called there.
    """
    graph, by_tensor = watched.graph, watched.by_tensor()
    layers: list[Layer] = []
    for op, names in [*((f.op, graph.names_of(f)) for f in graph.fakes.values()), *((n, [n]) for n in graph.outputs)]:
        tensor = next((name for name in names if name in expected[0]), names[0])
        found = joined([sample[GIVEN + op if op in graph.fakes else op] for sample in watched.found])
        theirs = joined([sample[tensor] for sample in expected]) if tensor in expected[0] else None
        total = difference(theirs, found) if theirs is not None and theirs.shape == found.shape else None
        target = joined([sample[MEANT + op if op in graph.fakes else op] for sample in watched.meant])
        fake = graph.fakes.get(op)
        node = graph.nodes[op].input_value(0).get_node() if fake else graph.named[op].get_node()
        how = fake.how if fake is not None and fake.known else None
        name, kind = node.get_friendly_name(), node.get_type_name()
        findings: list[Finding] = []
        if fake is None and differs_in_float(target, found):
            off = 100 * difference(target, found).relative
            findings.append(
                Finding("values", name, tensor, f"up to {off:.3g}% of the largest from what the graph says")
            )
        elif how is not None and differs_in_steps(target, quantize(found, how, _axis(fake)), how, _axis(fake)):
            steps = steps_apart(target, quantize(found, how, _axis(fake)), how, _axis(fake))
            why = f"{100 * (steps > 1).mean():.2f}% of the kernel's integers are wrong, by up to {steps.max()} steps"
            findings.append(Finding("values", name, tensor, why))
        layers.append(
            Layer(
                tensor=tensor,
                op=name,
                op_type="Input" if kind == "Parameter" else kind,
                quantized=in_words(how),
                total=total,
                own=difference(target, found) if fake is None or how is not None else None,
                expected_db=None if how is None else rounding_db(target, how, _axis(fake)),
                findings=tuple(findings),
            )
        )
    return layers


def explained(
    watched: Watched, layers: Sequence[Layer], options: Mapping[str, Any], emulator: Sequence[str] = ()
) -> list[Layer]:
    """The layers; where the first that is wrong is right once the tensor that it rounds is looked at, so that no kernel
    rounds it as well, it says so.
    """
    index = next((i for i, layer in enumerate(layers) if layer.findings), None)
    if index is None or layers[index].findings[0].kind not in ("values", "saturation"):
        return list(layers)
    layer, graph = layers[index], watched.graph
    for fake in graph.fakes.values():
        if layer.tensor not in graph.names_of(fake) or _is_right(graph, fake, watched.meant, watched.found):
            continue
        model = graph.tapped()
        port = next(node for node in model.get_ordered_ops() if node.get_friendly_name() == fake.op).input_value(0)
        port.get_tensor().add_names({MEANT + fake.op})
        model.add_outputs([port])
        seen = _run(model, "openvino", dict(options), watched.feeds, emulator)
        if _is_right(graph, fake, seen, seen):
            why = f"{layer.findings[0].why}; they are right where {layer.tensor} is written out before it is rounded"
            findings = replace(layer.findings[0], why=why), *layer.findings[1:]
            return [*layers[:index], replace(layer, findings=findings), *layers[index + 1 :]]
    return list(layers)


def _is_right(graph: OpenvinoGraph, fake: Fake, meant: Run, found: Run) -> bool:
    if fake.how is None or not fake.known:
        return True
    target = joined([sample[MEANT + fake.op] for sample in meant])
    integers = joined([_integers(graph, fake.op, sample[GIVEN + fake.op]) for sample in found])
    return not differs_in_steps(target, integers, fake.how, _axis(fake))


def _axis(fake: Fake | None) -> int | None:
    """Of several samples, one after the other in front."""
    return None if fake is None or fake.axis is None else fake.axis + 1
