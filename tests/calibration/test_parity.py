"""Images of a warm cast and of many brightnesses stand for photographs."""

import numpy as np
import pytest

from calibration.parity import Difference, Labelled, difference, mistakes
from calibration.statistics import describe

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SETTINGS = {"mean": MEAN.tolist(), "std": STD.tolist()}
CLASSES = 5
WRONG = {
    "times too large": lambda raw: normalised(raw) * 255,
    "times too small": lambda raw: normalised(raw) / 255,
    "not normalised": lambda raw: raw,
    "neither divided by 255 nor": lambda raw: 255 * raw,
    "not divided by 255 before": lambda raw: normalised(255 * raw),
    "divided by 255 twice before": lambda raw: normalised(raw / 255),
    "reverse order, BGR for RGB": lambda raw: normalised(raw[:, ::-1]),
    "normalised twice": lambda raw: (normalised(raw) - MEAN[:, None, None]) / STD[:, None, None],
    "black and white": lambda raw: normalised(1 - raw),
}


def photographs(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """[n, 3, 12, 12] from 0 to 1, and classes; a class is a little brighter than the one before."""
    labels = rng.integers(0, CLASSES, n)
    colour = rng.normal([0.4, 0.34, 0.28], 0.05, (n, 3)) + rng.normal(0.02 * labels, 0.12)[:, None]
    texture = rng.normal(0, 1, (n, 1, 12, 12))
    texture += np.roll(texture, 1, 2) + np.roll(texture, 1, 3)
    contrast = rng.gamma(4, 0.013, (n, 1, 1, 1))
    grain = rng.normal(0, 0.02, (n, 3, 12, 12))
    return np.clip(colour[:, :, None, None] + contrast * texture + grain, 0, 1), labels


def normalised(raw: np.ndarray) -> np.ndarray:
    return (raw - MEAN[:, None, None]) / STD[:, None, None]


def compared(raw: np.ndarray, labels: np.ndarray, like: tuple[np.ndarray, np.ndarray]) -> Difference | None:
    """raw: model inputs, held against photographs as they should be preprocessed."""
    ours, theirs = (
        Labelled(describe([{"x": x.astype(np.float32)}], {"x": 1})["x"][1], y)
        for x, y in ((raw, labels), (normalised(like[0]), like[1]))
    )
    return difference(ours, theirs, mistakes(SETTINGS, 3))


@pytest.mark.parametrize("samples", [2, 8, 40, 200])
def test_samples_of_one_origin_never_differ(samples):
    for seed in range(60):
        rng = np.random.default_rng(seed)
        raw, labels = photographs(samples, rng)
        assert compared(normalised(raw), labels, photographs(200, rng)) is None, seed


def test_another_mix_of_classes_is_no_difference():
    """A class of dark and a class of light images: many of the one here, many of the other there."""
    rng = np.random.default_rng(0)
    raw, labels = photographs(600, rng)
    raw = np.clip(raw + 0.4 * (labels[:, None, None, None] - 2), 0, 1)
    dark, light = np.flatnonzero(labels < 3), np.flatnonzero(labels > 1)
    assert compared(normalised(raw[dark]), labels[dark], (raw[light], labels[light])) is None
    pretended = np.zeros(len(dark), np.int64), np.zeros(len(light), np.int64)
    assert compared(normalised(raw[dark]), pretended[0], (raw[light], pretended[1])) is not None


@pytest.mark.parametrize("samples", [40, 200])
@pytest.mark.parametrize("sentence", WRONG)
def test_a_known_mistake_is_certain_and_named(sentence, samples):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        raw, labels = photographs(samples, rng)
        found = compared(WRONG[sentence](raw), labels, photographs(200, rng))
        assert found is not None
        assert sentence in found.sentence
        assert found.certain


@pytest.mark.parametrize("gain", [1 / 255, 30.0, 255.0])
def test_values_of_another_size_are_certain_on_three_samples(gain):
    rng = np.random.default_rng(0)
    raw, labels = photographs(3, rng)
    found = compared(gain * normalised(raw), labels, photographs(200, rng))
    assert found is not None
    assert found.certain


@pytest.mark.parametrize("filtered", ["nearest", "blurred"])
def test_another_resize_filter_is_noticed(filtered):
    rng = np.random.default_rng(0)
    raw, labels = photographs(60, rng)
    coarse = np.repeat(np.repeat(raw[:, :, ::2, ::2], 2, 2), 2, 3)
    soft = (raw + np.roll(raw, 1, 2) + np.roll(raw, 1, 3)) / 3
    found = compared(normalised(coarse if filtered == "nearest" else soft), labels, photographs(200, rng))
    assert found is not None
    assert "sharpness" in found.sentence
    assert not found.certain


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_a_mistake_is_modelled_as_it_happens(make):
    """The statistics that a mistake is said to give are those of inputs with that mistake."""
    raw, _ = photographs(6, np.random.default_rng(0))
    right, wrong = (describe([{"x": x}], {"x": 1})["x"][1] for x in (normalised(raw), make(raw)))
    modelled = [mistake.made_on(right) for mistake in mistakes(SETTINGS, 3)]
    assert any(
        all(
            np.allclose(getattr(m, field), getattr(wrong, field))
            for field in ("mean", "spread", "low", "high", "roughness")
        )
        for m in modelled
    )
