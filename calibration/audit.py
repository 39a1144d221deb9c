"""Is a calibration set fit to set ranges by?"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calibration.dataset import BLOCK, CalibrationSet
from calibration.errors import InputError
from calibration.parity import Labelled, difference, mistakes
from calibration.statistics import Statistics, describe

# Of the samples: copies add nothing to a range and crowd out what would.
MAX_DUPLICATE_SHARE = 0.1
LAYOUTS = {"NCHW": 1, "NHWC": -1}


@dataclass(frozen=True)
class Reference:
    """Samples of another split as the manifest's own preprocessing gives them, to hold a calibration set against.

    blocks: of their inputs, name -> array of some samples, read once. labels: their classes, [samples] int64.
    """

    split: str
    blocks: Iterable[Mapping[str, np.ndarray]]
    labels: np.ndarray


@dataclass(frozen=True)
class Seen:
    """An input of the calibration set and of the references, as the audit compares them."""

    name: str
    dtype: str
    statistics: Statistics
    references: dict[str, Labelled] = field(default_factory=dict[str, Labelled])


def audit(
    calibration: CalibrationSet,
    classes: Sequence[str],
    test_ids: Collection[str],
    references: Sequence[Reference] = (),
) -> list[str]:
    """What a user should know of the set, a sentence each; an empty list where there is nothing.

    classes: the class names, by label. test_ids: of the samples that the artifact is judged on. references: samples
    that the set must be like, in what preprocessing decides.
    Raises InputError where the set is empty, of one class, has NaN or infinity, more than a tenth of copies, samples
    of the test split, a channel of one value that varies elsewhere, or inputs that were preprocessed otherwise.
    """
    if len(calibration) == 0:
        raise InputError("the calibration set is empty", "give data.calibration samples of at least two classes")
    present = sorted({int(label) for label in calibration.labels})
    if len(present) == 1:
        raise InputError(
            f"the calibration set has samples of one class only, {classes[present[0]]!r}",
            "give data.calibration samples of at least two classes, or raise calibrate.samples",
        )
    settings = calibration.preprocessing or {}
    seen = _describe(calibration, references, settings)
    for one in seen:
        _refuse_undefined(calibration, one)
    _refuse_copies(calibration)
    leaked = sorted(set(calibration.ids) & set(test_ids))
    if leaked:
        raise InputError(
            f"{len(leaked)} of {len(calibration)} calibration samples are test samples too (the first has the id "
            f"{leaked[0][:12]}): the accuracy would be flattered",
            "take them out of data.calibration, or leave that key away: samples then come from the training split",
        )
    absent = [name for label, name in enumerate(classes) if label not in present]
    notes = [f"no calibration sample is of class {', '.join(absent)}"] if absent else []
    for one in seen:
        notes += _constant_channels(one)
        notes += _other_preprocessing(one, calibration, settings)
    return notes


def _describe(calibration: CalibrationSet, references: Sequence[Reference], settings: Mapping[str, Any]) -> list[Seen]:
    axes = {settings["input"]: LAYOUTS.get(settings.get("layout", ""))} if "input" in settings else {}
    seen = [Seen(name, dtype, found) for name, (dtype, found) in describe(calibration.feeds(BLOCK), axes).items()]
    for reference in references:
        described = describe(reference.blocks, axes)
        for one in seen:
            one.references[reference.split] = Labelled(described[one.name][1], reference.labels)
    return seen


def _refuse_undefined(calibration: CalibrationSet, seen: Seen) -> None:
    undefined = ~np.isfinite(seen.statistics.mean).all(axis=1)
    if undefined.any():
        first = int(np.argmax(undefined))
        raise InputError(
            f"{int(undefined.sum())} calibration samples have NaN or infinity in {seen.name}, the first with the id "
            f"{calibration.ids[first][:12]}",
            "mend or remove them in the data",
        )


def _refuse_copies(calibration: CalibrationSet) -> None:
    copies = len(calibration) - len(set(calibration.ids))
    if copies > MAX_DUPLICATE_SHARE * len(calibration):
        most, times = Counter(calibration.ids).most_common(1)[0]
        raise InputError(
            f"{copies} of {len(calibration)} calibration samples are copies of others (the id {most[:12]} is there "
            f"{times} times); at most {MAX_DUPLICATE_SHARE:.0%} may be",
            "remove the copies from data.calibration",
        )


def _constant_channels(seen: Seen) -> list[str]:
    """Notes on channels of one value throughout. Integers are codes and masks, which may well be constant."""
    if not seen.dtype.startswith("float"):
        return []
    low, high = seen.statistics.low.min(axis=0), seen.statistics.high.max(axis=0)
    notes: list[str] = []
    for channel in np.flatnonzero(low == high):
        where = f"channel {channel} of {seen.name}" if len(low) > 1 else seen.name
        what = f"{where} has the one value {low[channel]:g} in all calibration samples"
        for split, reference in seen.references.items():
            ends = reference.statistics.low[:, channel].min(), reference.statistics.high[:, channel].max()
            if ends[0] < ends[1]:
                raise InputError(
                    f"{what}, but goes from {ends[0]:g} to {ends[1]:g} in the {split} samples: all else would be "
                    "clipped to that value",
                    "give data.calibration samples in which it varies",
                )
        notes.append(f"{what}: the model cannot learn or use anything from it; is it filled in by mistake?")
    return notes


def _other_preprocessing(seen: Seen, calibration: CalibrationSet, settings: Mapping[str, Any]) -> list[str]:
    """Raises InputError where it is certain; a note where the samples may just be of another kind."""
    channels = seen.statistics.mean.shape[1]
    known = mistakes(settings, channels) if seen.dtype.startswith("float") else []
    ours = Labelled(seen.statistics, calibration.labels)
    found = {split: difference(ours, theirs, known) for split, theirs in seen.references.items()}
    differing = [(split, how) for split, how in found.items() if how]
    if not differing:
        return []
    split, how = next(((split, how) for split, how in differing if how.certain), differing[0])
    what = f"calibration samples are not like the {split} samples in {seen.name}: {how.sentence}"
    next_step = f"prepare data.calibration and the {split} samples in one way: size, filter, channel order, range"
    if how.certain:
        raise InputError(what, next_step)
    return [f"{what}; {next_step}"]
