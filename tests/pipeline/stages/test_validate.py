"""What the evaluator may be set to."""

import pytest

from calibration.errors import InputError
from pipeline.stages.validate import Validate


@pytest.mark.parametrize("name", ["seconds", "max_seconds"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_timing_takes_time(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name}: {value:g} is no number above 0"):
        Validate(**{name: value})
