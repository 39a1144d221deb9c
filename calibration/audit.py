"""Is a calibration set fit to set ranges by?"""

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from calibration.dataset import CalibrationSet
from calibration.errors import InputError

# Of the samples: copies add nothing to a range and crowd out what would.
MAX_DUPLICATE_SHARE = 0.1


def audit(calibration: CalibrationSet, classes: Sequence[str], test_ids: Collection[str]) -> list[str]:
    """What a user should know of the set, a sentence each; an empty list where there is nothing.

    classes: the class names, by label. test_ids: of the samples that the artifact is judged on.
    Raises InputError where the set is empty, of one class, has NaN or infinity, more than a tenth of copies, or samples
    of the test split.
    """
    if len(calibration) == 0:
        raise InputError("the calibration set is empty", "give data.calibration samples of at least two classes")
    present = sorted({int(label) for label in calibration.labels})
    if len(present) == 1:
        raise InputError(
            f"the calibration set has samples of one class only, {classes[present[0]]!r}",
            "give data.calibration samples of at least two classes, or raise calibrate.samples",
        )
    _refuse_undefined(calibration)
    _refuse_copies(calibration)
    leaked = sorted(set(calibration.ids) & set(test_ids))
    if leaked:
        raise InputError(
            f"{len(leaked)} of {len(calibration)} calibration samples are test samples too (the first has the id "
            f"{leaked[0][:12]}): the accuracy would be flattered",
            "take them out of data.calibration, or leave that key away: samples then come from the training split",
        )
    absent = [name for label, name in enumerate(classes) if label not in present]
    return [f"no calibration sample is of class {', '.join(absent)}"] if absent else []


def _refuse_undefined(calibration: CalibrationSet) -> None:
    for name, array in calibration.inputs.items():
        if array.dtype.kind != "f":
            continue
        undefined = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        if undefined.any():
            first = int(np.argmax(undefined))
            raise InputError(
                f"{int(undefined.sum())} calibration samples have NaN or infinity in {name}, the first with the id "
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
