"""A quantized ONNX graph as a torch module: what is trained is the graph that the runtime executes.

Every node is executed by a torch function, and what the graph rounds is rounded at that very place. Weights and scales
go back into the same graph by their names: no second description of the model can disagree with the first.
"""

from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from calibration.quantization import SMALLEST_SCALE
from pipeline.fake_quantization import fake_quantize
from pipeline.onnx_operators import OPERATORS
from pipeline.quantized_graph import DEQUANTIZE, QuantizedGraph, Rounding

# A scale trains as its first value x exp(GAIN x parameter): it stays positive, and a step changes it by a share of
# itself: at the learning rate of weights that were trained before (2e-4), by 0.2% at most.
GAIN = 10.0


class QuantizedModule(nn.Module):
    """Called with the graph's inputs in their order, it gives the first output.

    Parameters are the model's weights, and one logarithm for each scale of activations and weights. Zero points stay.
    Raises UnsupportedError naming the node that cannot be trained.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self._graph = graph = QuantizedGraph(model)
        stored = {r.stored: r for r in graph.roundings.values() if r.stored is not None}
        scales = {
            graph.tied[r.scale]
            for r in graph.roundings.values()
            if r.product is None and (r.stored is None or r.stored in graph.weights)
        }
        self._first_scales = {name: graph.tensors[name] for name in graph.tied}
        self._fixed = {name: tensor for name, tensor in graph.tensors.items() if name not in graph.weights}
        for name in stored.keys() - graph.weights:
            self._fixed[name] = self._first_values(stored[name])
        self._names = [*sorted(graph.weights), *sorted(scales)]
        self._trained = nn.ParameterList(
            [
                *(
                    self._first_values(stored[name]) if name in stored else graph.tensors[name].clone()
                    for name in sorted(graph.weights)
                ),
                *(torch.zeros_like(graph.tensors[name]) for name in sorted(scales)),
            ]
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        graph, trained = self._graph, self._parameters_by_name()
        values = {**self._fixed, **trained, **dict(zip(graph.inputs, inputs, strict=True))}
        for node, attributes in zip(graph.nodes, graph.attributes, strict=True):
            rounding = graph.roundings.get(node.output[0])
            taken: list[Any] = [values[name] if name else None for name in node.input]
            if rounding is not None:
                x = taken[0]
                values[node.output[0]] = fake_quantize(x, self._scale(rounding, trained, x.ndim), rounding.integers)
            elif node.op_type == DEQUANTIZE:
                # Fake quantization has dequantized it where it was quantized.
                values[node.output[0]] = taken[0]
            else:
                made = OPERATORS[node.op_type](attributes, taken)
                values |= zip(node.output, made if isinstance(made, tuple) else (made,), strict=False)
        return values[graph.output]

    @torch.no_grad()
    def graph(self) -> onnx.ModelProto:
        """The same graph with the weights and scales as they are now: integers as forward() rounds to them."""
        trained = self._parameters_by_name()
        arrays: dict[str, Tensor] = {name: trained[name] for name in self._graph.weights}
        for rounding in self._graph.roundings.values():
            arrays[rounding.scale] = self._plain_scale(rounding, trained).expand_as(self._graph.tensors[rounding.scale])
            if rounding.stored is not None:
                arrays[rounding.stored] = self._stored_now(rounding, rounding.stored, trained)
        for name in self._graph.tied:
            arrays.setdefault(name, self._scale_now(name, trained))
        model = onnx.ModelProto()
        model.CopyFrom(self._graph.model)
        for tensor in model.graph.initializer:
            if tensor.name in arrays:
                array = arrays[tensor.name].contiguous().numpy()
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        return model

    def _stored_now(self, rounding: Rounding, name: str, trained: dict[str, Tensor]) -> Tensor:
        """What the graph stores of a rounded weight: integers, or floats that round to them."""
        x, kind = trained[name] if name in trained else self._fixed[name], self._graph.tensors[name].dtype
        scale = self._scale(rounding, trained, x.ndim)
        whole = rounding.integers.of(x / scale)
        if kind.is_floating_point:
            return self._graph.tensors[name] if name not in trained else whole * scale
        return (whole + rounding.integers.zero_point).to(torch.int64).to(kind)

    def _parameters_by_name(self) -> dict[str, Tensor]:
        return dict(zip(self._names, self._trained, strict=True))

    def _first_values(self, rounding: Rounding) -> Tensor:
        """What an initializer stands for."""
        tensor = self._graph.tensors[rounding.stored or ""]
        if tensor.dtype.is_floating_point:
            return tensor.clone()
        scale = rounding.along(self._graph.tensors[rounding.scale], tensor.ndim)
        return ((tensor.double() - rounding.integers.zero_point) * scale).float()

    def _scale(self, rounding: Rounding, trained: dict[str, Tensor], dimensions: int) -> Tensor:
        return rounding.along(self._plain_scale(rounding, trained), dimensions)

    def _plain_scale(self, rounding: Rounding, trained: dict[str, Tensor]) -> Tensor:
        if rounding.product is None:
            return self._scale_now(rounding.scale, trained)
        # A bias has steps so small that they need no gradient.
        x, w = (self._scale_now(name, trained).detach() for name in rounding.product)
        return x * w

    def _scale_now(self, name: str, trained: dict[str, Tensor]) -> Tensor:
        root = self._graph.tied[name]
        first = self._first_scales[root]
        if root not in trained:
            return first
        return (first * torch.exp(GAIN * trained[root])).clamp(min=SMALLEST_SCALE)
