"""Leaves in float what int8 makes slower or wrong: one decision at a time, each by measurement.

A product of few channels, or a layer between two float operators, can cost more in int8 than it saves; one layer in ten
can be all of the error. Which ones depends on the runtime's kernels and on the model, so that no rule finds them.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from calibration.errors import EdgewrightError
from targets.device.errors import DeviceError
from targets.device.measure import ratio_interval
from targets.target import Region

if TYPE_CHECKING:
    from pipeline.trials import Bench, Trial

# More than so many regions at once are neighbours taken together: each is a model to make, load and time.
MOST_REGIONS = 24
FEWEST_REGIONS = 3
LEAST_WITH_ENDS = 4
ROUNDS = 3
# What costs more than that alone does not win by what else is in float.
MAY_HELP = 0.9
# Of the time that is left: for making what a round compares.
SHARE_OF_MAKING = 0.4
SECONDS_OF_TIMING = (1.0, 6.0)
# Where more than this share of the regions would have to be float, int8 is not what the model wants.
MOST_IN_FLOAT = 0.5
# Ends the name of a route that leaves some layers in float.
MIXED = "-mixed"


@dataclass(frozen=True)
class Sensitivity:
    """What a region in float changes while the rest is as it was.

    noise_db: of the signal-to-noise ratio of the answers, positive where they get better.
    ratio: time before / time with it in float: {value, low95, high95}; None where nothing can be timed.
    """

    region: Region
    noise_db: float
    ratio: dict[str, float] | None

    def record(self, in_float: frozenset[str]) -> dict[str, Any]:
        """As it stands in choice.json."""
        return {
            "region": self.region.name,
            "nodes": list(self.region.nodes),
            "noise_db": round(self.noise_db, 3),
            "ratio": self.ratio,
            "in_float": [node for node in self.region.nodes if node in in_float],
        }


@dataclass
class Refinement:
    """bench: where variants are made and timed. deadline: of time.monotonic(), by which the last round has to be over.

    progress: told what is being done.
    """

    bench: "Bench"
    deadline: float
    progress: Callable[[str], None] = lambda _text: None

    def sensitivities(self, trial: "Trial") -> list[Sensitivity]:
        """Of each region that can be left in float, in the graph's order; empty where there is none, or no time."""
        regions = self._regions(trial)
        if not regions:
            return []
        self.progress(f"{trial.name}: {len(regions)} regions")
        before = self.bench.noise_db(trial)
        made = self._variants(trial, regions)
        timed = self._timed(trial, [variant for _, variant in made])
        found: list[Sensitivity] = []
        for (region, variant), ratio in zip(made, timed, strict=True):
            # What cannot answer, or not be imitated, is no choice: the route itself goes on.
            with suppress(EdgewrightError, DeviceError):
                found.append(Sensitivity(region, self.bench.noise_db(variant) - before, ratio))
            self.bench.discard(variant)
        return found

    def faster(self, trial: "Trial", known: Sequence[Sensitivity]) -> "Trial":
        """The route with those regions in float without which it is faster; itself where there are none.

        known: its sensitivities.
        """
        if trial.candidate is None or not known:
            return trial
        current = trial
        moves = [(s.region, s.ratio) for s in known if s.ratio]
        kinds = [kind for kind in trial.candidate.kinds() if not self._late(trial)]
        moves += self._rated(current, kinds)
        for _ in range(ROUNDS):
            # What may help: many are timed at once, each for a short time. What is taken of them has to be clear.
            helpful = sorted((m for m in moves if m[1]["value"] > 1.0), key=lambda m: -m[1]["value"])
            better = self._best_union(current, [region for region, _ in helpful])
            if better is None:
                break
            if current is not trial:
                self.bench.discard(current)
            current = better
            if self._late(trial):
                break
            left = [
                s.region
                for s in known
                if s.ratio and s.ratio["value"] > MAY_HELP and not current.in_float.issuperset(s.region.nodes)
            ]
            moves = self._rated(current, left)
        return _named(current, trial, known)

    def moved(self, trial: "Trial", in_float: frozenset[str]) -> "Trial":
        """The route with these nodes in float, if that is right and faster than it is without; else itself."""
        variant = self.bench.variant(trial, in_float)
        if variant is None:
            return trial
        [ratio] = self._timed(trial, [variant])
        if ratio and ratio["low95"] > 1.0 and self._is_right(variant):
            return _named(variant, trial, ())
        self.bench.discard(variant)
        return trial

    def repaired(self, trial: "Trial", known: Sequence[Sensitivity]) -> "Trial | None":
        """A route whose answers are wrong, with as many regions in float as make them right; None where too many would.

        The next region is the one that takes away the most noise for the time it costs.
        """
        order = sorted((s for s in known if s.noise_db > 0), key=lambda s: -_worth(s))
        in_float: frozenset[str] = frozenset()
        for position, sensitivity in enumerate(order[: max(1, int(MOST_IN_FLOAT * len(known)))], 1):
            if time.monotonic() > self.deadline:
                return None
            in_float |= frozenset(sensitivity.region.nodes)
            self.progress(f"{trial.name}: {position} of {len(known)} regions in float")
            variant = self._right_variant(trial, in_float)
            if variant is not None:
                return _named(self._with_a_part(variant, sensitivity.region), trial, known)
        return None

    def _with_a_part(self, variant: "Trial", region: Region) -> "Trial":
        """The same with only one part of the region that made it right in float, where that is enough, and faster."""
        for part in region.parts:
            if time.monotonic() > self.deadline:
                break
            fewer = self._right_variant(variant, variant.in_float.difference(region.nodes).union(part.nodes))
            if fewer is None:
                continue
            [ratio] = self._timed(variant, [fewer])
            worse, better = (fewer, variant) if ratio and ratio["low95"] < 1.0 else (variant, fewer)
            self.bench.discard(worse)
            variant = better
        return variant

    def _right_variant(self, trial: "Trial", in_float: frozenset[str]) -> "Trial | None":
        variant = self.bench.variant(trial, in_float)
        if variant is None or self._is_right(variant):
            return variant
        self.bench.discard(variant)
        return None

    def _regions(self, trial: "Trial") -> Sequence[Region]:
        if trial.candidate is None or trial.package is None:
            return ()
        regions = trial.candidate.regions()
        if regions and time.monotonic() < self.deadline:
            # Its own making includes what was decided then; a variant's tells what a further one takes.
            probe = self.bench.variant(trial, frozenset(regions[0].nodes))
            if probe is not None:
                trial.make_seconds = probe.make_seconds
                self.bench.discard(probe)
        left = (self.deadline - time.monotonic()) * SHARE_OF_MAKING
        most = min(MOST_REGIONS, int(left / max(trial.make_seconds, 1e-3)))
        return grouped(regions, most) if min(most, len(regions)) >= FEWEST_REGIONS else ()

    def _late(self, trial: "Trial") -> bool:
        return time.monotonic() + FEWEST_REGIONS * trial.make_seconds > self.deadline

    def _variants(self, trial: "Trial", regions: Iterable[Region]) -> "list[tuple[Region, Trial]]":
        """Of each region that is not in float yet, the route with it there too; those that can be made."""
        made: list[tuple[Region, Trial]] = []
        for region in regions:
            if trial.in_float.issuperset(region.nodes) or time.monotonic() > self.deadline:
                continue
            variant = self.bench.variant(trial, trial.in_float.union(region.nodes))
            if variant is not None:
                made.append((region, variant))
        return made

    def _timed(self, trial: "Trial", variants: "Sequence[Trial]") -> list[dict[str, float] | None]:
        if not self.bench.capabilities.executes_here or not variants:
            return [None] * len(variants)
        least, most = SECONDS_OF_TIMING
        self.bench.time([trial, *variants], max(least, min(most, self.deadline - time.monotonic())))
        return [ratio_interval(trial.latencies_ms, variant.latencies_ms) for variant in variants]

    def _rated(self, trial: "Trial", regions: Sequence[Region]) -> list[tuple[Region, dict[str, float]]]:
        made = self._variants(trial, regions)
        ratios = self._timed(trial, [variant for _, variant in made])
        for _, variant in made:
            self.bench.discard(variant)
        return [(region, ratio) for (region, _), ratio in zip(made, ratios, strict=True) if ratio]

    def _best_union(self, trial: "Trial", helpful: Sequence[Region]) -> "Trial | None":
        """What helps alone need not help together: the best few, the best more and all of them are timed again."""
        sizes = sorted({size for size in (1, 2, 3, 5, 8, 13, len(helpful)) if size <= len(helpful)} - {0})
        unions = [Region("", tuple(n for region in helpful[:size] for n in region.nodes)) for size in sizes]
        made = [variant for _, variant in self._variants(trial, unions)]
        ratios = self._timed(trial, made)
        best: Trial | None = None
        reached = 0.0
        for variant, ratio in zip(made, ratios, strict=True):
            if ratio and ratio["low95"] > 1.0 and ratio["value"] > reached and self._is_right(variant):
                best, reached = variant, ratio["value"]
        for variant in made:
            if variant is not best:
                self.bench.discard(variant)
        return best

    def _is_right(self, variant: "Trial") -> bool:
        try:
            self.bench.check(variant)
        except (EdgewrightError, DeviceError):
            return False
        return not variant.wrong


