import gc
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from targets.device.errors import BundleError, UnsuitedError
from targets.device.fresh import fresh_process
from targets.device.measure import (
    LOADINGS,
    MIN_BLOCKS,
    MIN_LOADINGS,
    MIN_ROUNDS,
    Loadings,
    block_size,
    interleave,
    load_ms,
    peak_memory_bytes,
    ratio_interval,
)
from targets.device.runners import load_runner
from tests.bundles import layers, make_bundle, write_model

OPTIONS = {"threads": 1}
FEEDS = [{"pixel_values": np.full((1, 1, 8, 8), i, np.float32)} for i in range(3)]


@dataclass
class Clockwork:
    """A model that takes a set time and writes down when it was called."""

    name: str
    microseconds: float
    calls: list[tuple[str, int]]
    collecting: set[bool] = field(default_factory=set)

    def run(self, feeds):
        self.calls.append((self.name, int(feeds["x"][0])))
        self.collecting.add(gc.isenabled())
        end = time.perf_counter_ns() + self.microseconds * 1000
        while time.perf_counter_ns() < end:
            pass
        return feeds


def test_blocks_alternate_and_every_model_sees_the_same_feeds():
    calls = []
    a, b = (Clockwork(name, 1, calls) for name in "ab")
    feeds = [{"x": np.array([i])} for i in range(5)]
    times = interleave([a, b], feeds, seconds=0, block=3, warmup=2)
    assert [t.shape for t in times] == [(MIN_BLOCKS, 3)] * 2
    blocks = [calls[4:][i : i + 4] for i in range(0, len(calls) - 4, 4)]
    assert "".join(block[0][0] for block in blocks) == "abba" * (MIN_BLOCKS // 2)
    for i in range(0, len(blocks), 2):
        assert [x for _, x in blocks[i]] == [x for _, x in blocks[i + 1]]
        assert blocks[i][0][1] == blocks[i][1][1]


def test_the_garbage_collector_rests_while_timing_and_works_again_after():
    model = Clockwork("a", 1, [])
    interleave([model], [{"x": np.array([0])}], seconds=0, block=1, warmup=0)
    assert model.collecting == {False}
    assert gc.isenabled()


def test_a_planted_factor_of_two_is_measured():
    slow, fast = Clockwork("a", 400, []), Clockwork("b", 200, [])
    times = interleave([slow, fast], [{"x": np.array([0])}], seconds=0.3, block=5, warmup=2)
    assert ratio_interval(times[0], times[1])["value"] == pytest.approx(2, rel=0.15)


def test_a_block_is_long_against_the_clock_and_never_empty():
    feeds = [{"x": np.array([0])}]
    assert block_size([Clockwork("a", 1000, []), Clockwork("b", 4000, [])], feeds) in range(5, 21)
    assert block_size([Clockwork("a", 40_000, [])], feeds) == 1


def test_blocks_of_all_fit_into_the_time_that_there_is():
    feeds = [{"x": np.array([0])}]
    runners = [Clockwork("a", 1000, []), Clockwork("b", 4000, [])]
    block = block_size(runners, feeds, seconds=0.2)
    assert 1 <= block <= 4
    assert block_size(runners, feeds, seconds=0.01) == 1


def loadings_of(names: str, log: list[str], microseconds: float = 50) -> tuple[Loadings, list[tuple[str, int]]]:
    """Of clockworks, which write down that they are loaded, and the calls that they get."""
    calls: list[tuple[str, int]] = []

    def load(name):
        log.append(name)
        return Clockwork(name, microseconds, calls)

    feeds = [{"x": np.array([i])} for i in range(10)]
    return Loadings([lambda name=name: load(name) for name in names], feeds, warmup=1), calls


def test_each_model_is_loaded_in_every_place_and_goes_on_so():
    log = []
    loadings, _ = loadings_of("abc", log)
    once = loadings.measure(1.0)
    first = len(once[0])
    assert MIN_LOADINGS <= first <= LOADINGS
    assert {times.shape for times in once} == {once[0].shape}
    again = loadings.measure(1.0)  # as many calls a loading as before
    assert "".join(log) == ("abcbcacab" * LOADINGS)[: len(log)]
    assert [times.shape for times in again] == [(len(log) // 3, once[0].shape[1])] * 3
    assert all((times[:first] == before).all() for times, before in zip(again, once, strict=True))


def test_few_calls_a_loading_go_through_all_feeds_and_each_model_goes_first():
    log = []
    loadings, calls = loadings_of("abc", log, microseconds=1500)
    times = loadings.measure(0.01)
    assert times[0].shape == (MIN_LOADINGS, MIN_ROUNDS)
    # After what is only for the size of a block: of each loading the warm-up, then rounds of each model's two calls.
    counted = calls[3 * 9 :]
    first, seen = [], set()
    for loading in range(MIN_LOADINGS):
        rounds = counted[loading * 15 + 3 : (loading + 1) * 15]
        first += [rounds[0][0], rounds[6][0]]
        seen |= {feed for _, feed in rounds}
    assert first == ["abc"[(loading + turn) % 3] for loading in range(MIN_LOADINGS) for turn in range(MIN_ROUNDS)]
    assert seen == set(range(10))


def test_no_two_loadings_are_held_at_once():
    alive, most = set(), []

    class Model(Clockwork):
        def __del__(self):
            alive.discard(id(self))

    def load():
        model = Model("a", 1, [])
        alive.add(id(model))
        most.append(len(alive))
        return model

    Loadings([load, load], [{"x": np.array([0])}], warmup=1).measure(0.01)
    assert most == [1, 2] * (len(most) // 2)


def test_a_loading_that_fails_is_said_and_what_was_measured_stays():
    loadings, _ = loadings_of("a", [])
    before = [times.copy() for times in loadings.measure(0.01)]
    loadings.loaders = [lambda: load_runner("imaginary", Path(), [], {})]
    with pytest.raises(UnsuitedError, match="imaginary"):
        loadings.measure(0.01)
    assert (loadings.times[0] == before[0]).all()


def test_a_larger_model_takes_longer_and_more_memory(tmp_path):
    payload = make_bundle(tmp_path) / "payload"
    write_model(tmp_path / "large.onnx", layers(depth=6, width=1024))
    runners = [
        load_runner("onnxruntime_cpu", folder, [name], OPTIONS)
        for folder, name in ((tmp_path, "large.onnx"), (payload, "model.onnx"))
    ]
    times = interleave(runners, FEEDS, seconds=0.2, block=5, warmup=3)
    assert ratio_interval(times[0], times[1])["low95"] > 2
    weights_bytes = 5 * 1024 * 1024 * 4
    golden = payload / "golden.npz"
    small = fresh_process("onnxruntime_cpu", payload, ["model.onnx"], OPTIONS, golden)
    large = peak_memory_bytes("onnxruntime_cpu", tmp_path, ["large.onnx"], OPTIONS, golden)
    assert 0 < small.peak_memory_bytes < weights_bytes < large < 8 * weights_bytes
    assert small.load_ms > 0


def test_what_goes_wrong_in_the_fresh_process_is_said_as_if_here(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x08not a model")
    with pytest.raises(BundleError, match=r"broken\.onnx: onnxruntime does not load it"):
        load_ms("onnxruntime_cpu", tmp_path, ["broken.onnx"], OPTIONS)
    with pytest.raises(UnsuitedError, match="'imaginary' is not known"):
        load_ms("imaginary", tmp_path, ["broken.onnx"], OPTIONS)
