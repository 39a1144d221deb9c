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
# Of each model in one measurement.
LOADINGS = 12
# Fewer would leave their spread to chance; so many are taken of models that are slow to load or to run.
MIN_LOADINGS = 6
# More than MIN_LOADINGS take at most so many times the seconds that are asked for, loading included.
STRETCH = 3.0
# In one loading; fewer where models are slow.
ROUNDS, MIN_ROUNDS = 4, 2


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
    """Latencies of models in turn, each of them loaded anew again and again.

    Where the weights and buffers of a session come to lie makes one loading up to some percent faster than another of
    the very same model, for as long as it lives (Mytkowicz et al. 2009, Producing wrong data without doing anything
    obviously wrong), and what is loaded or timed first does so otherwise than what is last. So a loading is one
    observation (Kalibera and Jones 2013, Rigorous benchmarking in reasonable time), and the order rotates.

    loaders: each loads a model. feeds: that all are timed on. warmup: calls that are not counted, at most, of each
    loading. times: ms, [loadings, calls] of each model, all so far.
    """

    loaders: Sequence[Callable[[], Runs]]
    feeds: Sequence[dict[str, np.ndarray]]
    warmup: int
    times: list[np.ndarray] = field(init=False, default_factory=list)
    _block: int = field(init=False, default=0)
    _rounds: int = field(init=False, default=0)
    _done: int = field(init=False, default=0)

    def measure(self, seconds: float) -> list[np.ndarray]:
        """All latencies, after LOADINGS more of about `seconds` in all. Raises what loading a model raises.

        The first call decides how many calls a loading makes. Loading is not in `seconds`: models for which it takes
        long get fewer loadings.
        """
        start, wanted, taken = perf_counter_ns(), LOADINGS, 0
        while taken < wanted:
            found = self._load_and_time(seconds / LOADINGS)
            self.times = [np.concatenate(both) for both in zip(self.times, found)] if self.times else found
            taken += 1
            each_seconds = (perf_counter_ns() - start) / 1e9 / taken
            wanted = max(MIN_LOADINGS, min(LOADINGS, int(STRETCH * seconds / each_seconds)))
        return self.times

    def _load_and_time(self, seconds: float) -> list[np.ndarray]:
        """One loading: [1, calls] of each model."""
        count, first = len(self.loaders), self._done % len(self.loaders)
        order = [(first + turn) % count for turn in range(count)]
        runners = [self.loaders[index]() for index in order]
        if not self._block:
            each_ms = typical_ms(runners, self.feeds)
            self._block = block_of(each_ms, seconds, ROUNDS)
            self._rounds = max(MIN_ROUNDS, int(seconds * 1e3 / ((self._block + 1) * sum(each_ms))))
        turned = self._done * self._rounds * self._block % len(self.feeds)
        # What is loaded first is timed first too: the machine still settles then, which falls on each model in turn.
        found = interleave(
            runners,
            [*self.feeds[turned:], *self.feeds[:turned]],
            seconds=0,
            block=self._block,
            # Of a slow model no more than are timed.
            warmup=min(self.warmup, self._block * MIN_ROUNDS),
            least=self._rounds,
        )
        self._done += 1
        return [found[order.index(index)].reshape(1, -1) for index in range(count)]


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
    return block_of(typical_ms(runners, feeds), seconds, MIN_BLOCKS)


def typical_ms(runners: Sequence[Runs], feeds: Sequence[dict[str, np.ndarray]]) -> list[float]:
    """About how long a call of each takes, above 0."""
    _warm(runners, feeds, 3)
    return [max(float(np.median(_time_block(runner, [feeds[0]] * 5))) / 1e6, 1e-6) for runner in runners]


def block_of(each_ms: Sequence[float], seconds: float, blocks: int) -> int:
    """Calls a block, see block_size. each_ms: of a call of each runner. blocks: of all runners that are to fit in."""
    # A block has one more call, which is not counted.
    fitting = seconds * 1e3 / blocks / sum(each_ms) - 1
    return int(min(200, max(1, min(BLOCK_MS / min(each_ms), fitting))))
