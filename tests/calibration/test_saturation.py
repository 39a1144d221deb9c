"""The model of a kernel without VNNI, against ONNX Runtime on such processors: QEMU's Haswell, and this if it is."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from calibration.saturation import (
    LARGEST_PAIR,
    as_matrix,
    is_depthwise,
    largest_pair,
    safe_scales,
    saturating_conv,
    saturating_matmul,
)
from targets.transport.qemu import emulator
from tests.processor import CLIPS
from tests.run_onnx import run

# channels, out channels, kernel, group, stride, dilation
CONVOLUTIONS = [
    (16, 16, (3, 3), 1, 1, 1), (1, 16, (3, 3), 1, 2, 1), (3, 8, (3, 3), 1, 1, 1), (15, 16, (1, 1), 1, 1, 1),
    (64, 64, (3, 3), 1, 1, 1), (16, 16, (3, 3), 16, 1, 1), (16, 32, (3, 3), 16, 1, 1), (8, 16, (3, 3), 2, 1, 1),
    (12, 24, (3, 1), 4, 1, 1), (8, 8, (3, 3), 1, 1, 2), (32, 32, (5, 5), 32, 2, 1), (5, 5, (2, 3), 1, 2, 1),
    (33, 7, (1, 1), 1, 1, 1), (1, 4, (5, 5), 1, 1, 1),
]  # fmt: skip
MATRICES = [(1, 64, 32), (7, 65, 33), (33, 576, 64), (1, 384, 384), (5, 1, 8)]
ONE = np.float32(1)


def save(folder: Path, name: str, node: onnx.NodeProto, weights: list[onnx.TensorProto], x: np.ndarray, kind: int):
    """A model of one node on the uint8 input x."""
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / name)
    np.savez((folder / name).with_suffix(".npz"), x=x)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each model gives here and on a Haswell, by name, and the weights and inputs it was made of."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    made: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for index, (m, k, n) in enumerate(MATRICES):
        x, w = rng.integers(0, 256, (m, k)).astype(np.uint8), rng.integers(-128, 128, (k, n)).astype(np.int8)
        node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
        save(folder, f"matmul{index}.onnx", node, [numpy_helper.from_array(w, "w")], x, TensorProto.INT32)
        made[f"matmul{index}"] = (x, w)
    for index, (channels, out, kernel, group, stride, dilation) in enumerate(CONVOLUTIONS):
        x = rng.integers(0, 256, (2, channels, 11, 13)).astype(np.uint8)
        w = rng.integers(-127, 128, (out, channels // group, *kernel)).astype(np.int8)
        names = ["x", "one", "zero", "w", "ones", "zeros", "coarse", "middle"]
        node = helper.make_node(
            "QLinearConv", names, ["y"], group=group, strides=[stride] * 2, dilations=[dilation] * 2, pads=[1, 0, 2, 1]
        )
        constants = {"one": ONE, "zero": np.uint8(100), "w": w, "ones": np.ones(out, np.float32)}
        constants |= {"zeros": np.zeros(out, np.int8), "coarse": np.float32(2**10), "middle": np.uint8(128)}
        weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
        save(folder, f"conv{index}.onnx", node, weights, x, TensorProto.UINT8)
        made[f"conv{index}"] = (x, w)
    run(folder)
    here = {name: np.load(folder / f"{name}.npy") for name in made}
    script = Path(__file__).parents[1] / "run_onnx.py"
    subprocess.run([*emulator("Haswell"), sys.executable, script, folder], check=True, capture_output=True)
    there = {name: np.load(folder / f"{name}.npy") for name in made}
    return made, here, there


def test_a_matrix_product_is_that_of_the_processor(outputs):
    made, here, there = outputs
    for index in range(len(MATRICES)):
        x, w = made[f"matmul{index}"]
        assert (saturating_matmul(x, w) == there[f"matmul{index}"]).all()
        computed_here = saturating_matmul(x, w) if CLIPS else x.astype(int) @ w.astype(int)
        assert (computed_here == here[f"matmul{index}"]).all()
    x, w = made["matmul2"]
    assert (x.astype(int) @ w.astype(int) != there["matmul2"]).mean() > 0.9


@pytest.mark.parametrize("index", range(len(CONVOLUTIONS)), ids=lambda i: str(CONVOLUTIONS[i]))
def test_a_convolution_is_that_of_the_processor(outputs, index):
    made, here, there = outputs
    (x, w), (_, _, _, group, stride, dilation) = made[f"conv{index}"], CONVOLUTIONS[index]
    sums = saturating_conv(
        x, w, zero_point=100, group=group, strides=(stride,) * 2, dilations=(dilation,) * 2, pads=(1, 0, 2, 1)
    )
    # The scale is a power of two, so that the rounding is exact.
    expected = np.clip(np.rint(sums / 2**10) + 128, 0, 255)
    assert (expected == there[f"conv{index}"]).all()
    if is_depthwise(w, group) or CLIPS:
        assert (here[f"conv{index}"] == there[f"conv{index}"]).all()
    else:
        assert (here[f"conv{index}"] != there[f"conv{index}"]).any()


matrices = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 5)),
    elements=st.floats(-100, 100, width=32) | st.sampled_from([0.0, 1.0, -1.0, 2.0**-149, 2.0**120]),
)


@given(matrices, st.integers(0, 2**32))
def test_with_safe_scales_no_activation_clips(weights, seed):
    scales = safe_scales(weights)
    assert np.isfinite(scales).all()
    assert (scales > 0).all()
    integers = np.clip(np.rint(weights / scales), -128, 127).astype(np.int8)
    assert (largest_pair(integers) <= LARGEST_PAIR).all()
    rng = np.random.default_rng(seed)
    for x in (rng.choice([0, 255], (16, len(weights))), np.full((1, len(weights)), 255)):
        activations = x.astype(np.uint8)
        assert (saturating_matmul(activations, integers) == activations.astype(int) @ integers.astype(int)).all()


@given(matrices)
def test_safe_scales_are_no_coarser_than_seven_bits(weights):
    largest = np.abs(weights).max(axis=0)
    scales = safe_scales(weights)
    normal = largest > 1e-30
    assert (scales[normal] <= largest[normal] / 63.4).all()
    assert (scales[normal] >= largest[normal] / 127.001).all()


def test_weights_in_no_danger_keep_eight_bits():
    weights = np.array([[1.0, 1.0], [0.0, 0.9], [0.5, -1.0], [0.0, 0.0]], np.float32)
    scales = safe_scales(weights)
    assert scales[0] == pytest.approx(1 / 127)
    assert scales[1] == pytest.approx(1.9 / 128, rel=0.02)


def test_scales_are_safe_as_they_are_stored():
    """Of these weights a float64 scale is safe whose float32 lifts two neighbours to 64 and 65."""
    weights = np.array([0.59375, 0.609375, 0.046875, -0.375, 0.078125, -1.0, 0.3125, -0.0625], np.float32)[:, None]
    scales = safe_scales(weights)
    assert largest_pair(np.rint(weights / scales).astype(np.int8)) <= LARGEST_PAIR


def test_the_order_of_summing_is_channels_first():
    weights = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    assert as_matrix(weights)[:4, 0].tolist() == [0, 4, 8, 1]
