from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.trials import Bench, Trial

SAMPLES = 128


class Scored(Bench):
    """Whose samples are the scores that they get."""

    def _try_float(self):
        return Trial("float", "fp32", scores=np.ones(SAMPLES))

    def _scores(self, model, samples) -> np.ndarray:
        return np.asarray(samples)


@pytest.mark.parametrize(
    ("mistakes", "whole", "refused"), [(0, True, False), (1, True, True), (2, False, False), (26, False, True)]
)
def test_some_of_the_samples_show_only_what_is_plainly_wrong(tmp_path, mistakes, whole, refused):
    """One mistake is 0.8 points of 128 samples; 0.5 points are allowed."""
    scores = np.ones(SAMPLES)
    scores[:mistakes] = 0
    task, able = SimpleNamespace(higher_is_better=True), SimpleNamespace(answers_as_it_ships=True)
    with ThreadPoolExecutor(1) as aside:
        bench = Scored(task, scores, None, None, able, None, tmp_path, 0.5, aside, whole)
        trial = Trial("route", "int8", package=SimpleNamespace(), compiled=SimpleNamespace())
        bench.check(trial)
    assert bool(trial.wrong) == refused
    assert trial.figures["drop_points"] == pytest.approx(100 * mistakes / SAMPLES)


def test_what_scoring_the_float_model_raises_is_raised_where_its_trial_is_asked_for(tmp_path):
    class Broken(Scored):
        def _try_float(self):
            raise ValueError("no answer")

    with ThreadPoolExecutor(1) as aside:
        bench = Broken(None, np.ones(1), None, None, None, None, tmp_path, 0.5, aside)
        bench.begin()
        with pytest.raises(ValueError, match="no answer"):
            _ = bench.float_trial
