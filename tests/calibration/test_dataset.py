from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.dataset import CalibrationSet, choose_balanced
from calibration.errors import InputError

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(lambda v: np.array(v, np.int64))


@given(LABELS, st.integers(1, 80), st.integers(0, 3))
def test_a_choice_is_as_even_as_the_classes_allow(labels, samples, seed):
    chosen = choose_balanced(labels, samples, seed)
    assert len(chosen) == len(set(chosen.tolist())) == min(samples, len(labels))
    assert np.array_equal(chosen, np.sort(chosen))
    counts = {c: int((labels[chosen] == c).sum()) for c in np.unique(labels)}
    # A class has fewer than another by more than one only where it has no more to give.
    for c, n in counts.items():
        assert n >= max(counts.values()) - 1 or n == int((labels == c).sum())


@given(LABELS, st.integers(1, 80), st.integers(0, 3))
def test_the_same_seed_chooses_the_same(labels, samples, seed):
    assert np.array_equal(choose_balanced(labels, samples, seed), choose_balanced(labels, samples, seed))


def test_nothing_to_choose_from_is_refused():
    with pytest.raises(InputError, match="empty"):
        choose_balanced(np.empty(0, np.int64), 4, 0)


@given(st.integers(1, 20), st.integers(1, 8))
def test_feeds_are_all_samples_in_order(samples, batch):
    x = np.arange(samples * 3, dtype=np.float32).reshape(samples, 3)
    feeds = CalibrationSet({"x": x}, tuple(map(str, range(samples))), np.zeros(samples, np.int64), 0).feeds(batch)
    assert [len(feed["x"]) for feed in feeds[:-1]] == [batch] * ((samples - 1) // batch)
    assert np.array_equal(np.concatenate([feed["x"] for feed in feeds]), x)


def test_a_set_comes_back_from_its_folder_and_keeps_its_digest(tmp_path):
    rng = np.random.default_rng(0)
    inputs = {"b": rng.integers(0, 9, (5, 3)), "a": rng.normal(size=(5, 2, 2)).astype(np.float32)}
    first = CalibrationSet(inputs, tuple("abcde"), np.arange(5), 7, {"kind": "image"})
    first.save(tmp_path)
    second = CalibrationSet.load(tmp_path)
    assert second.digest == first.digest
    assert (second.ids, second.seed, second.labels.tolist()) == (first.ids, 7, first.labels.tolist())
    assert second.preprocessing == first.preprocessing == {"kind": "image"}
    other = {**second.inputs, "a": second.inputs["a"] + np.float32(1)}
    assert replace(second, inputs=other).digest != first.digest
