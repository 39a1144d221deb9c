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
    assert np.bincount(found.labels).tolist() == [10, 10, 10]
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
    assert notes == ["no calibration sample is of class across", "there are 9 samples, 16 were asked for"]


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
