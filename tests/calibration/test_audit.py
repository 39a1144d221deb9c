from dataclasses import replace

import numpy as np
import pytest

from calibration.audit import audit
from calibration.dataset import CalibrationSet
from calibration.errors import InputError

CLASSES = ["cat", "dog", "owl"]


def calibration(n: int = 12) -> CalibrationSet:
    pixels = np.arange(n * 4, dtype=np.float32).reshape(n, 4)
    ids = tuple(f"{i:064x}" for i in range(n))
    return CalibrationSet({"pixels": pixels, "mask": np.ones((n, 2), np.int64)}, ids, np.arange(n) % 3, seed=0)


def test_a_sound_set_is_passed_without_a_word():
    assert audit(calibration(), CLASSES, ["f" * 64]) == []


def test_an_empty_set_is_refused():
    with pytest.raises(InputError, match="empty") as caught:
        audit(CalibrationSet({"pixels": np.empty((0, 4), "f")}, (), np.empty(0, np.int64), 0), CLASSES, [])
    assert "data.calibration" in caught.value.next_step


def test_a_set_of_one_class_is_refused_by_the_class():
    with pytest.raises(InputError, match="one class only, 'dog'"):
        audit(replace(calibration(), labels=np.ones(12, np.int64)), CLASSES, [])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_refused_by_input_and_sample(value):
    spoilt = calibration()
    spoilt.inputs["pixels"][5, 2] = value
    with pytest.raises(InputError, match=f"1 calibration samples have NaN or infinity in pixels.*{spoilt.ids[5][:12]}"):
        audit(spoilt, CLASSES, [])


@pytest.mark.parametrize(("copies", "refused"), [(1, False), (2, True), (9, True)])
def test_more_than_a_tenth_of_copies_is_refused(copies, refused):
    spoilt = calibration()
    spoilt = replace(spoilt, ids=(spoilt.ids[0],) * (copies + 1) + spoilt.ids[copies + 1 :])
    if refused:
        with pytest.raises(InputError, match=f"{copies} of 12 calibration samples are copies"):
            audit(spoilt, CLASSES, [])
    else:
        assert audit(spoilt, CLASSES, []) == []


def test_a_sample_of_the_test_split_is_refused_by_id():
    with pytest.raises(InputError, match=f"2 of 12 calibration samples are test samples too.*{'0' * 12}") as caught:
        audit(calibration(), CLASSES, [calibration().ids[7], calibration().ids[3], "f" * 64])
    assert caught.value.exit_code == 2


def test_a_class_that_is_not_there_is_said():
    assert audit(calibration(), [*CLASSES, "elk", "emu"], []) == ["no calibration sample is of class elk, emu"]
