import numpy as np
import onnxruntime
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from calibration.saturation import LARGEST_PAIR, largest_pair
from pipeline.fake_quantization import RANGES, Integers, fake_quantize, without_clipping_pairs

TYPES = {torch.uint8: TensorProto.UINT8, torch.int8: TensorProto.INT8}


def session(kind: int) -> onnxruntime.InferenceSession:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["whole"]),
        helper.make_node("DequantizeLinear", ["whole", "scale", "zero"], ["y"]),
    ]
    ports = [("x", TensorProto.FLOAT, ["n"]), ("scale", TensorProto.FLOAT, []), ("zero", kind, [])]
    graph = helper.make_graph(
        nodes,
        "pair",
        [helper.make_tensor_value_info(*port) for port in ports],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


SESSIONS = {dtype: session(kind) for dtype, kind in TYPES.items()}


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    scale=st.floats(2**-20, 2**10, width=32),
    dtype=st.sampled_from(list(TYPES)),
    share=st.floats(0, 1),
)
def test_values_are_rounded_as_onnx_runtime_rounds_them(values, scale, dtype, share):
    lowest, highest = RANGES[dtype]
    zero = round(lowest + share * (highest - lowest))
    x = np.array(values, np.float32)
    zeros = np.array(zero, np.uint8 if dtype is torch.uint8 else np.int8)
    expected = SESSIONS[dtype].run(None, {"x": x, "scale": np.array(scale, np.float32), "zero": zeros})[0]
    integers = Integers(torch.tensor(float(zero)), lowest, highest)
    found = fake_quantize(torch.from_numpy(x), torch.tensor(scale, dtype=torch.float32), integers)
    np.testing.assert_array_equal(found.numpy(), expected)


@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40))
def test_gradients_are_those_of_learned_step_size_quantization(values):
    x = torch.tensor(values, requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    fake_quantize(x, scale, Integers(torch.zeros(()), -127, 127)).sum().backward()
    steps = np.array(values, np.float32) / np.float32(0.1)
    inside = np.abs(steps) <= 127.5
    np.testing.assert_array_equal(x.grad, inside)
    slopes = np.where(inside, np.rint(steps) - steps, 127 * np.sign(steps))
    np.testing.assert_allclose(scale.grad, slopes.sum() / np.sqrt(127 * len(values)), atol=1e-4)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 5))
def test_no_pair_clips_and_what_could_not_stays(seed, rows, columns):
    weights = np.random.default_rng(seed).integers(-127, 128, (rows, columns))
    found = without_clipping_pairs(torch.from_numpy(weights).float(), (0, 1)).numpy().astype(int)
    assert largest_pair(found).max() <= LARGEST_PAIR
    assert (found * weights >= 0).all()
    assert (np.abs(found) <= np.abs(weights)).all()
    safe = largest_pair(weights) <= LARGEST_PAIR
    np.testing.assert_array_equal(found[:, safe], weights[:, safe])
    # No more is taken away than what is too much.
    for a in range(0, rows - 1, 2):
        changed = (found[a : a + 2] != weights[a : a + 2]).any(axis=0)
        assert (np.abs(found[a : a + 2]).sum(axis=0)[changed] == LARGEST_PAIR).all()
