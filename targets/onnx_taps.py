"""ONNX graphs whose inner tensors can be seen, or given."""

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from targets.onnx_integers import PAIR, QuantizedGraph

if TYPE_CHECKING:
    import onnx

# What a runtime fuses into the product before it, on the way to its quantized result.
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh")
# What only moves values: a runtime may round them before instead of behind it.
MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "Slice", "Identity")
GIVEN = "given::"


def float_names(model: "onnx.ModelProto") -> set[str]:
    """Names of the computed tensors that are float."""
    import onnx

    typed = onnx.shape_inference.infer_shapes(model).graph
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    known = (*typed.value_info, *typed.output)
    floats = {value.name for value in known if value.type.tensor_type.elem_type in kinds}
    return floats & {name for node in model.graph.node for name in node.output}


def observable(graph: QuantizedGraph) -> list[str]:
    """The tensors that can be looked at without changing which kernels run, in topological order.

    Between a DequantizeLinear, an operator and a QuantizeLinear a runtime puts one integer kernel: of those only the
    integers are looked at.
    """
    floats = float_names(graph.model)
    seen: list[str] = []
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            seen += [node.output[0]] if node.output[0] in graph.activations else []
        elif node.op_type == "DynamicQuantizeLinear":
            seen += list(node.output)
        elif node.op_type not in PAIR:
            seen += [name for name in node.output if name in floats and not _fused(graph, name)]
    return list(dict.fromkeys([*seen, *graph.outputs]))


def _fused(graph: QuantizedGraph, name: str) -> bool:
    readers = [graph.nodes[index] for index in graph.consumers.get(name, [])]
    if any(node.op_type == "QuantizeLinear" for node in readers):
        return True
    if any(node.op_type in MOVES and _fused(graph, node.output[0]) for node in readers):
        return True
    return len(readers) == 1 and readers[0].op_type in ACTIVATIONS and _fused(graph, readers[0].output[0])


def tapped(model: "onnx.ModelProto", names: Iterable[str]) -> "onnx.ModelProto":
    """The same graph with these tensors as further outputs."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    there = {output.name for output in made.graph.output}
    made.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in there)
    return made


def cut(
    model: "onnx.ModelProto",
    edges: Mapping[tuple[int, int], str],
    constants: "Mapping[tuple[int, int], onnx.TensorProto]",
    outputs: Collection[str],
    types: Mapping[str, int] | None = None,
) -> "onnx.ModelProto":
    """A graph whose operators are given their inputs instead of each other's results.

    edges: (node's index, input's index) -> name of what is given there; the graph gets an input GIVEN + name, of the
    element type in `types`, else float32. constants: what stands in place of an input that is constant. outputs: names.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    for (index, position), name in edges.items():
        graph.node[index].input[position] = GIVEN + name
    for (index, position), tensor in constants.items():
        tensor.name = f"own::{index}:{position}"
        graph.initializer.append(tensor)
        graph.node[index].input[position] = tensor.name
    del graph.value_info[:]
    del graph.output[:]
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
    kinds = types or {}
    graph.input.extend(
        onnx.helper.make_tensor_value_info(GIVEN + name, kinds.get(name, onnx.TensorProto.FLOAT), None)
        for name in dict.fromkeys(edges.values())
    )
    return made
