"""Whether int8 is right: calibration, the arithmetic of a CPU without VNNI, training, `edgewright diff`, a quick look.

The models are those of scripts/bench_int8.py; each is trained where it is not there yet.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from bench_models.catalogue import FASHION, MODELS, BenchModel, named
from benchmark import ROOT, Cell, Figure, Row, main
from saturation_figures import QuantizedModel, emulator_against_qemu, selective_repair

sys.path.insert(0, str(ROOT))
from calibration.dataset import CalibrationSet
from pipeline.data import load_split
from pipeline.onnx_graph import specs
from targets.onnx_float import FloatGraph
from targets.onnx_quantization import StaticScheme, dynamic, quiet, static
from targets.onnx_repair import weights_of
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.profile import load_profile
from targets.target import ModelPackage

# Where scripts/get-qemu puts it.
os.environ["PATH"] = f"{ROOT / '.tools/qemu/usr/bin'}{os.pathsep}{os.environ['PATH']}"
# Test samples that an emulated processor answers; one takes it up to a second.
EMULATED_SAMPLES = {"minilm": 100, "minilm-2": 200}
MOST_EMULATED = 500
# The imitation answers more.
IMITATED_SAMPLES = {"minilm": 300, "minilm-2": 600, "vit": 1000}
MOST_IMITATED = 3000
REPAIR_SECONDS = 2.0
TRAINED = ("resnet", "mobilenet", "convnext", "vit", "words-cnn", "mobilenet-tiny")
# As they are, none of them loses a point. This one, too, with channels whose ranges differ so many times.
UNEVEN = "mobilenet-tiny"
SPREADS = (30.0, 100.0)
EPOCHS = 6
QUICK = ("resnet", "convnext", "minilm-2")
QUICK_REPEATS = 3
# Timed against themselves, so many times in each runtime.
TIMED = ("resnet", "words-cnn", "vit")
SAME_REPEATS = 10
SAME_FEEDS = 16
SEEDS = 30


def ready(model: BenchModel) -> BenchModel:
    """The model, trained and exported."""
    if not model.onnx.is_file():
        subprocess.run([sys.executable, ROOT / "scripts/train_bench_models.py", model.name], check=True)
    return model


def package_of(model: BenchModel) -> ModelPackage:
    """The fp32 model as targets take it."""
    graph = onnx.load(ready(model).onnx, load_external_data=False).graph
    return ModelPackage(
        folder=model.folder,
        graphs={"model": model.onnx.name},
        inputs=specs(graph.input),
        outputs=specs(graph.output),
        dims={"batch": (1, 1, 256)},
        preprocessing=model.data.make_task().preprocessing(model.data.folder),
        precision="fp32",
        architecture=model.architecture,
        macs=1,
        parameters=1,
    )


def calibration_of(model: BenchModel) -> CalibrationSet:
    """The samples that every tool of the head-to-head gets."""
    with np.load(model.data.folder / "calibration.npz") as arrays:
        inputs = dict(arrays)
    samples = len(next(iter(inputs.values())))
    return CalibrationSet(inputs, tuple(f"{i:064x}" for i in range(samples)), np.zeros(samples, np.int64), seed=0)


def calibration_memory() -> list[Row]:
    from calibration_figures import memory_ratio

    found = memory_ratio(FASHION.folder, FASHION.make_task(), ready(named("resnet")).onnx)
    return [MEMORY.row(found["ratio"])]


def observers() -> list[Row]:
    from calibration_figures import OFFLINE_SAMPLES, mse_excess, observer_errors

    model = named("resnet")
    graph, chosen = onnx.load(ready(model).onnx), calibration_of(model)
    with tempfile.TemporaryDirectory() as folder:
        some = chosen.take(np.arange(OFFLINE_SAMPLES), Path(folder))
        errors = observer_errors(graph, some)
        return [*(OBSERVERS[name].row(error) for name, error in errors.items()), EXCESS.row(mse_excess(graph, some))]


@cache
def unguarded_models(*, emulated: bool) -> "tuple[QuantizedModel, ...]":
    """Each model in 8 bits, without regard to what is clipped: transformers with dynamic ranges, the others static.

    emulated: with no more test samples than an emulated processor answers in minutes.
    """
    made: list[QuantizedModel] = []
    able = OnnxruntimeCpu().capabilities(load_profile("x86-64-avx2"))
    for model in MODELS:
        package, calibration = package_of(model), calibration_of(model)
        graph = FloatGraph(package, calibration)
        with tempfile.TemporaryDirectory() as folder, quiet():
            if model.architecture == "convolutional":
                route = static("static-u8s8", StaticScheme("uint8"), graph, able).as_it_is()
            else:
                route = dynamic("dynamic", graph, able, "none")
            quantized = onnx.load(route.make(Path(folder)).graph)
        test = load_split(model.data.folder, "test")
        samples, most = (EMULATED_SAMPLES, MOST_EMULATED) if emulated else (IMITATED_SAMPLES, MOST_IMITATED)
        most = samples.get(model.name, most)
        some = test.take(np.linspace(0, len(test) - 1, min(most, len(test))).astype(int))
        labels = np.asarray(some.labels)

        def correct(answers: np.ndarray, labels: np.ndarray = labels) -> np.ndarray:
            return answers.argmax(axis=-1) == labels

        inputs = model.data.inputs_of(some)
        floats = weights_of(graph.model)
        made.append(QuantizedModel(model.name, quantized, inputs, correct, dict(calibration.inputs), floats))
    return tuple(made)


def emulator() -> list[Row]:
    found = emulator_against_qemu(unguarded_models(emulated=True))
    for one in found:
        each = one.products
        print(
            f"  {one.name}: end to end {one.integers} integers, {100 * one.equal:.4f}% equal;"
            f" products of the same inputs {each.integers}, {100 * each.equal:.4f}% equal,"
            f" of {each.clipped} that clipping changed {100 * each.clipped_equal:.4f}%;"
            f" accuracy predicted {one.predicted:.2f}, there {one.there:.2f}, unclipped {one.exact:.2f}",
            flush=True,
        )
    return [
        SAME_INPUTS.row(share_equal([(one.products.integers, one.products.equal) for one in found])),
        END_TO_END.row(share_equal([(one.integers, one.equal) for one in found])),
        PREDICTED.row(max(abs(one.predicted - one.there) for one in found)),
    ]


def share_equal(counted: Sequence[tuple[int, float]]) -> float | None:
    """Percent, over all models together, of how many and their share; None where nothing was compared."""
    total = sum(count for count, _ in counted)
    return 100 * sum(count * share for count, share in counted if count) / total if total else None


def repair() -> list[Row]:
    rows = selective_repair(unguarded_models(emulated=False), REPAIR_SECONDS)
    for row in rows:
        print(
            f"  {row.model}, {row.how}: {row.layers} layers, accuracy {row.there:.2f}, {row.sqnr_db:.1f} dB, "
            f"latency {row.latency.get('value', float('nan')):.3f}",
            flush=True,
        )
    shipped = [row for row in rows if row.how == "pairs"]
    unrepaired = {row.model: row for row in rows if row.how == "none"}
    # Of all models together: what one of them loses can be a sample or two.
    lost = sum(row.elsewhere - row.there for row in unrepaired.values())
    won = sum(row.there - unrepaired[row.model].there for row in shipped)
    slower = sum(row.latency["low95"] > 1 for row in shipped)
    return [WON_BACK.row(100 * won / lost if lost > 0 else None), EXTRA.row(slower)]


def training() -> list[Row]:
    from qat_figures import Case, cases, share_won_back

    settings = [*((name, 1.0) for name in TRAINED), *((UNEVEN, spread) for spread in SPREADS)]
    found: list[Case] = []
    for name, spread in settings:
        for case in cases(ready(named(name)).folder / "recipe.yaml", EPOCHS, spread=spread):
            found.append(case)
            if case.won_back is not None:
                print(f"  {case.model}, {spread:g} times, {case.route}: {case.said}", flush=True)
    share = share_won_back(found)
    trained = [case for case in found if case.won_back is not None]
    even = sum(case.spread == 1 for case in trained)
    how = f"measured: {len(trained)} of {len(found)} cases lose over 1, {even} of them as they are; {EPOCHS} epochs"
    return [QAT.row(None if share is None else 100 * share, how=how)]


def timing() -> list[Row]:
    from timing_figures import told_apart

    found = [told_apart(ready(named(name)).onnx, feeds_of(named(name)), SAME_REPEATS) for name in TIMED]
    for name, one in zip(TIMED, found, strict=True):
        print(f"  {name}: {one.over_loadings} of {one.measured}, by one loading {one.by_one_loading}", flush=True)
    return [SAME.row(100 * sum(one.over_loadings for one in found) / sum(one.measured for one in found))]


def feeds_of(model: BenchModel) -> list[dict[str, np.ndarray]]:
    inputs = calibration_of(model).inputs
    return [{name: np.asarray(array[i : i + 1]) for name, array in inputs.items()} for i in range(SAME_FEEDS)]


def faults() -> list[Row]:
    sys.path.insert(0, str(ROOT / "recipes"))
    from planted_faults import pinned

    with quiet():
        hits, _ = pinned(range(SEEDS))
    return [PINNED.row(hits)]


def quick_look() -> list[Row]:
    """The stage with `fast` against onnxruntime's plain quantization of the same samples, in turn."""
    ratios: list[float] = []
    for name in QUICK:
        model = named(name)
        package, calibration = package_of(model), calibration_of(model)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "calibration").mkdir()
            calibration.save(folder / "calibration")
            package.copy_to(folder / "package")
            ours, plain = [], []
            for turn in range(QUICK_REPEATS):
                ours.append(quick_seconds(model, folder, turn))
                plain.append(plain_seconds(model, package, calibration))
        print(f"  {name}: {median(ours):.1f} s, plain {median(plain):.1f} s", flush=True)
        ratios.append(median(ours) / median(plain))
    return [FAST.row(max(ratios))]


