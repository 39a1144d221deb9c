from dataclasses import replace

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st

from calibration.dataset import choose_balanced
from targets.onnx_coverage import choose_covering, cover, extremes, narrowed
from targets.onnx_ranges import activations
from tests.models import calibration_of, convolutional, transformer


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 3), st.integers(0, 9))
def test_a_choice_is_as_even_as_one_by_the_seed_alone(pool, samples, ends, seed):
    rng = np.random.default_rng(seed)
    labels, values = rng.integers(0, 4, pool), rng.normal(size=(pool, ends))
    chosen = cover(values, labels, samples, seed)
    assert len(chosen) == min(samples, pool)
    assert np.array_equal(chosen, np.unique(chosen))
    assert np.array_equal(chosen, cover(values, labels, samples, seed))
    alone = choose_balanced(labels, samples, seed)
    assert np.bincount(labels[chosen], minlength=4).tolist() == np.bincount(labels[alone], minlength=4).tolist()


def test_what_is_rare_is_chosen(tmp_path):
    """Of 60 samples two are far out: eight that are chosen have both, whatever the seed."""
    package = convolutional(tmp_path / "model")
    pool = calibration_of(package, 60)
    (name,) = pool.inputs
    far = pool.inputs[name].copy()
    far[[17, 42]] *= np.float32([9, 5]).reshape(2, 1, 1, 1)
    pool = replace(pool, inputs={name: far})
    for seed in range(5):
        assert {17, 42} <= set(choose_covering(onnx.load(package.graph), pool, 8, seed).tolist())


def test_extremes_are_those_of_each_sample(tmp_path):
    package = transformer(tmp_path / "model")
    pool = calibration_of(package, 12)
    found = extremes(onnx.load(package.graph), pool)
    assert len(found) == 12
    alone = next(
        activations(onnx.load(package.graph), replace(pool, inputs={k: v[5:] for k, v in pool.inputs.items()}), 1)
    )
    assert found[5].tolist() == [float(end) for array in alone.values() for end in (array.min(), array.max())]


def test_a_pool_is_narrowed_and_a_set_stays(tmp_path):
    package = convolutional(tmp_path / "model")
    pool = replace(calibration_of(package, 40), wanted=12)
    for kind, model in (("covering", onnx.load(package.graph)), ("by-seed", None)):
        folder = tmp_path / kind
        folder.mkdir()
        chosen = narrowed(model, pool, folder)
        assert (len(chosen), chosen.wanted, chosen.seed) == (12, 0, pool.seed)
        place = {name: row for row, name in enumerate(pool.ids)}
        rows = [place[name] for name in chosen.ids]
        assert np.array_equal(chosen.labels, pool.labels[rows])
        for name, array in pool.inputs.items():
            assert np.array_equal(chosen.inputs[name], array[rows])
        assert narrowed(model, chosen, tmp_path) is chosen
