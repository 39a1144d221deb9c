"""Figures of calibration: what memory it takes as samples grow, and whether what it observes is what numpy finds.

calibration_figures.py memory DATA GRAPH [FEW MANY]: DATA is a folder of the prepare stage, GRAPH a float .onnx file.
calibration_figures.py observers DATA GRAPH [SAMPLES]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from calibration.dataset import CalibrationSet  # noqa: E402
from calibration.observers import Observer  # noqa: E402
from calibration.observers.entropy import GRID, THRESHOLDS, Entropy  # noqa: E402
from calibration.observers.histogram import Histogram  # noqa: E402
from calibration.observers.min_max import MinMax  # noqa: E402
from calibration.observers.moving_average import MovingAverage  # noqa: E402
from calibration.observers.mse import SHARES, Mse  # noqa: E402
from calibration.observers.percentile import Percentile  # noqa: E402
from calibration.quantization import QuantizationScheme, dequantize, parameters, quantize  # noqa: E402
from pipeline.recipe import DataSource  # noqa: E402
from pipeline.stage import Work  # noqa: E402
from pipeline.stages.calibrate import Calibrate  # noqa: E402
from pipeline.stages.prepare import Prepare  # noqa: E402
from pipeline.task import Task  # noqa: E402
from targets.onnx_coverage import narrowed  # noqa: E402
from targets.onnx_ranges import OBSERVED_AT_ONCE, activations, observe  # noqa: E402

FEW, MANY = 128, 8192
OFFLINE_SAMPLES = 16
# Tensors of a graph whose channels are compared one by one, too.
CHANNEL_WISE = 2
SCHEMES = (QuantizationScheme(), QuantizationScheme(signed=True, symmetric=True))


def prepared(out: Path, task: Task, source: DataSource, recipe_folder: Path, tokenizer: str | None = None) -> Path:
    """Runs the prepare stage into `out`, a folder that is made."""
    out.mkdir(parents=True)
    work = Work(out, out, recipe_folder, nullcontext, lambda _fraction, _text: None)
    Prepare()(work, task=task, source=source, tokenizer=tokenizer)
    return out


def memory_ratio(data: Path, task: Task, graph_file: Path, few: int = FEW, many: int = MANY) -> dict[str, float]:
    """Peak memory (VmHWM, MiB) of a fresh process that calibrates on `few` and on `many` samples, and many / few.

    Calibrating is all of it: choosing and auditing a pool, loading it, narrowing it by coverage, observing every
    activation of the graph. Raises ValueError where there are not so many samples.
    """
    peaks = {samples: _peak_mib(data, task, graph_file, samples) for samples in (few, many)}
    return {"few_mib": peaks[few], "many_mib": peaks[many], "ratio": peaks[many] / peaks[few]}


def _peak_mib(data: Path, task: Task, graph_file: Path, samples: int) -> float:
    task_name = type(task).__module__.rpartition(".")[2]
    command = [sys.executable, __file__, "calibrate", str(data), str(graph_file), str(samples), "--task", task_name]
    settings = json.dumps({name: value for name, value in vars(task).items() if value is not None})
    done = subprocess.run([*command, "--settings", settings], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def _calibrate(data: Path, task: Task, graph_file: Path, samples: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        pool, chosen = Path(folder) / "pool", Path(folder) / "chosen"
        pool.mkdir()
        chosen.mkdir()
        work = Work(pool, pool, data, nullcontext, lambda _fraction, _text: None)
        Calibrate(samples=samples)(work, task=task, data=data, calibration_source=None, tokenizer=None)
        calibration = narrowed(onnx.load(graph_file), CalibrationSet.load(pool), chosen)
        if len(calibration) != samples:
            raise ValueError(f"{data} has {len(calibration)} training samples; {samples} were asked for")
        observe(onnx.load(graph_file), calibration)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def observer_errors(graph_file: Path, calibration: CalibrationSet) -> dict[str, float]:
    """Observer -> how far its range is from the one that numpy finds on all values at once, in bins of its histogram.

    The farthest of all float tensors of the graph (of the first two, of each channel too) and of both ends, for uint8
    and symmetric int8. Every value is held: some 16 samples do.
    """
    batches = list(activations(onnx.load(graph_file), calibration, OBSERVED_AT_ONCE))
    worst = dict.fromkeys((kind.__name__ for kind in OFFLINE), 0.0)
    images = [name for name, array in batches[0].items() if array.ndim == 4][:CHANNEL_WISE]
    for name in batches[0]:
        for axis in (None, 1) if name in images else (None,):
            parts = [batch[name] for batch in batches]
            for kind, error in _errors(parts, axis).items():
                worst[kind] = max(worst[kind], error)
    return worst


def _errors(parts: list[np.ndarray], axis: int | None) -> dict[str, float]:
    histogram = Histogram(axis)
    for part in parts:
        histogram.observe(part)
    rows = [[part.ravel()] if axis is None else list(np.moveaxis(part, axis, 0)) for part in parts]
    errors: dict[str, float] = {}
    for kind, offline in OFFLINE.items():
        observer = kind(axis)
        for part in parts:
            observer.observe(part)
        for scheme in SCHEMES:
            found = observer.range(scheme)
            for channel, width in enumerate(histogram.width):
                values = [row[channel].ravel().astype(np.float64) for row in rows]
                expected = offline(values, scheme, float(width))
                far = max(abs(float(end[channel]) - want) for end, want in zip(found, expected, strict=True))
                errors[kind.__name__] = max(errors.get(kind.__name__, 0.0), far / float(width))
    return errors


Ends = tuple[float, float]


def _min_max(batches: list[np.ndarray], _scheme: QuantizationScheme, _width: float) -> Ends:
    values = np.concatenate(batches)
    return float(values.min()), float(values.max())


def _moving_average(batches: list[np.ndarray], _scheme: QuantizationScheme, _width: float) -> Ends:
    weights = 0.1 * 0.9 ** np.arange(len(batches))[::-1]
    weights[0] = 0.9 ** (len(batches) - 1)
    return tuple(float(weights @ np.array([end(batch) for batch in batches])) for end in (np.min, np.max))  # pyright: ignore[reportReturnType]


def _percentile(batches: list[np.ndarray], _scheme: QuantizationScheme, _width: float) -> Ends:
    ordered = np.sort(np.concatenate(batches))
    outside = int(round(len(ordered) * 0.01 / 100, 6))
    return float(ordered[outside]), float(ordered[-1 - outside])


def _mse(batches: list[np.ndarray], scheme: QuantizationScheme, _width: float) -> Ends:
    values = np.concatenate(batches)
    # Of equal values one error is enough.
    values, counts = np.unique(values, return_counts=True)

    def best(lows: np.ndarray, highs: np.ndarray) -> Ends:
        errors: list[float] = []
        for low, high in zip(lows, highs, strict=True):
            how = parameters(np.array([low]), np.array([high]), scheme)
            error = values - dequantize(quantize(values, how), how).astype(np.float64)
            errors.append(float((error**2 * counts).sum()))
        first = int(np.argmin(errors))
        return float(lows[first]), float(highs[first])

    low, high = best(min(values.min(), 0.0) * SHARES, max(values.max(), 0.0) * SHARES)
    if scheme.symmetric or low == 0.0 or high == 0.0:
        return low, high
    low, high = best(low * SHARES, np.full(len(SHARES), high))
    return best(np.full(len(SHARES), low), high * SHARES)


def _entropy(batches: list[np.ndarray], scheme: QuantizationScheme, width: float) -> Ends:
    values = np.concatenate(batches)
    low, high = float(values.min()), float(values.max())
    reach = max(-low, high)
    levels = scheme.highest - scheme.lowest + 1
    levels = levels // 2 if scheme.symmetric or low < 0 < high else levels
    step = width * -(-(int(reach / width) + 1) // GRID)
    # What lies in the bins on both sides of zero is exact whatever the threshold is.
    far = np.abs(values[(values >= width) | (values < -width)])
    counts = np.histogram(far, np.arange(int(reach / step) + 2) * step)[0].astype(np.float64)
    if len(counts) <= levels:
        return low, high
    tried = np.unique(np.linspace(levels, len(counts), THRESHOLDS).astype(int))
    kept = float(tried[int(np.argmin([_divergence(counts, int(bins), levels) for bins in tried]))]) * step
    kept = min(kept, reach)
    return max(low, -kept), min(high, kept)


def _divergence(counts: np.ndarray, kept: int, levels: int) -> float:
    p = counts[:kept].copy()
    q = np.zeros(kept)
    p[-1] += counts[kept:].sum()
    edges = -(-np.arange(levels + 1) * kept // levels)
    for start, end in pairwise(edges):
        filled = p[start:end] > 0
        if filled.any():
            q[start:end][filled] = counts[start:end].sum() / filled.sum()
    if not q.any():
        return float("inf")
    p, q = p[p > 0] / p.sum(), np.maximum(q[p > 0] / q.sum(), 1e-4)
    return float((p * np.log(p / (q / q.sum()))).sum())


OFFLINE: dict[Callable[[int | None], Observer], Callable[[list[np.ndarray], QuantizationScheme, float], Ends]] = {
    MinMax: _min_max,
    MovingAverage: _moving_average,
    Percentile: _percentile,
    Mse: _mse,
    Entropy: _entropy,
}


def main() -> None:
    from targets.plugins import load

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "observers", "calibrate"])
    parser.add_argument("data", type=Path)
    parser.add_argument("graph", type=Path)
    parser.add_argument("samples", type=int, nargs="*")
    parser.add_argument("--task", default="image_classification")
    parser.add_argument("--settings", type=json.loads, default={})
    arguments = parser.parse_args()
    task = load("tasks", arguments.task.replace("_", "-"))(**arguments.settings)
    if arguments.what == "calibrate":
        print(_calibrate(arguments.data, task, arguments.graph, *arguments.samples))
    elif arguments.what == "memory":
        print(json.dumps(memory_ratio(arguments.data, task, arguments.graph, *arguments.samples)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            work = Work(Path(folder), Path(folder), arguments.data, nullcontext, lambda _fraction, _text: None)
            samples = (arguments.samples or [OFFLINE_SAMPLES])[0]
            Calibrate(samples=samples)(work, task=task, data=arguments.data, calibration_source=None, tokenizer=None)
            pool = CalibrationSet.load(Path(folder))
            chosen = narrowed(onnx.load(arguments.graph), pool, Path(tempfile.mkdtemp(dir=folder)))
            print(json.dumps(observer_errors(arguments.graph, chosen)))


if __name__ == "__main__":
    main()