def quick_seconds(model: BenchModel, folder: Path, turn: int) -> float:
    from pipeline.recipe import Budget, Device
    from pipeline.stage import Work
    from pipeline.stages.quantize import Quantize

    out = folder / f"out-{turn}"
    out.mkdir()
    work = Work(out, folder, folder, nullcontext, lambda _fraction, _text: None)
    route = Device(load_profile("host"), "onnxruntime-cpu", Budget())
    start = time.perf_counter()
    Quantize(fast=True)(
        work,
        task=model.data.make_task(),
        data=model.data.folder,
        calibration=folder / "calibration",
        package=folder / "package",
        route=route,
    )
    return time.perf_counter() - start


def plain_seconds(model: BenchModel, package: ModelPackage, calibration: CalibrationSet) -> float:
    """As its documentation has it: static for convolutions, else dynamic; per channel, after its preprocessing."""
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from qat_figures import Reader

    feeds = list(calibration.feeds(1))
    with tempfile.TemporaryDirectory() as scratch, quiet():
        prepared, out = Path(scratch) / "prepared.onnx", Path(scratch) / "quantized.onnx"
        start = time.perf_counter()
        quant_pre_process(package.graph, prepared, skip_symbolic_shape=True)
        if model.architecture == "convolutional":
            quantize_static(prepared, out, Reader(feeds), per_channel=True)
        else:
            quantize_dynamic(prepared, out, per_channel=True, weight_type=QuantType.QInt8)
        return time.perf_counter() - start


