"""Laws of affine quantization, for every scheme and any finite range."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from calibration.quantization import QuantizationScheme, dequantize, parameters, quantize

SCHEMES = [QuantizationScheme(bits, signed, symmetric) for bits in (7, 8) for signed in (0, 1) for symmetric in (0, 1)]
finite = st.floats(-(2.0**127), 2.0**127, width=32)
schemes = st.sampled_from(SCHEMES)


def of_range(low: float, high: float, scheme: QuantizationScheme):
    return parameters(np.array([low]), np.array([high]), scheme)


@given(finite, finite, st.floats(0, 1), schemes)
def test_inside_the_range_the_error_is_at_most_half_a_step(one, other, share, scheme):
    low, high = min(one, other, 0.0), max(one, other, 0.0)
    how = of_range(low, high, scheme)
    x = np.array([low + share * (high - low)])
    error = abs(float(dequantize(quantize(x, how), how)[0]) - x[0])
    # The zero point is rounded to an integer too, which moves the ends by up to half a step.
    limit = 0.5 if scheme.symmetric else 1.0
    assert error <= how.scale[0] * limit * (1 + 1e-5)


@given(finite, finite, schemes)
def test_zero_is_exact_and_scales_are_numbers(low, high, scheme):
    how = of_range(min(low, high), max(low, high), scheme)
    assert np.isfinite(how.scale).all()
    assert (how.scale > 0).all()
    assert scheme.lowest <= how.zero_point[0] <= scheme.highest
    assert dequantize(quantize(np.zeros(1), how), how)[0] == 0.0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_integers_cover_their_bits_and_no_more(scheme):
    how = of_range(-2.0, 2.0, scheme)
    ends = quantize(np.array([-1e9, 1e9]), how)
    assert ends.tolist() == [scheme.lowest, scheme.highest]
    assert scheme.highest - scheme.lowest == 2**scheme.bits - 1 - (scheme.signed and scheme.symmetric)


@pytest.mark.parametrize("signed", [False, True])
@given(st.lists(st.floats(-40, 40, width=32), min_size=1, max_size=50))
def test_the_integers_are_those_of_onnx(signed, values):
    x = np.array(values, np.float32)
    how = parameters(np.array([-11.0]), np.array([23.0]), QuantizationScheme(signed=signed))
    kind = (onnx.TensorProto.INT8, np.int8) if signed else (onnx.TensorProto.UINT8, np.uint8)
    node = onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None])],
        [onnx.helper.make_tensor_value_info("y", kind[0], [None])],
        [
            onnx.numpy_helper.from_array(how.scale[0], "scale"),
            onnx.numpy_helper.from_array(kind[1](how.zero_point[0]), "zero"),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    theirs = ReferenceEvaluator(model).run(None, {"x": x})[0]
    assert np.abs(quantize(x, how) - theirs.astype(int)).max() <= 1  # they divide in float32, at ties and near them


def test_channels_have_parameters_of_their_own():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7
    low, high = x.min(axis=(0, 2)).astype(float), x.max(axis=(0, 2)).astype(float)
    how = parameters(low, high, QuantizationScheme())
    for axis, array in ((1, x), (-2, x), (0, np.moveaxis(x, 1, 0))):
        restored = dequantize(quantize(array, how, axis), how, axis)
        assert restored.shape == array.shape
        assert np.abs(restored - array).max() <= how.scale.max()
