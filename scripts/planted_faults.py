"""planted_faults.py [[FIRST] SEEDS]: plants a fault in int8 models, one a seed, and has the operator at fault found.

Five kinds in turn (scale, zero point, layout, fusion, saturation) over three models: the demo's residual teacher, a
depthwise network and a transformer. From seed 30 on the artifact was equalized, bias corrected or smoothed before it
was quantized, and is compared with the model as it was before that. A fault counts where it costs the artifact's
answers HARM_DB or more; the seed draws until one does.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from fault_models import CHANGED, GUARD, MODELS, answers, artifact_of, emulation, feeds, graph_of, quantized
from fault_ways import WAYS, draw, give, rewrite
from onnx import numpy_helper

from calibration.divergence import Finding, Layer, difference, first
from pipeline.diff import float_reference, layers_of
from targets.onnx_integers import QuantizedGraph
from targets.onnx_pairs import can_clip, in_order_of_summing
from targets.onnx_quantization import quiet

KINDS = ("scale", "zero point", "layout", "fusion", "saturation")
# Artifacts of models that were changed before, from this seed on.
CHANGED_FROM = 30
PROCESSOR = "Haswell"
HARM_DB = 3.0
ATTEMPTS = 200
PRODUCTS = ("Conv", "MatMul", "Gemm")


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
    layers = layers_of(planted.reference, planted.model, feeds(), emulator=emulation(planted.processor))
    return Outcome(seed, name, planted, first(layers))


def unspoilt(name: str, processor: str | None = None, *, changed: bool = False) -> list[Layer]:
    """The comparison of a model's artifact as the quantizer made it: there is nothing to be found on this processor."""
    artifact = artifact_of(name, changed=changed, guard="none" if processor else GUARD)
    return layers_of(float_reference(graph_of(name)), artifact, feeds(), emulator=emulation(processor))


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