MEMORY = Figure("calibration: peak memory, 8,192 samples against 128", at_least=False, limit=1.10, unit="x")
OBSERVERS = {
    name: Figure(f"{name}: bins from numpy on all values", at_least=False, limit=1.0)
    for name in ("MinMax", "MovingAverage", "Percentile", "Mse", "Entropy")
}
EXCESS = Figure("Mse: squared error above the best range's", at_least=False, limit=0.01)
# The first is the emulation's own; what float kernels do to the ranges of dynamic models is in the second, too.
SAME_INPUTS = Figure("emulation: integer products of the same inputs equal", at_least=True, limit=99.99, unit="%")
END_TO_END = Figure("emulation: 8-bit tensors equal end to end", at_least=True, limit=99.99, unit="%")
PREDICTED = Figure("emulation: accuracy off that of QEMU Haswell", at_least=False, limit=0.1, unit=" points")
WON_BACK = Figure("selective repair: lost accuracy won back", at_least=True, limit=95.0, unit="%")
EXTRA = Figure("selective repair: models slower than by 7 bits everywhere", at_least=False, limit=0)
QAT = Figure("training: lost accuracy won back", at_least=True, limit=70.0, unit="%")
PINNED = Figure(f"planted faults pinned to the operator, of {SEEDS}", at_least=True, limit=SEEDS)
FAST = Figure("build --fast: time to decide against plain", at_least=False, limit=2.0, unit="x")

SAME = Figure("timing: intervals that tell a model from itself", at_least=False, limit=5.0, unit="%")


def minutes() -> bool:
    """Measured with --quick too."""
    return True


CELLS: Sequence[Cell] = (
    Cell("calibration-memory", (MEMORY,), calibration_memory, minutes),
    Cell("observers", (*OBSERVERS.values(), EXCESS), observers, minutes),
    Cell("quick-look", (FAST,), quick_look, minutes),
    Cell("timing", (SAME,), timing, minutes),
    Cell("planted-faults", (PINNED,), faults, minutes),
    Cell("emulation", (SAME_INPUTS, END_TO_END, PREDICTED), emulator),
    Cell("repair", (WON_BACK, EXTRA), repair),
    Cell("training", (QAT,), training),
)

if __name__ == "__main__":
    main("quantization", CELLS)
