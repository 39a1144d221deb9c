"""An OpenVINO model run looked into, and run in parts: what its kernels gave, and what they should have given.

The model itself says so, cut apart at its integers: each part is given the values that the kernels had, and computes in
float.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibration.divergence import Layer, differs_in_float, differs_in_steps, joined
from calibration.quantization import quantize
from targets.device.tensors import tensors
from targets.openvino_format import FILES, save_openvino
from targets.openvino_graph import RuntimeModel
from targets.openvino_integers import Fake
from targets.openvino_taps import GIVEN, MEANT, aliases, cut, tapped

Run = Sequence[Mapping[str, np.ndarray]]
RUNNER = "openvino"


@dataclass(frozen=True)
class Watched:
    """found: of each sample, what the model's kernels gave, by output and GIVEN + node. meant: what they should have
    given of the inputs that they had, by output and MEANT + node. options, emulator: how it was run.
    blurred: nodes of graph.blurred that did give something else; it is then taken for right.
    """

    graph: RuntimeModel
    feeds: Run
    found: Run
    meant: Run
    options: Mapping[str, Any]
    emulator: Sequence[str]
    blurred: set[str]

    def values(self, node: str) -> np.ndarray:
        """What a FakeQuantize's integers stood for, or what another node gave; of all samples."""
        return joined([sample[GIVEN + node] for sample in self.found])

    def targets(self, node: str) -> np.ndarray:
        """What a FakeQuantize should have got to round, or what another node should have given."""
        return joined([sample[MEANT + node] for sample in self.meant])

    def integers(self, fake: Fake) -> np.ndarray:
        """What a FakeQuantize gave, read back from the values. It has to be `known`."""
        return integers_of(fake, self.values(fake.op), _axis(fake))

    def by_tensor(self) -> list[dict[str, np.ndarray]]:
        """Of each sample: name of a tensor, or else of its node -> what the model's kernels made of it."""
        names = {op: self.graph.names_of(fake) for op, fake in self.graph.fakes.items()}
        names |= {name: sorted(self.graph.nodes[name].output(0).get_names()) for name in self.graph.floats}
        return [
            {**feed, **{name: sample[name] for name in self.graph.outputs}}
            | {name: sample[GIVEN + op] for op, sources in names.items() for name in sources}
            for feed, sample in zip(self.feeds, self.found, strict=True)
        ]


def watch(graph: RuntimeModel, options: Mapping[str, Any], feeds: Run, emulator: Sequence[str] = ()) -> Watched:
    """Runs the model looked into as it is to be run, and cut apart here; both in processes of their own."""
    found = _run(tapped(graph), options, feeds, emulator)
    for given, names in aliases(graph).items():
        for sample in found:
            # What is a result of the model already is not given twice.
            sample.setdefault(given, next((sample[name] for name in names if name in sample), np.empty(0)))
    parts = cut(graph)
    wanted = {name for port in parts.inputs for name in port.get_names()}
    given = [
        {name: array for name, array in {**feed, **sample}.items() if name in wanted}
        for feed, sample in zip(feeds, found, strict=True)
    ]
    meant = _run(parts, options, given, ())
    results = {graph.named[name].get_node().get_friendly_name(): name for name in graph.outputs}
    watched = Watched(graph, feeds, found, meant, options, emulator, set())
    for name in graph.blurred:
        said, seen = results.get(name, MEANT + name), results.get(name, GIVEN + name)
        if name in graph.fakes:
            right = _is_right(watched, graph.fakes[name])
        else:
            right = not differs_in_float(joined([s[said] for s in meant]), joined([s[seen] for s in found]))
        if not right:
            # Nobody but the kernels can say.
            watched.blurred.add(name)
            for should, sample in zip(meant, found, strict=True):
                should[said] = sample[seen]
    return watched


def explained(watched: Watched, layers: Sequence[Layer]) -> list[Layer]:
    """The layers. Where the integers of the first that is wrong are right once the tensor that is rounded is looked at,
    so that no kernel computes and rounds it at once, it says so.
    """
    index = next((i for i, layer in enumerate(layers) if layer.findings), None)
    if index is None:
        return list(layers)
    layer, graph = layers[index], watched.graph
    for fake in graph.fakes.values():
        concerned = layer.tensor in graph.names_of(fake) and not _is_right(watched, fake)
        if concerned and _is_right(_apart(watched, fake), fake):
            why = f"{layer.findings[0].why}; they are right where {layer.tensor} is written out before it is rounded"
            findings = replace(layer.findings[0], why=why), *layer.findings[1:]
            return [*layers[:index], replace(layer, findings=findings), *layers[index + 1 :]]
    return list(layers)


def _apart(watched: Watched, fake: Fake) -> Watched:
    """With what one FakeQuantize rounds looked at as well; `meant` of that alone."""
    model = tapped(watched.graph)
    port = next(node for node in model.get_ordered_ops() if node.get_friendly_name() == fake.op).input_value(0)
    port.get_tensor().add_names({MEANT + fake.op})
    model.add_outputs([port])
    seen = _run(model, watched.options, watched.feeds, watched.emulator)
    return replace(watched, found=seen, meant=seen)


def _is_right(watched: Watched, fake: Fake) -> bool:
    if fake.how is None or not fake.known:
        return True
    return not differs_in_steps(watched.targets(fake.op), watched.integers(fake), fake.how, _axis(fake))


def integers_of(fake: Fake, values: np.ndarray, axis: int | None) -> np.ndarray:
    """What a FakeQuantize computed, from the values that it was read as; axis: of the values."""
    read = next(iter(fake.reads.values()))
    if read is None:
        raise ValueError(f"{fake.op}: its integers are of an unknown type")
    kind = np.dtype(f"{'' if read.scheme.signed else 'u'}int{read.scheme.bits}")
    return quantize(values, read, axis).astype(kind)


def _axis(fake: Fake) -> int | None:
    """Of several samples, one after the other in front."""
    return None if fake.axis is None else fake.axis + 1


def _run(model: Any, options: Mapping[str, Any], feeds: Run, emulator: Sequence[str]) -> list[dict[str, np.ndarray]]:
    with tempfile.TemporaryDirectory() as scratch:
        save_openvino(model, Path(scratch))
        return tensors(RUNNER, Path(scratch), FILES, dict(options), feeds, emulator)
