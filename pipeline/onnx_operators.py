"""ONNX operators as torch functions, which gradients flow through: those of the models that are trained after export.

Each takes a node's attributes and its inputs, None for one that is left out, and gives its first output, or a tuple of
all. They follow ONNX's definition of operator sets 13 and later (onnx.ai/onnx/operators).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from calibration.errors import UnsupportedError

Attributes = Mapping[str, Any]
Inputs = Sequence[Any]
Operator = Callable[[Attributes, Inputs], Any]

OLDEST_OPSET = 13


def _given(inputs: Inputs, count: int) -> list[Any]:
    """So many inputs, None for those that are left out at the end."""
    return [*inputs, *[None] * (count - len(inputs))]


def _elementwise(function: Callable[..., Tensor]) -> Operator:
    return lambda _, x: function(*x)


def _pads(a: Attributes, x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """The input padded with zeros as the node says."""
    pads = _padding(a, x.shape[2:], kernel, strides, dilations)
    return F.pad(x, pads) if any(pads) else x


def _padding(
    a: Attributes, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """As torch's pad wants it: before and after of the last axis first."""
    n = len(kernel)
    begins, ends = list(a.get("pads", [0] * 2 * n))[:n], list(a.get("pads", [0] * 2 * n))[n:]
    automatic = a.get("auto_pad", b"NOTSET").decode()
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        for d in range(n):
            outputs = -(-sizes[d] // strides[d])
            total = max(0, (outputs - 1) * strides[d] + (kernel[d] - 1) * dilations[d] + 1 - sizes[d])
            less, more = total // 2, total - total // 2
            begins[d], ends[d] = (less, more) if automatic == "SAME_UPPER" else (more, less)
    return [pad for d in reversed(range(n)) for pad in (begins[d], ends[d])]


def _conv(a: Attributes, inputs: Inputs) -> Tensor:
    x, w, b = _given(inputs, 3)
    n = w.ndim - 2
    strides, dilations = a.get("strides", [1] * n), a.get("dilations", [1] * n)
    pads = _padding(a, x.shape[2:], w.shape[2:], strides, dilations)
    # Equal padding is the convolution's own business, which spares a copy.
    equal = pads[::2] == pads[1::2]
    function = (F.conv1d, F.conv2d, F.conv3d)[n - 1]
    padding = pads[::2][::-1] if equal else [0] * n
    return function(x if equal else F.pad(x, pads), w, b, strides, padding, dilations, a.get("group", 1))


def _pool_settings(a: Attributes) -> tuple[list[int], list[int], list[int]]:
    kernel = list(a["kernel_shape"])
    return kernel, list(a.get("strides", [1] * len(kernel))), list(a.get("dilations", [1] * len(kernel)))


def _max_pool(a: Attributes, inputs: Inputs) -> Tensor:
    [x] = inputs
    kernel, strides, dilations = _pool_settings(a)
    pads = _padding(a, x.shape[2:], kernel, strides, dilations)
    x = F.pad(x, pads, value=-torch.inf) if any(pads) else x
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    return function(x, kernel, strides, 0, dilations, ceil_mode=bool(a.get("ceil_mode", 0)))


def _average_pool(a: Attributes, inputs: Inputs) -> Tensor:
    [x] = inputs
    kernel, strides, dilations = _pool_settings(a)
    if a.get("ceil_mode", 0) or any(d != 1 for d in dilations):
        raise UnsupportedError("AveragePool with ceil_mode or dilations has no form that can be trained")
    function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
    sums = function(_pads(a, x, kernel, strides, dilations), kernel, strides)
    if a.get("count_include_pad", 0):
        return sums
    counted = function(_pads(a, torch.ones_like(x[:1, :1]), kernel, strides, dilations), kernel, strides)
    return sums / counted


def _gemm(a: Attributes, inputs: Inputs) -> Tensor:
    x, w, c = _given(inputs, 3)
    x = x.T if a.get("transA", 0) else x
    y = x @ (w.T if a.get("transB", 0) else w) * a.get("alpha", 1.0)
    return y if c is None else y + c * a.get("beta", 1.0)


def _axes(a: Attributes, inputs: Inputs) -> list[int] | None:
    """An input since opset 13 (ReduceSum, Squeeze) or 18 (the other reductions), an attribute before."""
    if len(inputs) > 1 and inputs[1] is not None:
        return [int(axis) for axis in inputs[1]]
    return list(a["axes"]) if "axes" in a else None


def _reduce(function: Callable[..., Tensor]) -> Operator:
    def reduce(a: Attributes, inputs: Inputs) -> Tensor:
        axes = _axes(a, inputs)
        if not axes and a.get("noop_with_empty_axes", 0):
            return inputs[0]
        return function(inputs[0], axes or list(range(inputs[0].ndim)), keepdim=bool(a.get("keepdims", 1)))

    return reduce


def _global(function: Callable[..., Tensor]) -> Operator:
    return lambda _, x: function(x[0], list(range(2, x[0].ndim)), keepdim=True)


def _reshape(a: Attributes, inputs: Inputs) -> Tensor:
    x, shape = inputs[0], [int(d) for d in inputs[1]]
    keep = not a.get("allowzero", 0)
    return x.reshape([x.shape[i] if d == 0 and keep else d for i, d in enumerate(shape)])


def _flatten(a: Attributes, inputs: Inputs) -> Tensor:
    [x] = inputs
    axis = a.get("axis", 1) % (x.ndim + 1)
    return x.reshape(int(torch.tensor(x.shape[:axis]).prod()), -1)


def _squeeze(a: Attributes, inputs: Inputs) -> Tensor:
    axes = _axes(a, inputs)
    return inputs[0].squeeze() if axes is None else inputs[0].squeeze(axes)


def _unsqueeze(a: Attributes, inputs: Inputs) -> Tensor:
    x, axes = inputs[0], _axes(a, inputs) or []
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(a: Attributes, inputs: Inputs) -> Tensor:
    return inputs[0].permute(a.get("perm", list(range(inputs[0].ndim))[::-1]))


def _slice(_: Attributes, inputs: Inputs) -> Tensor:
    x, starts, ends, axes, steps = _given(inputs, 5)
    axes = list(range(len(starts))) if axes is None else axes.tolist()
    for axis, start, end, step in zip(
        axes, starts.tolist(), ends.tolist(), [1] * len(axes) if steps is None else steps.tolist(), strict=True
    ):
        chosen = range(x.shape[axis])[
            slice(start, end, step) if step > 0 or end >= -x.shape[axis] else slice(start, None, step)
        ]
        x = x.narrow(axis, chosen.start, len(chosen)) if step == 1 else x.index_select(axis, torch.tensor(chosen))
    return x


def _split(a: Attributes, inputs: Inputs) -> tuple[Tensor, ...]:
    x, sizes = _given(inputs, 2)
    axis, count = a.get("axis", 0), a.get("num_outputs", a["outputs"])
    if sizes is not None:
        return x.split([int(s) for s in sizes], axis)
    return x.split(-(-x.shape[axis] // count), axis)


def _gather(a: Attributes, inputs: Inputs) -> Tensor:
    x, index = inputs
    axis = a.get("axis", 0) % x.ndim
    found = x.index_select(axis, index.reshape(-1).to(torch.int64) % x.shape[axis])
    return found.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


def _pad(a: Attributes, inputs: Inputs) -> Tensor:
    x, pads, value, axes = _given(inputs, 4)
    mode = a.get("mode", b"constant").decode()
    if mode != "constant":
        raise UnsupportedError(f"Pad of mode {mode} has no form that can be trained")
    by_axis = dict.fromkeys(range(x.ndim), (0, 0))
    named = range(x.ndim) if axes is None else [int(axis) % x.ndim for axis in axes]
    half = len(pads) // 2
    by_axis |= {axis: (int(pads[i]), int(pads[half + i])) for i, axis in enumerate(named)}
    flat = [pad for d in reversed(range(x.ndim)) for pad in by_axis[d]]
    return F.pad(x, flat, value=0.0 if value is None else float(value))


def _clip(_: Attributes, inputs: Inputs) -> Tensor:
    x, low, high = _given(inputs, 3)
    return x.clamp(None if low is None else float(low), None if high is None else float(high))


def _layer_normalization(a: Attributes, inputs: Inputs) -> Tensor:
    x, scale, bias = _given(inputs, 3)
    return F.layer_norm(x, x.shape[a.get("axis", -1) % x.ndim :], scale, bias, a.get("epsilon", 1e-5))


def _batch_normalization(a: Attributes, inputs: Inputs) -> Tensor:
    x, scale, bias, mean, variance = inputs
    return F.batch_norm(x, mean, variance, scale, bias, eps=a.get("epsilon", 1e-5))


def _gelu(a: Attributes, inputs: Inputs) -> Tensor:
    return F.gelu(inputs[0], approximate=a.get("approximate", b"none").decode())


def _hard_sigmoid(a: Attributes, inputs: Inputs) -> Tensor:
    return (inputs[0] * a.get("alpha", 0.2) + a.get("beta", 0.5)).clamp(0.0, 1.0)


def _prelu(_: Attributes, inputs: Inputs) -> Tensor:
    x, slope = inputs
    return torch.where(x >= 0, x, x * slope)


def _shape(a: Attributes, inputs: Inputs) -> Tensor:
    return torch.tensor(inputs[0].shape[a.get("start", 0) : a.get("end", inputs[0].ndim)], dtype=torch.int64)


def _constant_of_shape(a: Attributes, inputs: Inputs) -> Tensor:
    value = a.get("value", torch.zeros(1))
    return value.reshape(()).expand([int(d) for d in inputs[0]]).clone()


def _expand(_: Attributes, inputs: Inputs) -> Tensor:
    x, shape = inputs
    return x.expand(torch.broadcast_shapes(x.shape, [int(d) for d in shape]))


def _divide(_: Attributes, inputs: Inputs) -> Tensor:
    x, y = inputs
    return x / y if x.dtype.is_floating_point else torch.div(x, y, rounding_mode="trunc")


def _power(_: Attributes, inputs: Inputs) -> Tensor:
    # A scalar exponent, which torch knows to be constant, keeps the gradient of x^2 at 0 finite.
    return inputs[0] ** (inputs[1].item() if inputs[1].numel() == 1 else inputs[1])


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def fold(_: Attributes, inputs: Inputs) -> Tensor:
        total = inputs[0]
        for x in inputs[1:]:
            total = function(total, x)
        return total

    return fold


OPERATORS: dict[str, Operator] = {
    "Abs": _elementwise(torch.abs),
    "Add": _elementwise(torch.add),
    "And": _elementwise(torch.logical_and),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": lambda a, x: x[0].to(a["to"]),
    "Clip": _clip,
    "Concat": lambda a, x: torch.cat(list(x), a["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "Cos": _elementwise(torch.cos),
    "Div": _divide,
    "Dropout": lambda _, x: x[0],
    "Elu": lambda a, x: F.elu(x[0], a.get("alpha", 1.0)),
    "Equal": _elementwise(torch.eq),
    "Erf": _elementwise(torch.erf),
    "Exp": _elementwise(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global(torch.mean),
    "GlobalMaxPool": _global(torch.amax),
    "Greater": _elementwise(torch.gt),
    "GreaterOrEqual": _elementwise(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _elementwise(F.hardswish),
    "Identity": lambda _, x: x[0],
    "IsNaN": _elementwise(torch.isnan),
    "LayerNormalization": _layer_normalization,
    "LeakyRelu": lambda a, x: F.leaky_relu(x[0], a.get("alpha", 0.01)),
    "Less": _elementwise(torch.lt),
    "LessOrEqual": _elementwise(torch.le),
    "Log": _elementwise(torch.log),
    "LogSoftmax": lambda a, x: x[0].log_softmax(a.get("axis", -1)),
    "MatMul": _elementwise(torch.matmul),
    "Max": _variadic(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _variadic(torch.minimum),
    "Mul": _elementwise(torch.mul),
    "Neg": _elementwise(torch.neg),
    "Not": _elementwise(torch.logical_not),
    "Or": _elementwise(torch.logical_or),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _power,
    "Range": lambda _, x: torch.arange(*(part.item() for part in x), dtype=x[0].dtype),
    "Reciprocal": _elementwise(torch.reciprocal),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _elementwise(F.relu),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _elementwise(torch.sigmoid),
    "Sin": _elementwise(torch.sin),
    "Slice": _slice,
    "Softmax": lambda a, x: x[0].softmax(a.get("axis", -1)),
    "Softplus": _elementwise(F.softplus),
    "Split": _split,
    "Sqrt": _elementwise(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _elementwise(torch.sub),
    "Sum": _variadic(torch.add),
    "Tanh": _elementwise(torch.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(torch.where),
}
