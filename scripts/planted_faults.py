"""planted_faults.py [[FIRST] SEEDS]: plants a fault in int8 models, one a seed, and has the operator at fault found.

Five kinds in turn (scale, zero point, layout, fusion, saturation) over three models: the demo's residual teacher, a
depthwise network and a transformer. From seed 30 on the artifact was equalized, bias corrected or smoothed before it
was quantized, and is compared with the model as it was before that. A fault counts where it costs the artifact's
answers HARM_DB or more; the seed draws until one does.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from calibration.dataset import CalibrationSet
from calibration.divergence import Finding, Layer, difference, first
from pipeline.diff import float_reference, layers_of
from targets.device.tensors import tensors
from targets.onnx_bias import corrected
from targets.onnx_equalization import equalized
from targets.onnx_float import FloatGraph
from targets.onnx_integers import Activation, QuantizedGraph
from targets.onnx_pairs import can_clip, in_order_of_summing
from targets.onnx_quantization import PRODUCTS_AND_TABLES, StaticScheme, quiet, static
from targets.onnx_smoothing import smoothed
from targets.target import Capabilities, ModelPackage
from targets.transport.qemu import emulator

KINDS = ("scale", "zero point", "layout", "fusion", "saturation")
MODELS = ("residual", "depthwise", "transformer")
# Which of them is quantized after what change, from this seed on.
CHANGED = {"residual": "equalized", "depthwise": "bias corrected", "outliers": "smoothed"}
CHANGED_FROM = 30
TRANSFORMERS = ("transformer", "outliers")
PROCESSOR = "Haswell"
HARM_DB = 3.0
SAMPLES = 4
SIDE = 28
ATTEMPTS = 200
PRODUCTS = ("Conv", "MatMul", "Gemm")

Feeds = list[dict[str, np.ndarray]]
Rng = np.random.Generator
Truth = tuple[str, ...]


@dataclass(frozen=True)
class Planted:
    """A spoilt artifact, the reference that it is compared with, and the truth: `ops` are at fault."""

    kind: str
    how: str
    ops: tuple[str, ...]
    model: onnx.ModelProto
    reference: onnx.ModelProto
    processor: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What was planted with a seed, and what was found."""

    seed: int
    model: str
    planted: Planted
    finding: Finding | None

    @property
    def pinned(self) -> bool:
        return self.finding is not None and self.finding.op in self.planted.ops


def pinned(seeds: Iterable[int], processor: str | None = PROCESSOR) -> tuple[int, int]:
    """Of the faults planted with these seeds, how many are pinned to the exact operator, and how many there are.

    processor: where saturating sums are to show, one of QEMU's names; None where kernels of this machine saturate.
    """
    outcomes = [attempt(seed, processor) for seed in seeds]
    return sum(outcome.pinned for outcome in outcomes), len(outcomes)


