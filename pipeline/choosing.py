"""Which quantization route ships: the fastest right one where routes can be timed here, else the first right one.

A route is first made as it is, and timed. Only those that are fast enough to win are made with care, and judged by
their answers; the fastest of them is then looked into, layer by layer.
"""

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline.refinement import Refinement, Sensitivity
from targets.device.measure import ratio_interval
from targets.onnx_graph import read_graph
from targets.onnx_quantized import is_of_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipeline.stage import Work
    from pipeline.trials import Bench, Trial
    from targets.target import Candidate, ModelPackage

# Less than that, over float or over a route before it in the target's order, is not worth other answers: the next
# measurement may not find it again, and a rebuild chooses the same.
WORTH_IT = 1.01
# Layers left in float have made a route that much faster; one that is further behind another as it is cannot win.
CATCHES_UP = 1.3
# Of the fastest routes so many are looked into, or made right, layer by layer.
MOST_REFINED = 2
SECONDS_EACH = 0.6
# Where it is decided what ships: routes differ by a few percent.
LAST_SECONDS_EACH = 2.0
# Where only whether one is faster than float is asked.
QUICK_SECONDS_EACH = 0.075


@dataclass
class Choosing:
    """candidates: in the target's order. seconds: for looking into routes, layer by layer, if `refine`.

    trials: all that was tried, the float model first, each with its reason once `choose` has returned.
    known: the sensitivities of the routes that were looked into.
    behind: what is not worth it however right it is: too slow, or where nothing is timed too large.
    """

    bench: "Bench"
    candidates: "Sequence[Candidate]"
    work: "Work"
    seconds: float
    refine: bool = True
    known: "dict[Candidate, list[Sensitivity]]" = field(default_factory=dict)
    behind: "list[Trial]" = field(init=False, default_factory=list)

    @cached_property
    def trials(self) -> "list[Trial]":
        return [self.float_trial]

    @property
    def float_trial(self) -> "Trial":
        return self.bench.float_trial

    def choose(self) -> "Trial":
        """What ships; the float model where no route is worth it."""
        return self._by_time() if self.bench.capabilities.executes_here else self._by_rule()

    def known_of(self, trial: "Trial") -> list[Sensitivity]:
        """The sensitivities of its route, as far as they were looked into."""
        return self.known.get(trial.candidate, []) if trial.candidate is not None else []

    def trainable(self, chosen: "Trial") -> "Trial | None":
        """Of the routes that lose too much, and are faster than what ships, the fastest that training could save."""
        wrong = [trial for trial in self.trials[1:] if trial.wrong and trial.compiled is not None]
        if self.bench.capabilities.executes_here:
            least = 1.0 if chosen is self.float_trial else speed(chosen)
            wrong = sorted((trial for trial in wrong if speed(trial) > least), key=speed, reverse=True)
        elif chosen is not self.float_trial:
            return None
        return next((trial for trial in wrong if can_be_trained(trial.made[0])), None)

    def _by_time(self) -> "Trial":
        """The fastest right one that is faster than float."""
        with self.work.measuring():
            sketches = self._sketches()
        made = self._made_with_care(sketches)
        if not self.refine:
            right = [trial for trial in made if not trial.why]
            if not right:
                return self._none_is_right()
            return fastest(self.float_trial, right, self.bench.held, one_loading=True)
        with self.work.measuring():
            made += self._refined(made)
            right = [trial for trial in self.trials if trial in made and not trial.why]
            if not right:
                return self._none_is_right()
            self.bench.time([self.float_trial, *right], LAST_SECONDS_EACH * (1 + len(right)), reload=True)
        return fastest(self.float_trial, right, self.bench.held)

    def _by_rule(self) -> "Trial":
        """The first of the target's order that is right, or can be made so; where its size is known, it is smaller."""
        able = self.bench.capabilities
        why = f"the first of the target's order that {self.bench.held}; not timed: {able.why_not}"
        for trial in self._in_order():
            # What the device builds is not what is written here: of that the size is known there.
            here = able.status != "deferred_build"
            if here and trial.figures["size_bytes"] >= self.float_trial.figures["size_bytes"]:
                trial.why = "is not smaller than float: {} bytes, float {}".format(
                    trial.figures["size_bytes"], self.float_trial.figures["size_bytes"]
                )
                self.behind.append(trial)
                continue
            trial.why, self.float_trial.why = why, f"{trial.name} is preferred"
            if self.refine and trial.candidate not in self.known:
                self._sensitivities(self._refinement(self.seconds), trial)
            return trial
        return self._none_is_right()

    def _in_order(self) -> "Iterator[Trial]":
        """Those that are right, one after the other; then what can be made of those that are wrong."""
        for position, candidate in enumerate(self.candidates):
            self._progress(position, candidate.name)
            trial = self.bench.attempt(candidate)
            self.trials.append(trial)
            if not trial.why:
                yield trial
        wrong = [trial for trial in self.trials[1:] if trial.wrong][:MOST_REFINED]
        yield from self._repaired(wrong)

    def _sketches(self) -> "list[Trial]":
        """Each route as it is, timed; without those that cannot be made."""
        sketches: list[Trial] = []
        for position, candidate in enumerate(self.candidates):
            self._progress(position, f"{candidate.name}, as it is")
            sketches.append(self.bench.sketch(candidate))
        self.trials += sketches
        made = [trial for trial in sketches if trial.compiled is not None]
        if made:
            self.bench.time([self.float_trial, *made], self._seconds(len(made)))
        return sorted(made, key=speed, reverse=True)

    def _made_with_care(self, sketches: "Sequence[Trial]") -> "list[Trial]":
        """Of routes as they are, fastest first, those that can win, made as well as can be and judged."""
        found: list[Trial] = []
        best = 1.0
        for sketch in sketches:
            if speed(sketch) * CATCHES_UP < best:
                sketch.why = f"as it is {speed(sketch):.2f} x the speed of float: too far behind"
                self.bench.discard(sketch)
                self.behind.append(sketch)
                continue
            self._progress(len(self.candidates) - 1, sketch.name)
            trial = self.bench.made_with_care(sketch)
            self.trials[self.trials.index(sketch)] = trial
            if trial.compiled is not None:
                found.append(trial)
            if not trial.why:
                best = max(best, speed(sketch))
        return found

    def _refined(self, made: "Sequence[Trial]") -> "list[Trial]":
        """What is new: the fastest wrong routes made right, then the fastest right ones made faster."""
        refinement = self._refinement(self.seconds)
        quickest = max((speed(trial) for trial in made if not trial.why), default=1.0)
        wrong = sorted((t for t in made if t.wrong and speed(t) > quickest), key=speed, reverse=True)[:MOST_REFINED]
        found = list(self._repaired(wrong, refinement))
        right = sorted((trial for trial in (*made, *found) if not trial.why), key=speed, reverse=True)
        best: Trial | None = None
        for position, trial in enumerate(right[:MOST_REFINED]):
            others = sum(not other.computes_like(trial) for other in right[position + 1 : MOST_REFINED])
            share = self._refinement((refinement.deadline - time.monotonic()) / (1 + others))
            better = share.moved(trial, best.in_float) if best is not None and best.in_float else trial
            if best is None or not trial.computes_like(best):
                better = share.faster(better, self._sensitivities(share, trial))
            if better is not trial:
                found.append(better)
                self.trials.append(better)
                if trial in found:  # a step on the way
                    self.trials.remove(trial)
                    found.remove(trial)
            best = best or better
        return found

    def _repaired(self, wrong: "Iterable[Trial]", refinement: Refinement | None = None) -> "Iterator[Trial]":
        """Wrong routes made right by leaving layers in float, as far as that can be done."""
        if not self.refine:
            return
        refinement = refinement or self._refinement(self.seconds)
        for trial in wrong:
            repaired = refinement.repaired(trial, self._sensitivities(refinement, trial))
            if repaired is None:
                continue
            if self.bench.capabilities.executes_here:
                self.bench.time([self.float_trial, repaired], self._seconds(1))
            self.trials.append(repaired)
            yield repaired

    def _sensitivities(self, refinement: Refinement, trial: "Trial") -> list[Sensitivity]:
        if trial.candidate is None:
            return []
        if trial.candidate not in self.known:
            self.known[trial.candidate] = refinement.sensitivities(trial)
        return self.known[trial.candidate]

    def _refinement(self, seconds: float) -> Refinement:
        def told(text: str) -> None:
            self._progress(len(self.candidates), text)

        return Refinement(self.bench, time.monotonic() + seconds, told)

    def _progress(self, position: int, text: str) -> None:
        self.work.progress((1 + position) / (3 + len(self.candidates)), text)

    def _seconds(self, models: int) -> float:
        return (SECONDS_EACH if self.refine else QUICK_SECONDS_EACH) * (1 + models)

    def _none_is_right(self) -> "Trial":
        better = "faster" if self.bench.capabilities.executes_here else "smaller"
        wrong = any(trial.wrong for trial in self.trials)
        if not self.candidates:
            why = "the target offers no route to fewer bits for this device and dtype"
        elif not wrong and not self.behind:
            why = "no route to fewer bits can take this model"
        elif not wrong:
            why = f"no route to fewer bits is {better}"
        else:
            why = "no route to fewer bits holds the accuracy" + (f" and is {better}" if self.behind else "")
        self.float_trial.why = why
        return self.float_trial