def grouped(regions: Sequence[Region], most: int) -> Sequence[Region]:
    """At most `most` regions: neighbours are taken together, about as many in each.

    The first and the last, which have few channels and are most often another matter than the rest, stay alone.
    """
    if len(regions) <= most:
        return regions
    alone = most >= LEAST_WITH_ENDS
    between = regions[1:-1] if alone else regions
    parts = most - 2 if alone else most
    bounds = [round(i * len(between) / parts) for i in range(parts + 1)]
    groups = [between[a:b] for a, b in pairwise(bounds)]
    if alone:
        groups = [regions[:1], *groups, regions[-1:]]
    return [
        Region(
            group[0].name if len(group) == 1 else f"{group[0].name} to {group[-1].name}",
            tuple(name for region in group for name in region.nodes),
            tuple(group) if len(group) > 1 else (),
        )
        for group in groups
    ]


def _all_in(in_float: frozenset[str], region: Region) -> list[Region]:
    """What is all in float: the region, or those of its parts that are."""
    if in_float.issuperset(region.nodes):
        return [region]
    return [part for part in region.parts if in_float.issuperset(part.nodes)]


def _worth(sensitivity: Sensitivity) -> float:
    """Noise taken away for the time it costs; what costs none, or saves some, first."""
    cost = 0.0 if sensitivity.ratio is None else 1.0 / sensitivity.ratio["value"] - 1.0
    return sensitivity.noise_db / max(cost, 1e-3)


def _named(variant: "Trial", of: "Trial", known: Sequence[Sensitivity]) -> "Trial":
    if variant is of:
        return of
    whole = [region for s in known for region in _all_in(variant.in_float, s.region)]
    others = len(variant.in_float.difference(*(region.nodes for region in whole)))
    words = [region.name for region in whole] + ([f"{others} {'more ' if whole else ''}nodes"] if others else [])
    note = f"in float: {', '.join(words)}"
    return replace(variant, name=f"{of.name.removesuffix(MIXED)}{MIXED}", note=note)
