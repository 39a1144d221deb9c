"""The float graph that an ONNX artifact is judged by."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calibration.quantization import dequantize
from targets.onnx_graph import refusing
from targets.onnx_integers import Activation, QuantizedGraph

if TYPE_CHECKING:
    import onnx


def float_reference(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """A float graph as the quantizers prepare it, so that an artifact's operators have their names; of a quantized one,
    what its integers stand for, in float.

    Raises UnsupportedError where onnxruntime cannot prepare it.
    """
    if QuantizedGraph(model).activations:
        return _dequantized(model)
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with refusing("diff"), tempfile.TemporaryDirectory() as scratch:
        given, made = Path(scratch) / "given.onnx", Path(scratch) / "made.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        # Shapes that an exporter left may contradict those of nodes that are folded.
        del copy.graph.value_info[:]
        onnx.save(copy, given)
        quant_pre_process(given, made, skip_symbolic_shape=True)
        return onnx.load(made)


def in_float(model: "onnx.ModelProto", run: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """What was seen of a graph, under the names of `float_reference` of it: integers as what they stand for."""
    graph = QuantizedGraph(model)
    named = {a.key: _name(graph, a) for a in graph.activations.values() if a.how is not None}
    samples: list[dict[str, np.ndarray]] = []
    for seen in run:
        values = {name: array for name, array in seen.items() if name not in graph.activations}
        for key, name in named.items():
            activation = graph.activations[key]
            if key in seen and activation.how is not None and name not in values:
                values[name] = dequantize(seen[key], activation.how, activation.axis)
        samples.append(values)
    return samples


def rounded_constants(model: "onnx.ModelProto") -> dict[str, np.ndarray]:
    """Constant of `float_reference` -> the steps between its values, where the graph is quantized itself."""
    return {c.tensor: c.step for c in QuantizedGraph(model).constants.values() if c.op}


def _name(graph: QuantizedGraph, activation: Activation) -> str:
    """The float tensor that integers stand for: the graph's output where they are read as one."""
    return next((r.output for r in activation.readers if r.output in graph.outputs), activation.source)


def _dequantized(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Without Q/DQ pairs: constants in float, and of each pair what it does beside rounding, which is to clip."""
    import onnx
    from onnx import helper, numpy_helper

    graph = QuantizedGraph(model)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    renamed: dict[str, str] = {}
    clips: dict[str, onnx.NodeProto] = {}
    gone: set[str] = set()
    for activation in graph.activations.values():
        if activation.how is None:
            continue
        name = _name(graph, activation)
        gone |= {activation.key, *(reader.output for reader in activation.readers)}
        renamed |= {reader.output: name for reader in activation.readers}
        clipped = activation.source in graph.producer and activation.how.scale.size == 1
        if not clipped or activation.source in clips:
            continue
        ends = dequantize(
            np.array([activation.how.scheme.lowest, activation.how.scheme.highest]), activation.how, activation.axis
        )
        bounds = [f"{name}::low", f"{name}::high"]
        made.graph.initializer.extend(
            numpy_helper.from_array(np.array(end, np.float32), b) for end, b in zip(ends, bounds, strict=True)
        )
        raw = f"{name}::raw"
        clips[activation.source] = helper.make_node("Clip", [raw, *bounds], [name], f"{name}::clip")
    nodes: list[onnx.NodeProto] = []
    for node in made.graph.node:
        if any(name in gone for name in node.output):
            continue
        constant = graph.constants.get(node.output[0]) if node.op_type == "DequantizeLinear" else None
        if constant is not None:
            made.graph.initializer.append(numpy_helper.from_array(constant.values.astype(np.float32), constant.tensor))
            continue
        node.input[:] = [renamed.get(name, name) for name in node.input]
        nodes.append(node)
        for position, name in enumerate(node.output):
            if name in clips:
                node.output[position] = clips[name].input[0]
                nodes.append(clips[name])
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    del made.graph.value_info[:]
    return made
