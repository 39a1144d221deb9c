import gc
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from targets.device.errors import BundleError, UnsuitedError
from targets.device.fresh import fresh_process
from targets.device.measure import (
    MIN_BLOCKS,
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


def test_every_loading_is_a_block_and_each_model_takes_every_place_in_the_order_of_loading():
    loaded = []

    def load(name):
        loaded.append(name)
        return Clockwork(name, 50, [])

    loadings = Loadings([lambda name=name: load(name) for name in "abc"], [{"x": np.array([0])}], warmup=1)
    once = loadings.measure(0.05, loadings=3)
    assert "".join(loaded) == "abcbcacab"
    assert len({times.shape for times in once}) == 1
    assert len(once[0]) == 3
    twice = loadings.measure(5.0, loadings=2)  # as many calls a loading as before, whatever the time
    assert [times.shape for times in twice] == [(5, once[0].shape[1])] * 3
    assert all((times[:3] == before).all() for times, before in zip(twice, once, strict=True))


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

    Loadings([load, load], [{"x": np.array([0])}], warmup=1).measure(0.01, loadings=3)
    assert most == [1, 2] * 3


def test_what_a_loading_has_to_itself_is_no_difference_of_models():
    """The same model twice; each loading of it is up to some percent slower than it need be."""
    rng = np.random.default_rng(0)

    def load():
        return Clockwork("a", 100 * rng.uniform(1.0, 1.2), [])

    ratio = ratio_interval(*Loadings([load, load], [{"x": np.array([0])}], warmup=1).measure(0.5))
    assert ratio["low95"] < 1 < ratio["high95"]
    held = [load(), load()]
    one = ratio_interval(*interleave(held, [{"x": np.array([0])}], seconds=0.2, block=20, warmup=1))
    slower, faster = (held[0].microseconds, held[1].microseconds)
    assert one["value"] == pytest.approx(slower / faster, rel=0.02)


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
