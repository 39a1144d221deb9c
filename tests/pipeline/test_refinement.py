"""Which layers go back to float, on routes whose times and errors are known beforehand."""

import time
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest

from calibration.errors import UnsupportedError
from pipeline.refinement import LEAST_WITH_ENDS, Refinement, grouped
from pipeline.trials import Trial
from targets.target import Candidate, Region


def region(name: str) -> Region:
    return Region(name, (f"{name}.product", f"{name}.rest"))


@dataclass
class KnownBench:
    """A model whose layers add up.

    in_int8, in_float: milliseconds of each layer; noise: of its int8, as power; allowed: the most that is right.
    """

    in_int8: dict[str, float]
    in_float: dict[str, float]
    noise: dict[str, float] = field(default_factory=dict)
    allowed: float = 1e9
    kept: list[Trial] = field(default_factory=list)
    capabilities: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(executes_here=True))

    def route(self, kinds: tuple[Region, ...] = ()) -> Trial:
        regions = tuple(region(name) for name in self.in_int8)
        candidate = Candidate("route", "int8", lambda *_: None, lambda: regions, lambda: kinds)
        return Trial("route", "int8", candidate, package=object(), make_seconds=1e-6)

    def _is_float(self, trial: Trial, name: str) -> bool:
        return trial.in_float.issuperset(region(name).nodes)

    def milliseconds(self, trial: Trial) -> float:
        return sum(self.in_float[n] if self._is_float(trial, n) else t for n, t in self.in_int8.items())

    def power(self, trial: Trial) -> float:
        return 1e-9 + sum(p for n, p in self.noise.items() if not self._is_float(trial, n))

    def variant(self, of: Trial, in_float: frozenset[str]) -> Trial:
        made = replace(of, in_float=in_float, wrong="", why="")
        self.kept.append(made)
        return made

    def discard(self, trial: Trial) -> None:
        self.kept.remove(trial)

    def noise_db(self, trial: Trial) -> float:
        return float(-10 * np.log10(self.power(trial)))

    def check(self, trial: Trial) -> None:
        trial.wrong = trial.why = "wrong" if self.power(trial) > self.allowed else ""

    def time(self, trials: list[Trial], _seconds: float) -> None:
        for trial in trials:
            wobble = np.random.default_rng(0).normal(1, 1e-3, (20, 10))
            trial.latencies_ms = self.milliseconds(trial) * wobble


def refine(bench: KnownBench, seconds: float = 60.0) -> Refinement:
    return Refinement(bench, time.monotonic() + seconds)


LAYERS = [f"layer{i}" for i in range(6)]


def test_all_that_is_slower_in_int8_goes_back_and_nothing_else():
    slower = {"layer0", "layer3", "layer5"}
    bench = KnownBench(dict.fromkeys(LAYERS, 1.0), {n: 0.6 if n in slower else 2.0 for n in LAYERS})
    route, refinement = bench.route(), refine(bench)
    made = refinement.faster(route, refinement.sensitivities(route))
    assert made.name == "route-mixed"
    assert made.in_float == {node for n in slower for node in region(n).nodes}
    assert made.note == "in float: layer0, layer3, layer5"


def test_a_route_that_is_fastest_as_it_is_stays():
    bench = KnownBench(dict.fromkeys(LAYERS, 1.0), dict.fromkeys(LAYERS, 1.5))
    route, refinement = bench.route(), refine(bench)
    assert refinement.faster(route, refinement.sensitivities(route)) is route
    assert bench.kept == []


def test_a_kind_of_operator_goes_back_as_a_whole():
    # Each alone is lost in the clock's noise; together they show.
    bench = KnownBench(dict.fromkeys(LAYERS, 1.0), dict.fromkeys(LAYERS, 0.9996))
    every = Region("every Add", tuple(node for n in LAYERS for node in region(n).nodes))
    bench.in_float["layer0"] = bench.in_float["layer1"] = 0.5
    route, refinement = bench.route((every,)), refine(bench)
    made = refinement.faster(route, refinement.sensitivities(route))
    assert bench.milliseconds(made) <= 5.0


