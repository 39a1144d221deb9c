"""Runs a compiled model over a split: its answers, and how long one takes."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from targets.device.measure import block_size, interleave, ratio_interval
from targets.device.preprocess import preprocess
from targets.device.runners import load_runner

if TYPE_CHECKING:
    from pipeline.data import Split
    from targets.target import CompiledModel

BATCH = 256
# Distinct samples that timing goes through, so that no single input decides it.
FEEDS = 64


def answers(model: "CompiledModel", split: "Split", progress: Callable[[float], None] = lambda _: None) -> np.ndarray:
    """The model's first output for every sample, [samples, ...] float32.

    All cores are used: threads change how fast an answer comes, and the order of sums only in its last bits.
    """
    options = model.options | {"threads": os.cpu_count() or 1}
    runner = load_runner(model.runner, model.folder, list(model.files), options)
    outputs: list[np.ndarray] = []
    for start in range(0, len(split), BATCH):
        columns = {name: array[start : start + BATCH] for name, array in split.columns.items()}
        outputs.append(runner.run(preprocess(model.preprocessing, columns))[model.outputs[0].name])
        progress(min(1.0, (start + BATCH) / len(split)))
    return np.concatenate(outputs)


@dataclass(frozen=True)
class Timing:
    """Latencies of baseline and artifact, [blocks, runs in a block] milliseconds each, measured alternately.

    cpu_seconds: of one inference of the artifact, all threads together.
    """

    baseline_ms: np.ndarray
    artifact_ms: np.ndarray
    cpu_seconds: float

    @property
    def ratio(self) -> dict[str, float]:
        """p50 of the baseline / p50 of the artifact: {value, low95, high95}."""
        return ratio_interval(self.baseline_ms, self.artifact_ms)


def time_pair(
    baseline: "CompiledModel",
    artifact: "CompiledModel",
    split: "Split",
    seconds: float,
    max_seconds: float,
    settled: Callable[[dict[str, float]], bool],
) -> Timing:
    """Times two models in turn on single samples, for `seconds`, and on while `settled(ratio)` is false."""
    models = (baseline, artifact)
    runners = [load_runner(m.runner, m.folder, list(m.files), m.options) for m in models]
    rows = np.linspace(0, len(split) - 1, min(FEEDS, len(split))).astype(int)
    feeds = [
        preprocess(artifact.preprocessing, {name: array[i : i + 1] for name, array in split.columns.items()})
        for i in rows
    ]
    block = block_size(runners, feeds)
    start = time.monotonic()
    blocks: list[list[np.ndarray]] = []
    while True:
        blocks.append(interleave(runners, feeds, seconds=seconds, block=block, warmup=block))
        timing = Timing(*(np.concatenate(b) for b in zip(*blocks, strict=True)), cpu_seconds=0.0)
        if settled(timing.ratio) or time.monotonic() - start + seconds > max_seconds:
            break
    cpu = time.process_time()
    for feed in feeds:
        runners[1].run(feed)
    return Timing(timing.baseline_ms, timing.artifact_ms, (time.process_time() - cpu) / len(feeds))
