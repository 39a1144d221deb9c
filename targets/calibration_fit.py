"""Is a calibration set one for this model?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from calibration.errors import InputError

if TYPE_CHECKING:
    from calibration.dataset import CalibrationSet
    from targets.target import ModelPackage


def require_fitting(calibration: "CalibrationSet", package: "ModelPackage") -> None:
    """Raises InputError naming the input, or the setting of preprocessing, in which the set is not the model's.

    A symbolic dimension takes any length. Settings are compared where the set knows its own.
    """
    wanted = {spec.name: spec for spec in package.inputs}
    if calibration.inputs.keys() != wanted.keys():
        raise InputError(
            f"the calibration samples have the inputs {', '.join(calibration.inputs)}; the model takes "
            f"{', '.join(wanted)}",
            "calibrate with the model's own inputs",
        )
    for name, array in calibration.inputs.items():
        spec = wanted[name]
        fits = array.ndim == len(spec.shape) and all(
            isinstance(want, str) or want == have for want, have in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if array.dtype.name != spec.dtype or not fits:
            raise InputError(
                f"the calibration samples' {name} is {array.dtype} {list(array.shape[1:])} a sample; the model takes "
                f"{spec.dtype} {list(spec.shape[1:])}",
                "prepare data.calibration as the model's inputs are",
            )
    if calibration.preprocessing is not None:
        require_same_preprocessing(calibration.preprocessing, package.preprocessing)


def require_same_preprocessing(calibration: Mapping[str, Any], package: Mapping[str, Any]) -> None:
    """Raises InputError naming the settings of the two that differ."""
    differing = [
        f"{key} {calibration.get(key)!r}, not {package.get(key)!r}"
        for key in sorted(calibration.keys() | package.keys())
        if calibration.get(key) != package.get(key)
    ]
    if differing:
        raise InputError(
            f"the calibration samples were not preprocessed as the model's inputs will be: {'; '.join(differing)}",
            "calibrate again with the settings of the package's preprocessing",
        )
