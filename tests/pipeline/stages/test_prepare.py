import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.errors import InputError
from pipeline.clean import cut
from pipeline.data import label_names, load_split
from pipeline.loading import load_calibration
from pipeline.recipe import DataSource
from pipeline.stage import Work
from pipeline.stages.prepare import Prepare
from pipeline.tasks.image_classification import ImageClassification


def pictures(count: int, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 4, 4), dtype=np.uint8), np.arange(count) % classes


def prepare(folder: Path, task=None, **data) -> Path:
    out = folder / "out"
    out.mkdir()
    work = Work(out, folder, folder, nullcontext, lambda _fraction, _text: None)
    Prepare()(work, task=task or ImageClassification(), source=DataSource(**data), tokenizer=None)
    return out


def test_splits_are_stratified_disjoint_and_complete(tmp_path):
    image, label = pictures(200, classes=4)
    np.savez(tmp_path / "d.npz", image=image, label=label)
    data = prepare(tmp_path, source="d.npz", test_share=0.2, validation_share=0.2)
    splits = {name: load_split(data, name) for name in ("train", "validation", "test")}
    assert {name: len(s) for name, s in splits.items()} == {"train": 128, "validation": 32, "test": 40}
    for split in splits.values():
        assert len(set(np.bincount(split.labels))) == 1
    ids = [i for s in splits.values() for i in s.ids.tolist()]
    assert len(set(ids)) == 200
    assert splits["train"].columns["image"].shape == (128, 4, 4, 1)
    assert label_names(data) == ["0", "1", "2", "3"]
    assert ImageClassification(mean=(0.1,), std=(0.2,)).preprocessing(data)["size"] == [4, 4]


def test_the_same_data_gives_the_same_bytes(tmp_path):
    image, label = pictures(40)
    outs = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        np.savez(folder / "d.npz", image=image, label=label)
        outs.append(prepare(folder, source="d.npz"))
    files = sorted(p.relative_to(outs[0]) for p in outs[0].rglob("*") if p.is_file())
    assert len(files) == 10
    assert all((outs[0] / f).read_bytes() == (outs[1] / f).read_bytes() for f in files)


def test_duplicates_and_contradictions_are_removed_and_said(tmp_path):
    image, label = pictures(30)
    image[10], label[10] = image[0], label[0]
    image[11], label[11] = image[2], 1 - label[2]
    np.savez(tmp_path / "d.npz", image=image, label=label)
    summary = json.loads((prepare(tmp_path, source="d.npz") / "summary.json").read_text())
    assert summary["removed"] == {"duplicates": 1, "contradictions": 2}
    assert sum(summary["splits"].values()) == 27
    assert "removed 1 copies of samples in d.npz" in summary["steps"]


@pytest.fixture
def leaking(tmp_path):
    image, label = pictures(30)
    np.savez(tmp_path / "train.npz", image=image[:22], label=label[:22])
    np.savez(tmp_path / "test.npz", image=image[20:], label=label[20:])
    return tmp_path


def test_leakage_is_refused(leaking):
    with pytest.raises(InputError, match=r"2 samples of test are among.*\(train\.npz row 20 = test\.npz row 0"):
        prepare(leaking, source=".")


def test_leakage_is_dropped_from_the_training_samples(leaking):
    data = prepare(leaking, source="train.npz", test="test.npz", leakage="drop")
    assert len(load_split(data, "test")) == 10
    train = [load_split(data, name).ids.tolist() for name in ("train", "validation")]
    assert sum(map(len, train)) == 20
    assert not set().union(*train) & set(load_split(data, "test").ids.tolist())


PICTURE = "[[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]]"


