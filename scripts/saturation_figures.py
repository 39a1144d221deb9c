"""How well the emulation of a CPU without VNNI agrees with one (QEMU's Haswell), and what repairing wins back."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from saturation_products import ProductAgreement, operands_and_results, same_inputs

from targets.device.measure import Loadings, ratio_interval
from targets.device.runners import load_runner
from targets.onnx_products import integer_tensors, optimized, products
from targets.onnx_repair import rescaled, unsaturated
from targets.onnx_saturation import RUN, saturating_layers, without_vnni
from targets.transport.qemu import emulator

RUNNER = Path(__file__).parent / "saturation_run.py"
CPU = "Haswell"
# Seven bits: all scales twice as coarse.
SEVEN_BITS = 2.0
FEEDS = 16
WARM_UP = 5


@dataclass(frozen=True)
class QuantizedModel:
    """An 8-bit model made without regard to clipping.

    inputs, calibration: name -> array, sample first. correct: first output [samples, ...] -> [samples] of 0 or 1.
    floats: the weights before quantization, by name.
    """

    name: str
    graph: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    correct: Callable[[np.ndarray], np.ndarray]
    calibration: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    floats: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])


@dataclass(frozen=True)
class Agreement:
    """Of one model: how many 8-bit integers were compared end to end, and the share that is equal, NaN where none
    was (fused dynamic products keep theirs inside); accuracies in percent.

    products: each integer product given the inputs it had there.
    predicted: by the emulation; there: of the graph that ships, on the emulated processor; exact: without clipping.
    """

    name: str
    integers: int
    equal: float
    products: ProductAgreement
    predicted: float
    there: float
    exact: float


def emulator_against_qemu(models: Sequence[QuantizedModel]) -> list[Agreement]:
    """One for each model.

    Every 8-bit tensor is compared end to end: both sides start from the model's inputs. Every integer product is
    compared by itself: both sides start from what went into it there.
    """
    with tempfile.TemporaryDirectory() as scratch:
        there, here = Path(scratch) / "there", Path(scratch) / "here"
        for folder in (there, here):
            folder.mkdir()
            for index, model in enumerate(models):
                np.savez(folder / f"{index}.npz", **_arrays(model.inputs))
        for index, model in enumerate(models):
            executed = optimized(model.graph)
            watched = integer_tensors(executed)
            onnx.save(model.graph, there / f"{index}.onnx")
            recorded = onnx.ModelProto()
            recorded.CopyFrom(executed)
            for folder, name, graph, names in (
                (there, f"{index}.raw.onnx", recorded, watched + operands_and_results(executed)),
                (here, f"{index}.raw.onnx", without_vnni(model.graph), watched),
                (here, f"{index}-exact.raw.onnx", without_vnni(model.graph, layers=()), watched),
            ):
                _with_outputs(graph, names)
                onnx.save(graph, folder / name)
            np.savez(here / f"{index}-exact.npz", **_arrays(model.inputs))
        subprocess.run([*emulator(CPU), sys.executable, RUNNER, there], check=True, stderr=subprocess.DEVNULL)
        subprocess.run([sys.executable, RUNNER, here], check=True)
        return [_agreement(model, there / str(index), here / str(index)) for index, model in enumerate(models)]


def _arrays(inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return dict(inputs)


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> None:
    known = {output.name for output in model.graph.output}
    added = [name for name in dict.fromkeys(names) if name not in known]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in added)


def _agreement(model: QuantizedModel, there: Path, here: Path) -> Agreement:
    real, emulated, exact, shipped = (
        dict(np.load(f"{name}.out.npz")) for name in (f"{there}.raw", f"{here}.raw", f"{here}-exact.raw", f"{there}")
    )
    integers = {place: array for place, array in emulated.items() if array.dtype.kind in "iu"}
    total = sum(array.size for array in integers.values())
    equal = sum(int((array == real[place]).sum()) for place, array in integers.items())
    names = [output.name for output in onnx.load(f"{there}.raw.onnx").graph.output]
    # Each sample was asked for alone: [samples, 1, ...].
    alone = {name: array[:, None] for name, array in model.inputs.items()}
    recorded = alone | {name: real[str(place)] for place, name in enumerate(names)}
    predicted, on_device, without = (
        100 * float(model.correct(answers["0"].reshape(-1, *answers["0"].shape[2:])).mean())
        for answers in (emulated, shipped, exact)
    )
    return Agreement(
        *(model.name, total, equal / total if total else float("nan"), same_inputs(model.graph, recorded)),
        *(predicted, on_device, without),
    )


@dataclass(frozen=True)
class Repair:
    """Of one model and one way to keep it from clipping; accuracies in percent, noise as SQNR against exact 8 bits.

    layers: how many of those that are summed in pairs were changed. there: on a CPU without VNNI; elsewhere: with it.
    sqnr_db: of the answers on a CPU without VNNI, against those of the unrepaired model on one with it.
    won_back: of the accuracy that clipping costs, the share; NaN where it costs none.
    latency: time over that of seven bits everywhere, {value, low95, high95}: 1 is as fast.
    """

    model: str
    how: str
    layers: int
    there: float
    elsewhere: float
    sqnr_db: float
    won_back: float
    latency: dict[str, float] = field(default_factory=dict[str, float])


def selective_repair(models: Sequence[QuantizedModel], seconds: float = 2.0) -> list[Repair]:
    """Rows of each model: none, seven_bits, pairs, pairs_where_clipped (on the calibration samples).

    seconds: that each model's repairs are timed for, in turn; 0 for not at all.
    """
    rows: list[Repair] = []
    for model in models:
        summed = [product.name for product in products(optimized(model.graph))]
        calibration = model.calibration or model.inputs
        clipped = [layer.node for layer in saturating_layers(model.graph, [calibration]) if layer.clipped]
        ways = {
            "none": (0, model.graph),
            "seven_bits": (len(summed), rescaled(model.graph, dict.fromkeys(summed, SEVEN_BITS))),
            "pairs": (len(summed), unsaturated(model.graph, floats=model.floats)),
            "pairs_where_clipped": (len(clipped), unsaturated(model.graph, clipped, model.floats)),
        }
        exact = _answers(without_vnni(model.graph, layers=()), model.inputs)
        scores: dict[str, tuple[np.ndarray, np.ndarray]] = {
            how: (_answers(without_vnni(graph), model.inputs), _answers(without_vnni(graph, layers=()), model.inputs))
            for how, (_, graph) in ways.items()
        }
        best, worst = _percent(model, exact), _percent(model, scores["none"][0])
        latencies = _latencies({how: graph for how, (_, graph) in ways.items()}, model.inputs, seconds)
        for how, (layers, _) in ways.items():
            there, elsewhere = scores[how]
            noise, signal = float(((there - exact) ** 2).sum()), float((exact**2).sum())
            rows.append(
                Repair(
                    *(model.name, how, layers, _percent(model, there), _percent(model, elsewhere)),
                    sqnr_db=10 * float(np.log10(signal / noise)) if noise else float("inf"),
                    won_back=(_percent(model, there) - worst) / (best - worst) if best > worst else float("nan"),
                    latency=latencies.get(how, {}),
                )
            )
    return rows


def _percent(model: QuantizedModel, answers: np.ndarray) -> float:
    return 100 * float(model.correct(answers).mean())


def _answers(graph: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The first output, each sample asked for alone."""
    with tempfile.TemporaryDirectory() as scratch:
        onnx.save(graph, Path(scratch) / "model.onnx")
        runner = load_runner("onnxruntime_cpu", Path(scratch), ["model.onnx"], {"threads": 1, **RUN})
    with ThreadPoolExecutor() as pool:
        return np.concatenate([next(iter(found.values())) for found in pool.map(runner.run, _samples(inputs))])


def _latencies(
    graphs: Mapping[str, onnx.ModelProto], inputs: Mapping[str, np.ndarray], seconds: float
) -> dict[str, dict[str, float]]:
    if not seconds:
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        for how, graph in graphs.items():
            onnx.save(graph, Path(scratch) / f"{how}.onnx")
        options = {"threads": 1, "optimization": "all"}
        load = [partial(load_runner, "onnxruntime_cpu", Path(scratch), [f"{how}.onnx"], options) for how in graphs]
        taken = Loadings(load, _samples(inputs)[:FEEDS], WARM_UP).measure(seconds)
    reference = taken[list(graphs).index("seven_bits")]
    return {how: ratio_interval(times, reference) for how, times in zip(graphs, taken, strict=True)}


def _samples(inputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    count = len(next(iter(inputs.values())))
    return [{name: array[i : i + 1] for name, array in inputs.items()} for i in range(count)]