def can_be_trained(package: "ModelPackage") -> bool:
    """Whether it is a graph that stage `qat` takes."""
    return package.graph.suffix == ".onnx" and is_of_pairs(read_graph(package))


def speed(trial: "Trial") -> float:
    """Times as fast as float; to be asked of those that were timed."""
    return trial.figures["ratio_to_float"]["value"]


def fastest(float_trial: "Trial", right: "Sequence[Trial]", held: str, *, one_loading: bool = False) -> "Trial":
    """The fastest of those that are faster than float beyond doubt; the earlier of two that are about the same.

    held: what all that are right do, in words. one_loading: whether they were timed without being loaded again, so that
    no interval is to be told.
    """

    def ratio(trial: "Trial") -> dict[str, Any]:
        return trial.figures["ratio_to_float"]

    faster = [trial for trial in right if ratio(trial)["low95"] > WORTH_IT]
    chosen = faster[0] if faster else float_trial
    for trial in faster[1:]:
        # Of one route with and without layers in float it was found before which is faster.
        least = 1.0 if trial.candidate is not None and trial.candidate is chosen.candidate else WORTH_IT
        if ratio_interval(chosen.latencies_ms, trial.latencies_ms)["low95"] > least:
            chosen = trial
    for trial in right:
        sure = "of one loading" if one_loading else f"95%: {ratio(trial)['low95']:.2f} or more"
        times = f"{ratio(trial)['value']:.2f} x the speed of float ({sure})"
        if trial is chosen:
            trial.why = f"the fastest that {held}: {times}"
        elif trial in faster:
            trial.why = f"{times}; {chosen.name} is faster, or as fast and before it in the target's order"
        else:
            trial.why = f"not clearly faster than float: {times}"
    float_trial.why = f"{chosen.name} is faster" if faster else f"no route that {held} is faster"
    return chosen
