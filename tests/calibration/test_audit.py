from dataclasses import replace

import numpy as np
import pytest

from calibration.audit import Reference, audit
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


COLOURED = {"input": "pixels", "layout": "NCHW", "mean": [0.5], "std": [0.5]}


def coloured(n: int = 12, seed: int = 0, blue: float | None = None) -> CalibrationSet:
    """Images [n, 3, 4, 4]; `blue`: of one value all over the last channel."""
    pixels = np.random.default_rng(seed).normal(size=(n, 3, 4, 4)).astype(np.float32)
    if blue is not None:
        pixels[:, 2] = blue
    return replace(calibration(n), inputs={"pixels": pixels}, preprocessing=COLOURED)


def like(other: CalibrationSet, split: str = "validation") -> Reference:
    return Reference(split, other.feeds(5), other.labels)


def test_a_constant_channel_is_told_and_refused_where_it_varies_elsewhere():
    flat, alike = coloured(blue=0.25), coloured(40, seed=1, blue=0.25)
    (note,) = audit(flat, CLASSES, [], [like(alike)])
    assert note.startswith("channel 2 of pixels has the one value 0.25 in all calibration samples")
    with pytest.raises(InputError, match=r"channel 2 of pixels .* 0\.25 .*, but goes from .* in the test samples"):
        audit(flat, CLASSES, [], [like(alike), like(coloured(40, seed=1), "test")])


def test_constant_masks_are_nothing_to_tell():
    assert audit(calibration(), CLASSES, [], [like(calibration(40))]) == []


@pytest.mark.parametrize("split", ["validation", "test"])
def test_inputs_of_another_size_are_refused_by_split(split):
    larger = replace(coloured(), inputs={"pixels": coloured().inputs["pixels"] * 255})
    references = [
        like(coloured(40, seed=1 + i) if name != split else coloured(40, seed=3), name)
        for i, name in enumerate(("validation", "test"))
    ]
    assert audit(coloured(), CLASSES, [], references) == []
    with pytest.raises(
        InputError, match="not like the validation samples in pixels: their values are 255 times too large"
    ):
        audit(larger, CLASSES, [], references)
    own = replace(coloured(40, seed=3), inputs={"pixels": coloured(40, seed=3).inputs["pixels"] / 255})
    with pytest.raises(
        InputError, match=f"not like the {split} samples in pixels: their values are 255 times too large"
    ):
        audit(
            coloured(),
            CLASSES,
            [],
            [like(own, name) if name == split else like(coloured(40, seed=1), name) for name in ("validation", "test")],
        )


def test_a_class_that_is_not_there_is_said():
    assert audit(calibration(), [*CLASSES, "elk", "emu"], []) == ["no calibration sample is of class elk, emu"]
