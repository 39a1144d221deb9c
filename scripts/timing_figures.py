"""How often an interval at 95% tells a model from itself: over loadings, and over blocks of one loading."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from targets.device.measure import Loadings, block_size, interleave, ratio_interval
from targets.device.runners import load_runner

RUNNERS = ("onnxruntime_cpu", "openvino")
SECONDS = 1.0
WARM_UP = 10


@dataclass(frozen=True)
class Agreement:
    """measured: how many times a model was timed against itself; in how many the interval does not hold 1."""

    measured: int
    over_loadings: int
    by_one_loading: int


def told_apart(model: Path, feeds: Sequence[dict[str, np.ndarray]], repeats: int) -> Agreement:
    """An ONNX model against itself, `repeats` times in each runtime, both ways in turn, for as long."""
    over_loadings = by_one_loading = 0
    for runner in RUNNERS:
        load = partial(load_runner, runner, model.parent, [model.name], {"threads": 1})
        for _ in range(repeats):
            over_loadings += differs(Loadings([load, load], feeds, WARM_UP).measure(SECONDS))
            pair = [load(), load()]
            block = block_size(pair, feeds)
            by_one_loading += differs(interleave(pair, feeds, seconds=SECONDS, block=block, warmup=WARM_UP))
    return Agreement(repeats * len(RUNNERS), over_loadings, by_one_loading)


def differs(times: Sequence[np.ndarray]) -> bool:
    one, other = times
    ratio = ratio_interval(one, other)
    return not ratio["low95"] <= 1 <= ratio["high95"]
