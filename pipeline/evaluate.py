"""Runs a compiled model over a split: its answers, and how long one takes."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from targets.device.measure import Loadings, ratio_interval
from targets.device.preprocess import preprocess
from targets.device.runners import load_runner

if TYPE_CHECKING:
    from pipeline.data import Split
    from targets.device.runners import Runner
    from targets.target import CompiledModel

# Of a float model: enough to be quick, few enough that activations stay in the cache.
BATCH = 16
# Samples after which progress is told.
TOLD = 256
# Distinct samples that timing goes through, so that no single input decides it.
FEEDS = 64
# Calls of a model that was just loaded before it is timed.
WARM_UP = 10


def answers(model: "CompiledModel", split: "Split", progress: Callable[[float], None] = lambda _: None) -> np.ndarray:
    """The model's first output for every sample, [samples, ...] float32.

    A quantized model answers one sample at a time, as it will: scales that are found while it runs depend on what else
    is in a batch. A float model's answers do not, so it gets batches and all cores.
    """
    batch, options = 1, model.options
    if model.precision == "fp32":
        batch, options = BATCH, model.options | {"threads": os.cpu_count() or 1}
    runner = load_runner(model.runner, model.folder, list(model.files), options)
    outputs: list[np.ndarray] = []
    for start in range(0, len(split), batch):
        columns = {name: array[start : start + batch] for name, array in split.columns.items()}
        outputs.append(runner.run(preprocess(model.preprocessing, columns))[model.outputs[0].name])
        if start % TOLD == 0:
            progress(start / len(split))
    return np.concatenate(outputs)


def single_samples(model: "CompiledModel", split: "Split") -> list[dict[str, np.ndarray]]:
    """Feeds of one sample each, spread over the split, that timing goes through."""
    rows = np.linspace(0, len(split) - 1, min(FEEDS, len(split))).astype(int)
    columns = [{name: array[i : i + 1] for name, array in split.columns.items()} for i in rows]
    return [preprocess(model.preprocessing, c) for c in columns]


def loaded(model: "CompiledModel") -> "Runner":
    """The model in its runtime, with the options that it ships with. Raises DeviceError where that fails."""
    return load_runner(model.runner, model.folder, list(model.files), model.options)


@dataclass(frozen=True)
class Timing:
    """Latencies of the artifact and what it is held against, [loadings, calls] milliseconds each, in turn.

    ratios: of each of the others, p50 / p50 of the artifact: {value, low95, high95}.
    cpu_seconds: of one inference of the artifact, all threads together.
    """

    artifact_ms: np.ndarray
    others_ms: list[np.ndarray]
    ratios: list[dict[str, float]]
    cpu_seconds: float


def time_against(
    artifact: "CompiledModel",
    others: Sequence["CompiledModel"],
    split: "Split",
    seconds: float,
    max_seconds: float,
    settled: Callable[[list[dict[str, float]]], bool],
) -> Timing:
    """Times models in turn on single samples, for `seconds` without loading, and on while `settled(ratios)` is false.

    max_seconds: no further time begins that would end later, loading included.
    """
    feeds = single_samples(artifact, split)
    loadings = Loadings([partial(loaded, model) for model in (artifact, *others)], feeds, WARM_UP)
    start = time.monotonic()
    rounds = 0
    while True:
        rounds += 1
        artifact_ms, *others_ms = loadings.measure(seconds)
        ratios = [ratio_interval(taken, artifact_ms) for taken in others_ms]
        if settled(ratios) or (time.monotonic() - start) * (rounds + 1) / rounds > max_seconds:
            break
    runner = loaded(artifact)
    for feed in feeds:
        runner.run(feed)
    cpu = time.process_time()
    for feed in feeds:
        runner.run(feed)
    return Timing(artifact_ms, others_ms, ratios, (time.process_time() - cpu) / len(feeds))