def write_jsonl(folder: Path, *rows: str) -> None:
    records = [{"image": p.tolist(), "label": "ab"[i % 2]} for i, p in enumerate(pictures(24)[0])]
    (folder / "d.jsonl").write_text("\n".join([*map(json.dumps, records), *rows]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f'{{"image": {PICTURE}}}', r"d\.jsonl:25: label is missing \(1 such"),
        ('{"image": null, "label": "a"}', r"d\.jsonl:25: image is missing"),
        ('{"image": [[1]], "label": NaN}', r"d\.jsonl:25: label is NaN or infinite"),
        ('{"image": [[1]], "label": "a"}', r"d\.jsonl:25 is 1 x 1"),
    ],
)
def test_bad_samples_are_named(tmp_path, row, message):
    write_jsonl(tmp_path, row)
    with pytest.raises(InputError, match=message):
        prepare(tmp_path, source="d.jsonl")


@pytest.mark.parametrize(("rule", "kept"), [("drop", 24), ({"label": "b"}, 25)])
def test_missing_values_follow_the_rule(tmp_path, rule, kept):
    write_jsonl(tmp_path, f'{{"image": {PICTURE}}}')
    data = prepare(tmp_path, source="d.jsonl", missing=rule)
    summary = json.loads((data / "summary.json").read_text())
    assert sum(summary["splits"].values()) == kept
    assert summary["removed"] == ({"missing": 1} if rule == "drop" else {})


def test_columns_are_renamed_and_a_missing_one_is_named(tmp_path):
    image, label = pictures(20)
    np.savez(tmp_path / "d.npz", pixels=image, y=label)
    with pytest.raises(InputError, match="no column 'image'; it has pixels, y") as error:
        prepare(tmp_path, source="d.npz")
    assert "data: {columns: {image: pixels}}" in error.value.next_step
    (tmp_path / "out").rmdir()
    data = prepare(tmp_path, source="d.npz", columns={"image": "pixels", "label": "y"})
    assert len(load_split(data, "train")) > 0


def test_a_class_that_cannot_be_tested_is_refused(tmp_path):
    image, _ = pictures(300)
    np.savez(tmp_path / "d.npz", image=image, label=np.arange(300) == 7)
    with pytest.raises(InputError, match=r"d\.npz has too few samples of 1: none is left to test with"):
        prepare(tmp_path, source="d.npz")


def test_samples_that_are_all_contradictions_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", image=np.zeros((10, 4, 4), np.uint8), label=np.arange(10) % 2)
    with pytest.raises(InputError, match="no samples are left"):
        prepare(tmp_path, source="d.npz")


def test_one_class_is_refused(tmp_path):
    np.savez(tmp_path / "d.npz", image=pictures(20)[0], label=np.zeros(20, np.int64))
    with pytest.raises(InputError, match="one class only"):
        prepare(tmp_path, source="d.npz")


def test_test_samples_of_another_size_are_refused(tmp_path):
    for name, side in (("train", 4), ("test", 3)):
        image, label = pictures(20)
        (tmp_path / "d").mkdir(exist_ok=True)
        np.savez(tmp_path / "d" / f"{name}.npz", image=image[:, :side], label=label)
    with pytest.raises(InputError, match=r"test\.npz: image is uint8 \[3, 4, 1\] a sample, but uint8 \[4, 4, 1\]"):
        prepare(tmp_path, source="d")


def test_calibration_samples_are_stored_like_the_others(tmp_path):
    image, label = pictures(20)
    np.savez(tmp_path / "d.npz", image=image, label=label)
    np.savez(tmp_path / "c.npz", image=image[:6], label=label[:6])
    data = prepare(tmp_path, source="d.npz")
    source = DataSource(source="d.npz", calibration="c.npz")
    calibration = load_calibration(
        ImageClassification(), source, load_split(data, "train"), label_names(data), tmp_path, None
    )
    everything = {i for name in ("train", "validation", "test") for i in load_split(data, name).ids.tolist()}
    assert len(calibration) == 6
    assert set(calibration.ids.tolist()) <= everything


@given(st.lists(st.integers(0, 3), min_size=4, max_size=80), st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_cut_keeps_the_share_of_every_class(labels, share, seed):
    array = np.array(labels)
    stay, off = cut(array, share, seed)
    assert sorted([*stay, *off]) == list(range(len(array)))
    for label in set(labels):
        members, taken = (array == label).sum(), (array[off] == label).sum()
        assert taken <= members - 1
        assert abs(taken - share * members) <= 1