def test_the_note_counts_what_no_region_names():
    bench = KnownBench(dict.fromkeys(LAYERS, 1.0), dict.fromkeys(LAYERS, 2.0) | {"layer0": 0.2})
    route, refinement = bench.route(), refine(bench)
    known = refinement.sensitivities(route)
    both = frozenset((*region("layer0").nodes, "layer1.rest", "layer2.rest"))
    assert refinement.moved(route, both).note == "in float: 4 nodes"
    mixed = refinement.faster(replace(route, in_float=frozenset(("layer1.rest", "layer2.rest"))), known)
    assert mixed.note == "in float: layer0, 2 more nodes"


def test_a_region_whose_float_form_cannot_answer_is_left_out():
    class Mute(KnownBench):
        def noise_db(self, trial: Trial) -> float:
            if self._is_float(trial, "layer1"):
                raise UnsupportedError("it is not known how layer1 sums")
            return super().noise_db(trial)

    bench = Mute(dict.fromkeys(LAYERS, 1.0), dict.fromkeys(LAYERS, 2.0))
    found = refine(bench).sensitivities(bench.route())
    assert [s.region.name for s in found] == [name for name in LAYERS if name != "layer1"]
    assert bench.kept == []


def test_what_makes_it_faster_and_wrong_is_not_taken():
    class Fragile(KnownBench):
        def power(self, trial: Trial) -> float:
            return 1.0 if self._is_float(trial, "layer0") else 1e-9

    bench = Fragile(dict.fromkeys(LAYERS, 1.0), dict.fromkeys(LAYERS, 2.0) | {"layer0": 0.2}, allowed=0.5)
    route, refinement = bench.route(), refine(bench)
    assert refinement.faster(route, refinement.sensitivities(route)) is route


def test_a_wrong_route_is_repaired_by_the_layer_that_is_the_error():
    noise = dict.fromkeys(LAYERS, 1e-6) | {"layer2": 1.0}
    bench = KnownBench(dict.fromkeys(LAYERS, 1.0), dict.fromkeys(LAYERS, 2.0), noise, allowed=1e-3)
    route, refinement = bench.route(), refine(bench)
    made = refinement.repaired(route, refinement.sensitivities(route))
    assert made is not None
    assert made.in_float == set(region("layer2").nodes)
    assert len(bench.kept) == 1


def test_what_would_have_to_be_float_for_the_most_part_is_not_repaired():
    bench = KnownBench(dict.fromkeys(LAYERS, 1.0), dict.fromkeys(LAYERS, 2.0), dict.fromkeys(LAYERS, 1.0), allowed=0.5)
    route, refinement = bench.route(), refine(bench)
    assert refinement.repaired(route, refinement.sensitivities(route)) is None
    assert bench.kept == []


def test_when_there_is_no_time_nothing_is_looked_into():
    bench = KnownBench(dict.fromkeys(LAYERS, 1.0), dict.fromkeys(LAYERS, 0.5))
    route, refinement = bench.route(), refine(bench, seconds=0)
    assert refinement.sensitivities(route) == []
    assert refinement.faster(route, []) is route


def test_of_a_group_that_repairs_only_the_part_that_does_stays_float():
    names = [f"layer{i}" for i in range(60)]
    noise = dict.fromkeys(names, 1e-9) | {"layer31": 1.0}
    bench = KnownBench(dict.fromkeys(names, 1.0), dict.fromkeys(names, 2.0), noise, allowed=1e-3)
    route, refinement = bench.route(), refine(bench)
    made = refinement.repaired(route, refinement.sensitivities(route))
    assert made is not None
    assert made.in_float == set(region("layer31").nodes)
    assert made.note == "in float: layer31"


@pytest.mark.parametrize(("regions", "most"), [(3, 5), (24, 24), (25, 24), (100, 24), (7, 1)])
def test_groups_hold_every_region_once_and_in_order(regions, most):
    given = [region(f"r{i}") for i in range(regions)]
    groups = grouped(given, most)
    assert len(groups) == min(regions, most)
    assert [node for group in groups for node in group.nodes] == [node for r in given for node in r.nodes]
    between = groups[1:-1] if most >= LEAST_WITH_ENDS else groups
    assert max(len(g.nodes) for g in between) - min(len(g.nodes) for g in between) <= 2
    if regions > most >= LEAST_WITH_ENDS:
        assert [groups[0].nodes, groups[-1].nodes] == [given[0].nodes, given[-1].nodes]
