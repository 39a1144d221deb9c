"""Were two sets of model inputs preprocessed alike?

Each sample is reduced to a few numbers (calibration/statistics.py). Of each number it is asked how likely a sample of
one set has a larger one than a sample of the other, class by class, so that another mix of classes is no difference:
Mann and Whitney's test (1947), stratified as in van Elteren (1960). It assumes nothing of the distribution. Two sets
differ where this likelihood is far from one half and chance would do that once in ten thousand audits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from calibration.statistics import Statistics

FALSE_ALARMS = 1e-4
# Of the likelihood, from one half: sets of one origin may differ a little, and ranges bear that.
CLEAR = 0.2
# The spread of each sample is so many times that of any sample of the other set: they are not of one kind.
GROSS = 4.0


@dataclass(frozen=True)
class Labelled:
    """Statistics of samples, and their classes, [samples] int64."""

    statistics: Statistics
    labels: np.ndarray


@dataclass(frozen=True)
class Difference:
    """certain: the samples cannot be of one kind, or a known mistake explains the difference."""

    sentence: str
    certain: bool


@dataclass(frozen=True)
class Mistake:
    """A known way to preprocess wrongly. It makes gain x value + offset of what is right, [channels] each.

    reverses: of the channels in reverse order.
    """

    sentence: str
    gain: np.ndarray
    offset: np.ndarray
    reverses: bool = False

    def made_on(self, right: Statistics) -> Statistics:
        """The statistics of the same samples with this mistake."""
        order = slice(None, None, -1 if self.reverses else 1)
        ends = [self.gain * end[:, order] + self.offset for end in (right.low, right.high)]
        return replace(
            right,
            mean=self.gain * right.mean[:, order] + self.offset,
            spread=np.abs(self.gain) * right.spread[:, order],
            low=np.minimum(*ends),
            high=np.maximum(*ends),
            roughness=np.abs(self.gain) * right.roughness[:, order],
        )


def mistakes(settings: Mapping[str, Any], channels: int) -> list[Mistake]:
    """What may go wrong with an input that is meant to be (x - mean) / std of x from 0 to 1."""
    mean, std = (
        np.broadcast_to(np.array(settings.get(key, [left_out]), np.float64), channels)
        for key, left_out in (("mean", 0.0), ("std", 1.0))
    )
    # Of x: gain, offset.
    before = {
        "they look as if they were not divided by 255 before they were normalised": (255.0, 0.0),
        "they look as if they were divided by 255 twice before they were normalised": (1 / 255, 0.0),
        "they look as if black and white were exchanged": (-1.0, 1.0),
    }
    found = [Mistake(what, np.full(channels, g), (g * mean + o - mean) / std) for what, (g, o) in before.items()]
    found += [
        Mistake("they look as if they were not normalised", std, mean),
        Mistake("they look as if they were neither divided by 255 nor normalised", 255 * std, 255 * mean),
        Mistake("they look as if they were normalised twice", 1 / std, -mean / std),
        Mistake("their values are 255 times too large", np.full(channels, 255.0), np.zeros(channels)),
        Mistake("their values are 255 times too small", np.full(channels, 1 / 255), np.zeros(channels)),
    ]
    if channels == 3:
        swapped = "they look as if their channels were in reverse order, BGR for RGB"
        found.append(Mistake(swapped, std[::-1] / std, (mean[::-1] - mean) / std, reverses=True))
    return found


def difference(found: Labelled, expected: Labelled, known: list[Mistake]) -> Difference | None:
    """How inputs differ from those they should be like, the most telling thing; None where nothing does.

    known: mistakes that are looked for by name; without any nothing is certain.
    """
    names, theirs = _numbers(expected.statistics)
    _, ours = _numbers(found.statistics)
    likelihood, differs = _compare(ours, found.labels, theirs, expected.labels)
    gross = _gross(found.statistics.spread, expected.statistics.spread)
    if gross:
        differs[:] = True
    if not differs.any():
        return None
    fits: list[tuple[float, str]] = []
    for mistake in known:
        _, mistaken = _numbers(mistake.made_on(expected.statistics))
        left, still = _compare(ours, found.labels, mistaken, expected.labels)
        if not still.any() and not _gross(found.statistics.spread, mistake.made_on(expected.statistics).spread):
            fits.append((float(np.abs(left - 0.5).max()), mistake.sentence))
    if fits and min(fits)[0] < float(np.abs(likelihood - 0.5).max()):
        return Difference(min(fits)[1], certain=True)
    worst = int(np.argmax(np.where(differs, np.abs(likelihood - 0.5), -1.0)))
    median, other = (float(np.median(numbers[:, worst])) for numbers in (ours, theirs))
    return Difference(
        f"their {names[worst]} is {median:.3g} in the median, not {other:.3g}", certain=gross and bool(known)
    )


def _numbers(of: Statistics) -> tuple[list[str], np.ndarray]:
    """Names, and [samples, numbers], by which samples are compared."""
    channels = of.mean.shape[1]
    level = of.mean.mean(axis=1, keepdims=True)
    # Of images as sharp as each other the share is the same, however strong their contrast is.
    sharpness = of.roughness.sum(axis=1, keepdims=True) / np.maximum(of.spread.sum(axis=1, keepdims=True), 1e-30)
    names = ["mean", "sharpness (neighbours' difference / standard deviation; a resize filter changes it)"]
    names += ["standard deviation" + (f" of channel {c}" if channels > 1 else "") for c in range(channels)]
    columns = [level, sharpness, of.spread]
    if channels > 1:
        names += [f"mean of channel {c}, less that of all channels," for c in range(channels)]
        columns.append(of.mean - level)
    return names, np.concatenate(columns, axis=1)


def _compare(
    ours: np.ndarray, our_labels: np.ndarray, theirs: np.ndarray, their_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of each number ([samples, numbers]): how likely ours is the larger of a pair, and whether that is no chance."""
    total = variance = pairs = np.zeros(ours.shape[1])
    for label in np.intersect1d(our_labels, their_labels):
        a, b = ours[our_labels == label], theirs[their_labels == label]
        n, ties, ranks = len(a) + len(b), *_ranks(np.concatenate([a, b]))
        # The sum of ranks less what it is where nothing differs, in pairs; its variance less what ties take from it.
        above = ranks[: len(a)].sum(axis=0) - len(a) * (n + 1) / 2
        total = total + above / (n + 1)
        variance = variance + len(a) * len(b) / 12 * (n + 1 - ties / (n * (n - 1))) / (n + 1) ** 2
        pairs = pairs + len(a) * len(b) / (n + 1)
    likelihood = 0.5 + total / np.maximum(pairs, 1e-30)
    bound = NormalDist().inv_cdf(1 - FALSE_ALARMS / (2 * len(total)))
    surprising = np.abs(total) > bound * np.sqrt(variance)
    return likelihood, surprising & (np.abs(likelihood - 0.5) > CLEAR)


def _ranks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sum of t^3 - t over groups of t equal values, ranks from 1, equal ones sharing their mean) of each column."""
    ties, ranks = np.zeros(values.shape[1]), np.empty(values.shape)
    for column in range(values.shape[1]):
        _, group, counts = np.unique(values[:, column], return_inverse=True, return_counts=True)
        ranks[:, column] = (np.cumsum(counts) - (counts - 1) / 2)[group]
        ties[column] = float((counts.astype(np.float64) ** 3 - counts).sum())
    return ties, ranks


def _gross(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether the spreads of all samples of one set are far beyond all of the other's, in every channel."""
    larger = (ours.min(axis=0) > GROSS * theirs.max(axis=0)).all()
    smaller = (ours.max(axis=0) * GROSS < theirs.min(axis=0)).all()
    return bool(larger or smaller)
