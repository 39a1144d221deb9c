from dataclasses import replace

import numpy as np
import pytest

from calibration.errors import InputError
from targets.calibration_fit import require_fitting, require_same_preprocessing
from targets.target import TensorSpec
from tests.models import calibration_of, convolutional, transformer


@pytest.mark.parametrize("make", [convolutional, transformer])
def test_a_models_own_inputs_fit(tmp_path, make):
    package = make(tmp_path / "model")
    calibration = calibration_of(package)
    require_fitting(calibration, package)
    require_fitting(replace(calibration, preprocessing=dict(package.preprocessing)), package)


def test_a_symbolic_dimension_takes_any_length(tmp_path):
    package = convolutional(tmp_path / "model")
    free = replace(package, inputs=(TensorSpec("pixel_values", "float32", ("batch", 1, "height", "width")),))
    for side in (12, 20):
        images = {"pixel_values": np.zeros((32, 1, side, 12), np.float32)}
        require_fitting(replace(calibration_of(package), inputs=images), free)


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("pixel_values", np.zeros((32, 1, 12, 13), np.float32), r"float32 \[1, 12, 13\] .* float32 \[1, 12, 12\]"),
        ("pixel_values", np.zeros((32, 12, 12), np.float32), r"float32 \[12, 12\] a sample"),
        ("pixel_values", np.zeros((32, 1, 12, 12), np.float64), "float64"),
        ("pixel_values", np.zeros((32, 1, 12, 12), np.uint8), "is uint8"),
        ("image", np.zeros((32, 1, 12, 12), np.float32), "have the inputs image; the model takes pixel_values"),
    ],
    ids=["size", "dimensions", "double", "bytes", "name"],
)
def test_inputs_that_are_not_the_models_are_refused(tmp_path, name, array, said):
    package = convolutional(tmp_path / "model")
    with pytest.raises(InputError, match=said):
        require_fitting(replace(calibration_of(package), inputs={name: array}), package)


@pytest.mark.parametrize(("key", "value"), [("mean", [0.286]), ("layout", "NHWC"), ("size", [14, 14]), ("extra", 1)])
def test_settings_that_differ_are_named(tmp_path, key, value):
    package = convolutional(tmp_path / "model")
    other = dict(package.preprocessing) | {key: value}
    calibration = replace(calibration_of(package), preprocessing=other)
    with pytest.raises(InputError, match=f"not preprocessed as the model's inputs will be: {key} ") as caught:
        require_fitting(calibration, package)
    assert "calibrate again" in caught.value.next_step
    with pytest.raises(InputError, match=key):
        require_same_preprocessing(package.preprocessing, other)
