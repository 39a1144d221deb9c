"""How long a loaded model takes, and how that compares with another on the same machine at the same time."""

from __future__ import annotations

import gc
from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

import numpy as np

from targets.device.fresh import fresh_process, load_ms, peak_memory_bytes
from targets.device.intervals import bounds95, percentiles, ratio_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "block_size",
    "bounds95",
    "fresh_process",
    "interleave",
    "load_ms",
    "peak_memory_bytes",
    "percentiles",
    "ratio_interval",
]

MIN_BLOCKS = 8
# Short against a noisy neighbour's time slice, long against the clock's resolution.
BLOCK_MS = 20.0


class Runs(Protocol):
    """What is timed: a Runner, or anything that answers feeds as one does."""

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Input name -> array; output name -> array."""
        ...


def interleave(
    runners: Sequence[Runs],
    feeds: Sequence[dict[str, np.ndarray]],
    *,
    seconds: float,
    block: int,
    warmup: int,
) -> list[np.ndarray]:
    """Latencies in ms of each runner, [blocks, block], for about `seconds` in all.

    Each round times one block of every runner on the same feeds; the order rotates from round to round (A B, B A, ...),
    so that neither always comes first and a drift of the machine's speed falls on both alike. A block begins with one
    call that is not counted, since in use no other model has just emptied the caches. Python's garbage collector rests.
    At least MIN_BLOCKS blocks are timed, however long they take.
    """
    _warm(runners, feeds, warmup)
    times: list[list[np.ndarray]] = [[] for _ in runners]
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        deadline = perf_counter_ns() + int(seconds * 1e9)
        rounds = 0
        while rounds < MIN_BLOCKS or perf_counter_ns() < deadline:
            batch = [feeds[(rounds * block + i) % len(feeds)] for i in range(block)]
            for turn in range(len(runners)):
                index = (rounds + turn) % len(runners)
                times[index].append(_time_block(runners[index], batch))
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return [np.stack(blocks) / 1e6 for blocks in times]


def _warm(runners: Sequence[Runs], feeds: Sequence[dict[str, np.ndarray]], calls: int) -> None:
    for i in range(calls):
        for runner in runners:
            runner.run(feeds[i % len(feeds)])


def _time_block(runner: Runs, batch: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Nanoseconds of each call, [len(batch)] float64."""
    times = np.empty(len(batch))
    run = runner.run
    run(batch[0])
    for i, feed in enumerate(batch):
        start = perf_counter_ns()
        run(feed)
        times[i] = perf_counter_ns() - start
    return times


def block_size(runners: Sequence[Runs], feeds: Sequence[dict[str, np.ndarray]], seconds: float = float("inf")) -> int:
    """Calls a block such that a block of the fastest runner takes about BLOCK_MS; from 1 to 200.

    seconds: MIN_BLOCKS of all runners are to fit in; blocks are then shorter.
    """
    _warm(runners, feeds, 3)
    each_ms = [max(float(np.median(_time_block(runner, [feeds[0]] * 5))) / 1e6, 1e-6) for runner in runners]
    # A block has one more call, which is not counted.
    fitting = seconds * 1e3 / MIN_BLOCKS / sum(each_ms) - 1
    return int(min(200, max(1, min(BLOCK_MS / min(each_ms), fitting))))
