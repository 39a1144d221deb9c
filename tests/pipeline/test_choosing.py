"""Which route ships, of routes whose speed and answers are given."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.choosing import Choosing, fastest
from pipeline.trials import Trial
from targets.target import Candidate


def timed(name: str, ms: float, baseline_ms: float = 1.0) -> Trial:
    noise = np.random.default_rng(0).normal(1, 0.001, (20, 10))
    ratio = baseline_ms / ms
    figures = {"ratio_to_float": {"value": ratio, "low95": ratio * 0.99, "high95": ratio * 1.01}, "size_bytes": 1}
    return Trial(name, "int8", latencies_ms=ms * noise, figures=figures)


@pytest.mark.parametrize(
    ("ms", "wrong", "why"),
    [
        ({}, (), "no route to fewer bits can take this model"),
        ({"slow": 3.0}, (), "no route to fewer bits is faster"),
        ({"bad": 0.5}, ("bad",), "no route to fewer bits holds the accuracy"),
        ({"bad": 0.5, "slow": 3.0}, ("bad",), "no route to fewer bits holds the accuracy and is faster"),
    ],
)
def test_float_ships_for_the_reason_that_is_true(make_work, ms, wrong, why):
    def sketch(candidate):
        if candidate.name not in ms:
            return Trial(candidate.name, "int8", candidate, why="cannot take this model")
        return replace(timed(candidate.name, ms[candidate.name]), candidate=candidate, compiled=object())

    def check(trial):
        trial.wrong = trial.why = "costs 9 points" if trial.name in wrong else ""
        return trial

    bench = SimpleNamespace(
        capabilities=SimpleNamespace(executes_here=True),
        float_trial=timed("float", 1.0),
        sketch=sketch,
        made_with_care=check,
        time=lambda *_: None,
        discard=lambda _: None,
    )
    candidates = [Candidate(name, "int8", lambda *_: None) for name in (*ms, "refused")]
    choosing = Choosing(bench, candidates, make_work("q"), seconds=1)
    assert choosing.choose() is bench.float_trial
    assert bench.float_trial.why == why
    assert all(trial.why for trial in choosing.trials)


@pytest.mark.parametrize(
    ("milliseconds", "chosen"),
    [
        ({"a": 0.5, "b": 0.4}, "b"),
        ({"a": 0.4, "b": 0.5}, "a"),
        ({"a": 0.500, "b": 0.497}, "a"),
        ({"a": 1.2, "b": 0.9}, "b"),
        ({"a": 1.2, "b": 1.5}, "float"),
        ({"a": 0.995}, "float"),
    ],
)
def test_the_fastest_is_kept_and_of_equals_the_first(milliseconds, chosen):
    trials = [timed(name, ms) for name, ms in milliseconds.items()]
    baseline = timed("float", 1.0)
    assert fastest(baseline, trials, "is right").name == chosen
    assert all(trial.why for trial in (baseline, *trials))
