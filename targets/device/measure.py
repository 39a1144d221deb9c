"""How long a loaded model takes, and how that compares with another on the same machine at the same time."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

import numpy as np

from targets.device.fresh import fresh_process, load_ms, peak_memory_bytes
from targets.device.intervals import bounds95, percentiles, ratio_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "Loadings",
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
# Of each model in one measurement. Fewer would leave their spread to chance; each costs the time to load all.
LOADINGS = 12
# In one loading: each model goes first once, where there are two.
MIN_ROUNDS = 2


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
    least: int = MIN_BLOCKS,
) -> list[np.ndarray]:
    """Latencies in ms of each runner, [blocks, block], for about `seconds` in all.

    Each round times one block of every runner on the same feeds; the order rotates from round to round (A B, B A, ...),
    so that neither always comes first and a drift of the machine's speed falls on both alike. A block begins with one
    call that is not counted, since in use no other model has just emptied the caches. Python's garbage collector rests.
    At least `least` blocks are timed, however long they take. What one loading of a model has to itself is in all of
    its blocks: see Loadings.
    """
    _warm(runners, feeds, warmup)
    times: list[list[np.ndarray]] = [[] for _ in runners]
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        deadline = perf_counter_ns() + int(seconds * 1e9)
        rounds = 0
        while rounds < least or perf_counter_ns() < deadline:
            batch = [feeds[(rounds * block + i) % len(feeds)] for i in range(block)]
            for turn in range(len(runners)):
                index = (rounds + turn) % len(runners)
                times[index].append(_time_block(runners[index], batch))
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return [np.stack(blocks) / 1e6 for blocks in times]


@dataclass
class Loadings:
    """Latencies of models in turn, each of them loaded anew again and again; one loading is one block.

    Where the weights and buffers of a session come to lie makes one loading up to some percent faster than another of
    the very same model, for as long as it lives (Mytkowicz et al. 2009, Producing wrong data without doing anything
    obviously wrong), and what is loaded first lies elsewhere than what is loaded last. So the loading is what varies
    (Kalibera and Jones 2013, Rigorous benchmarking in reasonable time), and its order rotates.

    load: of each model. feeds: that all are timed on. times: ms, [loadings, calls] of each model, all so far.
    """

    load: Sequence[Callable[[], Runs]]
    feeds: Sequence[dict[str, np.ndarray]]
    warmup: int
    times: list[np.ndarray] = field(init=False, default_factory=list)
    _block: int = field(init=False, default=0)
    _rounds: int = field(init=False, default=0)

    def measure(self, seconds: float, loadings: int = LOADINGS) -> list[np.ndarray]:
        """All latencies, after so many more loadings of about `seconds` in all. Raises what loading a model raises.

        The first call decides how many calls a loading makes.
        """
        for loading in range(loadings):
            count = len(self.load)
            order = [(loading + turn) % count for turn in range(count)]
            loaded = {index: self.load[index]() for index in order}
            runners = [loaded[index] for index in range(count)]
            each_seconds = 0.0 if self._rounds else seconds / loadings
            self._block = self._block or block_size(runners, self.feeds, seconds / loadings, MIN_ROUNDS)
            found = interleave(
                *(runners, self.feeds),
                seconds=each_seconds,
                block=self._block,
                warmup=self.warmup,
                least=self._rounds or MIN_ROUNDS,
            )
            self._rounds = len(found[0])
            calls = [blocks.reshape(1, -1) for blocks in found]
            self.times = [np.concatenate(both) for both in zip(self.times, calls)] if self.times else calls
            # The next ones find the memory as these found it.
            del loaded, runners
        return self.times


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


def block_size(
    runners: Sequence[Runs],
    feeds: Sequence[dict[str, np.ndarray]],
    seconds: float = float("inf"),
    least: int = MIN_BLOCKS,
) -> int:
    """Calls a block such that a block of the fastest runner takes about BLOCK_MS; from 1 to 200.

    seconds: `least` blocks of all runners are to fit in; blocks are then shorter.
    """
    _warm(runners, feeds, 3)
    each_ms = [max(float(np.median(_time_block(runner, [feeds[0]] * 5))) / 1e6, 1e-6) for runner in runners]
    # A block has one more call, which is not counted.
    fitting = seconds * 1e3 / least / sum(each_ms) - 1
    return int(min(200, max(1, min(BLOCK_MS / min(each_ms), fitting))))
