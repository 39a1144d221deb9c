"""What the evaluator may be set to, and what it says of a teacher that tells nothing apart."""

import numpy as np
import pytest

from calibration.errors import InputError
from pipeline.stages.validate import Validate, best_guess
from pipeline.tasks.image_classification import ImageClassification


@pytest.mark.parametrize("name", ["seconds", "max_seconds"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_timing_takes_time(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name}: {value:g} is no number above 0"):
        Validate(**{name: value})


def test_what_naming_one_class_is_worth() -> None:
    labels = np.array([0, 2, 2, 1, 2], np.int64)
    assert best_guess(ImageClassification(), labels, classes=4) == pytest.approx(0.6)
