import json

import numpy as np
import pytest

from calibration.dataset import CalibrationSet
from calibration.errors import InputError
from pipeline.data import load_split
from pipeline.recipe import DataSource
from pipeline.stages.calibrate import Calibrate
from targets.device.preprocess import preprocess
from tests.pipeline.conftest import images


def calibrate(make_work, task, data, source=None, name="calibrate", **settings) -> tuple[CalibrationSet, list[str]]:
    work = make_work(name)
    Calibrate(**settings)(work, task=task, data=data, calibration_source=source, tokenizer=None)
    return CalibrationSet.load(work.out), json.loads((work.out / "audit.json").read_text())["notes"]


def write_source(folder, pixels, labels, name="calibration.npz") -> DataSource:
    np.savez(folder / name, image=pixels, label=labels)
    return DataSource(source="nothing.npz", calibration=name)


def test_samples_come_from_the_training_split_all_classes_alike(make_work, task, data):
    found, notes = calibrate(make_work, task, data, samples=30)
    train = load_split(data, "train")
    assert notes == []
    assert np.bincount(found.labels).tolist() == [40, 40, 40]
    assert found.wanted == 30
    assert found.preprocessing == task.preprocessing(data)
    place = {name: row for row, name in enumerate(train.ids.astype(str))}
    rows = [place[name] for name in found.ids]
    expected = preprocess(task.preprocessing(data), {k: a[rows] for k, a in train.columns.items()})
    assert np.array_equal(found.inputs["pixel_values"], expected["pixel_values"])


def test_the_seed_decides_which(make_work, task, data):
    digests = [
        calibrate(make_work, task, data, name=f"c{i}", samples=12, seed=s)[0].digest for i, s in enumerate((0, 0, 1))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_data_of_its_own_is_taken_where_the_recipe_names_it(make_work, task, data, recipe_folder):
    some = images(40, 9)
    two_classes = np.flatnonzero(some.labels < 2)[:9]
    pixels, labels = some.columns["image"][two_classes], some.labels[two_classes]
    found, notes = calibrate(make_work, task, data, write_source(recipe_folder, pixels, labels), samples=16)
    assert np.array_equal(
        found.inputs["pixel_values"], preprocess(task.preprocessing(data), {"image": pixels})["pixel_values"]
    )
    assert found.wanted == 9
    assert notes[0] == "no calibration sample is of class across"
    assert notes[1].startswith("there are 9 samples, 16 were asked for")
    assert len(notes) == 2


def test_a_pool_of_large_samples_is_kept_small(make_work, task, data, monkeypatch):
    one = 12 * 12 * 4
    for name, room, expected in (("small", 40 * one, 40), ("none", 0, 30)):
        monkeypatch.setattr("pipeline.stages.calibrate.POOL_BYTES", room)
        assert len(calibrate(make_work, task, data, name=name, samples=30)[0]) == expected


WRONG = {
    "black and white were exchanged": lambda pixels: 255 - pixels,
    "mean is -0.99": lambda pixels: np.rint(pixels / 255).astype(np.uint8),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_images_that_were_prepared_otherwise_are_refused(make_work, task, data, recipe_folder, sentence):
    some = images(120, 9)
    source = write_source(recipe_folder, WRONG[sentence](some.columns["image"]), some.labels)
    with pytest.raises(InputError, match=f"not like the validation samples in pixel_values: .*{sentence}") as caught:
        calibrate(make_work, task, data, source)
    assert "prepare data.calibration and the validation samples in one way" in caught.value.next_step


def test_images_of_another_filter_are_told(make_work, task, data, recipe_folder):
    some = images(120, 9)
    coarse = np.repeat(np.repeat(some.columns["image"][:, ::2, ::2], 2, 1), 2, 2)
    _, notes = calibrate(make_work, task, data, write_source(recipe_folder, coarse, some.labels), samples=100)
    assert "a resize filter changes it" in notes[-1]


def test_three_samples_are_told(make_work, task, data, recipe_folder):
    some = images(30, 9)
    rows = [int(np.flatnonzero(some.labels == c)[0]) for c in range(3)]
    source = write_source(recipe_folder, some.columns["image"][rows], some.labels[rows])
    _, notes = calibrate(make_work, task, data, source)
    assert notes == [
        "there are 3 samples, 256 were asked for: what none of them reaches may be clipped",
    ]


def test_test_samples_are_refused(make_work, task, data, recipe_folder):
    test = load_split(data, "test")
    with pytest.raises(InputError, match="16 of 16 calibration samples are test samples too"):
        calibrate(make_work, task, data, write_source(recipe_folder, test.columns["image"][:16], test.labels[:16]))


def test_one_class_is_refused_by_its_name(make_work, task, data, recipe_folder):
    pixels = np.random.default_rng(9).integers(0, 256, (6, 12, 12, 1), dtype=np.uint8)
    with pytest.raises(InputError, match="one class only, 'right'"):
        calibrate(make_work, task, data, write_source(recipe_folder, pixels, np.ones(6, np.int64)))


def test_samples_of_another_size_are_refused(make_work, task, data, recipe_folder):
    source = write_source(recipe_folder, np.zeros((6, 12, 9, 1), np.uint8), np.arange(6) % 2)
    with pytest.raises(InputError, match=r"image is uint8 \[12, 9, 1\] a sample"):
        calibrate(make_work, task, data, source)


def test_no_samples_are_refused(make_work, task, data, recipe_folder):
    source = write_source(recipe_folder, np.empty((0, 12, 12, 1), np.uint8), np.empty(0, np.int64))
    with pytest.raises(InputError, match="no samples"):
        calibrate(make_work, task, data, source)


def test_fewer_than_two_samples_cannot_be_asked_for():
    with pytest.raises(InputError, match=r"calibrate\.samples is 1"):
        Calibrate(samples=1)