def attempt(seed: int, processor: str | None = PROCESSOR) -> Outcome:
    """Plants the fault of a seed and looks for it."""
    changed = seed >= CHANGED_FROM
    kind, name = KINDS[seed % len(KINDS)], (tuple(CHANGED) if changed else MODELS)[seed // len(KINDS) % len(MODELS)]
    rng = np.random.default_rng(seed)
    planted = plant(kind, name, rng, processor, changed=changed)
    layers = layers_of(planted.reference, planted.model, feeds(), emulator=_emulator(planted.processor))
    return Outcome(seed, name, planted, first(layers))


def unspoilt(name: str, processor: str | None = None, *, changed: bool = False) -> list[Layer]:
    """The comparison of a model's artifact as the quantizer made it: there is nothing to be found."""
    artifact = artifact_of(name, changed=changed)
    return layers_of(float_reference(graph_of(name)), artifact, feeds(), emulator=_emulator(processor))


def plant(kind: str, name: str, rng: np.random.Generator, processor: str | None, *, changed: bool = False) -> Planted:
    """A fault of this kind that costs the answers of the model's artifact HARM_DB or more."""
    if kind == "saturation" and not changed and rng.random() < 0.5:
        return plant_overflow(name, rng, processor)
    reference, sound = float_reference(graph_of(name)), artifact_of(name, changed=changed)
    graph = QuantizedGraph(sound)
    before = answers(sound)
    for _ in range(ATTEMPTS):
        spoilt = onnx.ModelProto()
        spoilt.CopyFrom(sound)
        way = WAYS[kind][int(rng.integers(len(WAYS[kind])))]
        truth = way(spoilt, graph, rng)
        if truth is None:
            continue
        after = answers(spoilt)
        wanted = answers(reference)
        if difference(wanted, before).sqnr_db - difference(wanted, after).sqnr_db >= HARM_DB:
            return Planted(kind, way.__name__, truth, spoilt, reference)
    raise RuntimeError(f"{kind}: no fault in {name} costs {HARM_DB} dB")


# Ways to spoil an artifact: each changes `model` and returns the operators that are then at fault, or None where the
# drawn place does not suit it.


def scale_of_reader(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth:
    """One DequantizeLinear reads with another scale than the integers were made with."""
    activation = draw(rng, [a for a in graph.activations.values() if a.readers])
    reader = draw(rng, activation.readers)
    give(model, reader.op, 1, reader.how.scale * np.float32(draw(rng, (0.5, 0.7, 1.4, 2.0))))
    return (reader.op,)


def scale_of_pair(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth:
    """Quantizer and readers share a scale that is not the tensor's."""
    activation = draw(rng, [a for a in graph.activations.values() if a.readers and a.how])
    factor = np.float32(draw(rng, (0.1, 0.25, 8.0, 16.0)))
    for op in both(activation):
        give(model, op, 1, array_of(model, node_of(model, op).input[1]) * factor)
    return both(activation)


def scale_of_weights(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth:
    """Scales of a weight's channels are off: one, or all alike."""
    constant = draw(rng, weights(graph))
    scale = constant.scale.copy()
    factor = np.float32(draw(rng, (0.5, 0.8, 1.25, 2.0)))
    if rng.random() < 0.5:
        scale[int(rng.integers(scale.size))] *= factor
    else:
        scale *= factor
    give(model, constant.op, 1, scale)
    return (constant.op,)


def zero_point_of_reader(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth:
    """One DequantizeLinear reads with another zero point than the integers were made with."""
    activation = draw(rng, [a for a in graph.activations.values() if a.readers])
    reader = draw(rng, activation.readers)
    shift(model, reader.op, int(rng.integers(3, 40)))
    return (reader.op,)


def zero_point_of_pair(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth:
    """Quantizer and readers share a zero point that is not the tensor's."""
    activation = draw(rng, [a for a in graph.activations.values() if a.readers and a.how])
    by = int(rng.integers(64, 128))
    for op in both(activation):
        shift(model, op, by)
    return both(activation)


def zero_point_of_weights(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth:
    """Symmetric weights get a zero point."""
    constant = draw(rng, weights(graph))
    shift(model, constant.op, int(rng.integers(2, 12)))
    return (constant.op,)


def permuted_channels(
    model: onnx.ModelProto, graph: QuantizedGraph, rng: np.random.Generator
) -> tuple[str, ...] | None:
    """The integers of a weight stand in another order of its output or input channels."""
    constant = draw(rng, weights(graph))
    axis = int(rng.integers(2))
    if constant.values.shape[axis] < 4:
        return None
    order = rng.permutation(constant.values.shape[axis])
    rewrite(model, constant.op, lambda integers: integers.take(order, axis=axis))
    return (consumer(graph, constant.tensor),)


def transposed_weights(
    model: onnx.ModelProto, graph: QuantizedGraph, rng: np.random.Generator
) -> tuple[str, ...] | None:
    """A square matrix, or the window of a convolution, is transposed."""
    constant = draw(rng, weights(graph))
    axes = (2, 3) if constant.values.ndim == 4 else (0, 1)
    if constant.values.shape[axes[0]] != constant.values.shape[axes[1]] or constant.values.shape[axes[0]] == 1:
        return None
    rewrite(model, constant.op, lambda integers: np.swapaxes(integers, *axes))
    return (consumer(graph, constant.tensor),)


def other_order(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth | None:
    """A Transpose moves axes of one length in another order."""
    nodes = [n for n in graph.nodes if n.op_type == "Transpose"]
    if not nodes:
        return None
    node = node_of(model, draw(rng, nodes).name)
    order = list(node.attribute[0].ints)
    if len(order) != 5:
        return None
    order[2], order[4] = order[4], order[2]
    node.attribute[0].ints[:] = order
    return (node.name,)


def dropped_bias(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth | None:
    """A bias was taken for folded and is gone."""
    nodes = [n for n in graph.nodes if n.op_type in ("Conv", "Gemm") and len(n.input) > 2]
    if not nodes:
        return None
    node = node_of(model, draw(rng, nodes).name)
    del node.input[2]
    return (node.name,)


def zeroed_bias(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth | None:
    """A bias was folded as zeros."""
    nodes = [n for n in graph.nodes if n.op_type in ("Conv", "Gemm") and len(n.input) > 2]
    if not nodes:
        return None
    node = draw(rng, nodes)
    rewrite(model, graph.constants[node.input[2]].op, np.zeros_like)
    return (node.name,)


def added_activation(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth:
    """A ReLU was fused where there is none."""
    activation = draw(rng, [a for a in graph.activations.values() if a.source in graph.producer])
    return (insert(model, activation, "Relu"),)


def other_activation(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth | None:
    """An activation was fused as another one."""
    nodes = [n for n in graph.nodes if n.op_type in ("Relu", "Gelu", "Clip", "Sigmoid", "Softmax")]
    if not nodes:
        return None
    node = node_of(model, draw(rng, nodes).name)
    del node.attribute[:]
    del node.input[1:]
    node.op_type = "Relu" if node.op_type != "Relu" else "Sigmoid"
    return (node.name,)


def lost_addition(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth | None:
    """The shortcut of a residual block was fused away."""
    nodes = [n for n in graph.nodes if n.op_type == "Add" and not any(name in graph.arrays for name in n.input)]
    if not nodes:
        return None
    node = node_of(model, draw(rng, nodes).name)
    del node.input[1]
    node.op_type = "Identity"
    return (node.name,)


def clipped_result(model: onnx.ModelProto, graph: QuantizedGraph, rng: Rng) -> Truth | None:
    """The accumulator of an operator saturates at a part of the range of its result."""
    activation = draw(rng, [a for a in graph.activations.values() if a.source in graph.producer and a.readers])
    how = activation.readers[0].how
    high = float(how.scale[0]) * (how.scheme.highest - int(how.zero_point[0])) * draw(rng, (0.2, 0.35, 0.5))
    low = float(how.scale[0]) * (how.scheme.lowest - int(how.zero_point[0])) * draw(rng, (0.2, 0.35, 0.5))
    if high <= 0:
        return None
    return (insert(model, activation, "Clip", low, high),)


WAYS: dict[str, Sequence[Callable[..., tuple[str, ...] | None]]] = {
    "scale": (scale_of_reader, scale_of_pair, scale_of_weights),
    "zero point": (zero_point_of_reader, zero_point_of_pair, zero_point_of_weights),
    "layout": (permuted_channels, transposed_weights, other_order),
    "fusion": (dropped_bias, zeroed_bias, added_activation, other_activation, lost_addition),
    "saturation": (clipped_result,),
}


def plant_overflow(name: str, rng: np.random.Generator, processor: str | None) -> Planted:
    """One layer keeps weights of all 8 bits where the others are guarded: a kernel without VNNI clips its sums.

    That layer's weights are made of one size, of which neighbours of one sign overflow.
    """
    for _ in range(ATTEMPTS):
        heavy = onnx.ModelProto()
        heavy.CopyFrom(graph_of(name))
        graph = QuantizedGraph(heavy)
        node = draw(rng, [n for n in graph.nodes if n.op_type in PRODUCTS and n.input[1] in graph.arrays])
        array = graph.arrays[node.input[1]]
        ordered = in_order_of_summing(node, array)
        if ordered is None or len(ordered[1]) < 16:
            continue
        even = np.sign(array) * np.abs(array).mean()
        tensor = next(t for t in heavy.graph.initializer if t.name == node.input[1])
        tensor.CopyFrom(numpy_helper.from_array(even.astype(np.float32), tensor.name))
        sound = quantized(heavy, name, "pairs")
        spoilt = unguarded(sound, heavy, node)
        found = spoilt and answers(spoilt, processor)
        if spoilt is None or found is None:
            continue
        wanted = answers(heavy)
        lost = difference(wanted, answers(sound)).sqnr_db - difference(wanted, found).sqnr_db
        if lost >= HARM_DB:
            return Planted("saturation", "overflow", (node.name,), spoilt, float_reference(heavy), processor)
    raise RuntimeError(f"saturation: no layer of {name} that overflows on {processor} costs {HARM_DB} dB")


def unguarded(sound: onnx.ModelProto, heavy: onnx.ModelProto, node: onnx.NodeProto) -> onnx.ModelProto | None:
    """The artifact with the weights of one node quantized to all of int8."""
    graph = QuantizedGraph(sound)
    own = next((n for n in graph.nodes if n.name == node.name), None)
    constant = graph.constants.get(own.input[1]) if own is not None else None
    if own is None or constant is None or constant.scale is None or constant.axis is None:
        return None
    values = QuantizedGraph(heavy).arrays[node.input[1]].astype(np.float64)
    others = tuple(d for d in range(values.ndim) if d != constant.axis % values.ndim)
    scale = np.abs(values).max(axis=others, keepdims=True) / 127
    integers = np.rint(values / scale).astype(np.int8)
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(sound)
    rewrite(spoilt, constant.op, lambda _: integers)
    give(spoilt, constant.op, 1, scale.reshape(-1).astype(np.float32))
    if len(own.input) > 2 and own.input[0] in graph.reads:
        bias = graph.constants[own.input[2]]
        steps = scale.reshape(-1) * float(graph.reads[own.input[0]][1].how.scale[0])
        give(spoilt, bias.op, 1, steps.astype(np.float32))
        rewrite(spoilt, bias.op, lambda _: np.rint(bias.values / steps.astype(np.float32)).astype(np.int32))
    return spoilt if can_clip(spoilt, own) else None


# Small changes of a graph


def draw(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]


def both(activation: Activation) -> tuple[str, ...]:
    return (activation.op, *(reader.op for reader in activation.readers))


def weights(graph: QuantizedGraph) -> list[Any]:
    """Quantized constants of two dimensions or more."""
    return [c for c in graph.constants.values() if c.op and c.values.ndim > 1 and c.scale is not None]


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def consumer(graph: QuantizedGraph, tensor: str) -> str:
    return graph.nodes[graph.consumers[tensor][0]].name


def array_of(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def give(model: onnx.ModelProto, op: str, position: int, array: np.ndarray) -> None:
    """Gives one node another initializer, and leaves that of others as it is."""
    node = node_of(model, op)
    old = array_of(model, node.input[position])
    name = f"{node.input[position]}_of_{op}"
    node.input[position] = name
    # A scalar stays one.
    shaped = array.astype(old.dtype).reshape(old.shape if array.size == old.size and old.ndim < 2 else array.shape)
    model.graph.initializer.append(numpy_helper.from_array(shaped, name))


def rewrite(model: onnx.ModelProto, op: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes the integers that a DequantizeLinear reads."""
    give(model, op, 0, change(array_of(model, node_of(model, op).input[0])))


def shift(model: onnx.ModelProto, op: str, by: int) -> None:
    """Moves a zero point by so many integers, to the side on which there is room."""
    old = array_of(model, node_of(model, op).input[2])
    ends = np.iinfo(old.dtype)
    moved = old.astype(np.int64) + (by if int(old.max()) + by <= ends.max else -by)
    give(model, op, 2, np.clip(moved, ends.min, ends.max).astype(old.dtype))


def insert(model: onnx.ModelProto, activation: Activation, op_type: str, *ends: float) -> str:
    """Puts an operator between a result and its quantizer; returns its name."""
    name = f"{activation.source}_{op_type}"
    for end, value in zip(("low", "high"), ends, strict=False):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), f"{name}_{end}"))
    extra = [f"{name}_low", f"{name}_high"][: len(ends)]
    node_of(model, activation.op).input[0] = name
    position = next(i for i, n in enumerate(model.graph.node) if n.name == activation.op)
    model.graph.node.insert(position, helper.make_node(op_type, [activation.source, *extra], [name], name))
    return name


# Models, artifacts, answers


@cache
def graph_of(name: str) -> onnx.ModelProto:
    """The float graph of a model, by the project's own exporter."""
    import torch

    from pipeline.exporters import export_module
    from pipeline.onnx_graph import conform, read_graph

    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export_module(network(name), {"pixel_values": torch.zeros(2, 1, SIDE, SIDE)}, file)
        graph = read_graph(file)
    conform(graph, {"pixel_values": ("float32", (1, SIDE, SIDE))}, name)
    return graph


def network(name: str) -> Any:
    """The demo's teacher with its trained weights; the other two are as torch initializes them."""
    if name == "residual":
        import fashion
        from safetensors.torch import load_file

        teacher = fashion.teacher()
        teacher.load_state_dict(load_file(Path(fashion.__file__).parent / "teacher.safetensors"))
        return teacher
    import small_networks

    made = {"depthwise": small_networks.depthwise, "transformer": small_networks.transformer}
    return made.get(name, small_networks.transformer_with_outliers)()


@cache
def artifact_of(name: str, *, changed: bool = False) -> onnx.ModelProto:
    return quantized(change(name) if changed else graph_of(name), name, "none")


def change(name: str) -> onnx.ModelProto:
    """The float graph as CHANGED says."""
    graph, samples = float_reference(graph_of(name)), list(calibration().feeds(16))
    how = CHANGED[name]
    if how == "equalized":
        made = equalized(graph)
    elif how == "smoothed":
        made = smoothed(graph, samples)
    else:
        made = corrected(graph, quantized(graph, name, "none"), samples)
    if made is None:
        raise RuntimeError(f"{name} cannot be {how}")
    return made


def quantized(graph: onnx.ModelProto, name: str, guard: Any) -> onnx.ModelProto:
    """The graph with Q/DQ pairs as the ONNX Runtime target places them."""
    from pipeline.onnx_graph import specs

    with TemporaryDirectory() as scratch:
        folder, made = Path(scratch) / "float", Path(scratch) / "int8"
        folder.mkdir()
        made.mkdir()
        onnx.save(graph, folder / "model.onnx")
        package = ModelPackage(
            folder=folder,
            graphs={"model": "model.onnx"},
            inputs=specs(graph.graph.input),
            outputs=specs(graph.graph.output),
            dims={"batch": (1, 1, 256)},
            preprocessing={},
            precision="fp32",
            architecture="transformer" if name in TRANSFORMERS else "convolutional",
            macs=1,
            parameters=1,
        )
        operators = PRODUCTS_AND_TABLES if name in TRANSFORMERS else None
        able = Capabilities(
            executes_here=True,
            answers_here=True,
            why_not="",
            status="ready",
            precisions=("int8",),
            opset=20,
            ir_version=10,
        )
        scheme = StaticScheme("uint8", operators, guard=guard)
        package = static("static", scheme, FloatGraph(package, calibration()), able, "mse").as_it_is().make(made)
        return onnx.load(package.graph)


def pictures(samples: int, seed: int) -> np.ndarray:
    """Coarse patterns with some noise, [samples, 1, SIDE, SIDE] float32."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(samples, 1, SIDE // 4, SIDE // 4)).repeat(4, axis=2).repeat(4, axis=3)
    return (coarse + 0.3 * rng.normal(size=(samples, 1, SIDE, SIDE))).astype(np.float32)


def calibration() -> CalibrationSet:
    ids = tuple(f"{i:064x}" for i in range(64))
    return CalibrationSet({"pixel_values": pictures(64, 0)}, ids, np.arange(64) % 10, seed=0)


def feeds() -> Feeds:
    return [{"pixel_values": picture[None]} for picture in pictures(SAMPLES, 1)]


def answers(model: onnx.ModelProto, processor: str | None = None) -> np.ndarray:
    """The logits of the feeds: in ONNX Runtime here, or on an emulated processor."""
    if processor is not None:
        with TemporaryDirectory() as folder:
            onnx.save(model, Path(folder) / "model.onnx")
            runs = tensors(
                "onnxruntime_cpu", Path(folder), ["model.onnx"], {"threads": 1}, feeds(), _emulator(processor)
            )
        return np.concatenate([run["logits"] for run in runs])
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([np.asarray(session.run(["logits"], feed)[0]) for feed in feeds()])


def _emulator(processor: str | None) -> list[str]:
    return [] if processor is None else emulator(processor)


def main(seeds: Sequence[int]) -> int:
    with quiet():
        outcomes = []
        for seed in seeds:
            outcome = attempt(seed)
            outcomes.append(outcome)
            said = f"{outcome.finding.op} ({outcome.finding.kind})" if outcome.finding else "nothing"
            planted = outcome.planted
            verdict = "pinned" if outcome.pinned else "MISSED"
            place = f"{planted.kind}: {planted.how} at {planted.ops[0]}"
            print(f"{seed:>3} {verdict} {outcome.model:<12} {place}; found {said}", flush=True)
    hits = sum(outcome.pinned for outcome in outcomes)
    print(f"{hits} of {len(outcomes)} pinned to the exact operator")
    return 0 if hits == len(outcomes) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))
    ends = [int(end) for end in sys.argv[1:]] or [30]
    sys.exit(main(range(*ends)))
