import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from targets.device.errors import BundleError, CallError
from targets.device.preprocess import preprocess

MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.5, 1.0]
IMAGE = {
    "kind": "image",
    "input": "pixel_values",
    "column": "image",
    "size": [4, 5],
    "channels": 3,
    "mean": MEAN,
    "std": STD,
    "layout": "NCHW",
}
IDS = ["input_ids", "attention_mask"]
TEXT = {"kind": "text", "inputs": IDS, "max_length": 6, "tokenizer": "tokenizer.json"}


@given(arrays(np.uint8, st.tuples(st.integers(0, 3), st.just(4), st.just(5), st.just(3))))
def test_images_can_be_got_back_from_the_model_input(images):
    inputs = preprocess(IMAGE, {"image": images})["pixel_values"]
    assert (inputs.dtype, inputs.shape) == (np.float32, (len(images), 3, 4, 5))
    assert inputs.flags.c_contiguous
    back = (inputs.transpose(0, 2, 3, 1) * STD + MEAN) * 255
    np.testing.assert_array_equal(back.round().astype(np.uint8), images)


def test_the_other_layout_keeps_the_channels_last():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    last = preprocess(IMAGE | {"layout": "NHWC"}, {"image": images})["pixel_values"]
    first = preprocess(IMAGE, {"image": images})["pixel_values"]
    np.testing.assert_array_equal(last.transpose(0, 3, 1, 2), first)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16])
def test_token_ids_become_int64_unchanged(dtype):
    columns = {name: np.arange(12, dtype=dtype).reshape(2, 6) for name in IDS}
    inputs = preprocess(TEXT, columns | {"label": np.zeros(2)})
    assert list(inputs) == IDS
    for name in inputs:
        assert inputs[name].dtype == np.int64
        np.testing.assert_array_equal(inputs[name], columns[name])


@pytest.mark.parametrize(
    ("settings", "columns", "words"),
    [
        (IMAGE, {"picture": np.zeros((1, 4, 5, 3), np.uint8)}, "no column 'image' among picture"),
        (IMAGE, {"image": np.zeros((1, 5, 4, 3), np.uint8)}, r"not uint8 \[N, 4, 5, 3\]"),
        (IMAGE, {"image": np.zeros((1, 4, 5, 3), np.float32)}, "float32"),
        (TEXT, {"input_ids": np.zeros((1, 6), np.int64)}, "no column 'attention_mask'"),
        (TEXT, {"input_ids": np.zeros((1, 7), np.int64)}, r"not integers \[N, 6\]"),
        (TEXT, {"input_ids": np.zeros((1, 6))}, "float64"),
    ],
)
def test_columns_that_do_not_fit_are_refused(settings, columns, words):
    with pytest.raises(CallError, match=words):
        preprocess(settings, columns)


@pytest.mark.parametrize("kind", ["audio", None, "__init__", ["image"]])
def test_an_unknown_kind_is_refused_with_those_there_are(kind):
    with pytest.raises(BundleError, match="is not known"):
        preprocess({"kind": kind}, {})
