"""Each integer product of an artifact by itself: the emulation against a CPU without VNNI, both given the same inputs.

End to end the two do not start from the same inputs in any layer but the first: the runtime's float kernels for AVX2
and for AVX-512 differ in the last bit, a range that is taken at run time moves with it, and so do the integers of all
layers behind. The emulation is of integer arithmetic and has no part in that. So what went into each product there is
recorded and handed to the emulation of that product here, and its result is compared with the one recorded.

To run the emulating graph on the other CPU as well would also give both the same float kernels. But then the emulation
would not be computed here, where it is used; one fault would count again in every layer behind it; and compared would
be 8-bit tensors only, of which dynamic models have few: the sums of their products never leave the fused operators.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from targets.onnx_products import OPERANDS, optimized
from targets.onnx_saturation import without_vnni

# All, also those that are exact everywhere: taking one of the others for such is a fault of the emulation.
OPERATORS = (*OPERANDS, "ConvInteger")
# Up to this a sum is told from the next one after float32 rounded it twice: times its step, and with a bias.
LARGEST_KNOWN = 2.0**21
# Between the ends of a range of 8 bits.
STEPS = 255
GIVEN = "given/"


@dataclass(frozen=True)
class ProductAgreement:
    """Of one model: the outputs of its integer products, each given the inputs it had on the emulated processor.

    integers: how many were compared. equal: share of them. clipped: how many are, there, other than the exact product;
    clipped_equal: share of these that is equal, NaN where none is.
    """

    integers: int
    equal: float
    clipped: int
    clipped_equal: float


def operands_and_results(executed: onnx.ModelProto) -> list[str]:
    """Names of what goes into the integer products of an optimized graph, and comes out; inputs and constants apart."""
    known = {value.name for value in executed.graph.input} | {tensor.name for tensor in executed.graph.initializer}
    names = [name for node in _integer_products(executed) for name in (*node.input, node.output[0])]
    return [name for name in dict.fromkeys(names) if name and name not in known]


def same_inputs(graph: onnx.ModelProto, there: Mapping[str, np.ndarray]) -> ProductAgreement:
    """graph: the artifact. there: name -> [samples, ...], of operands_and_results and of the inputs, recorded there.

    A result is an integer, or a float that stands for one: a sum of 32 bits, which the same kernel multiplies by a step
    and adds a bias to. Two such are equal that are less than half a step apart; one too large to tell counts as not.
    """
    executed = optimized(graph)
    nodes = _integer_products(executed)
    operands = {name for node in nodes for name in node.input if name in there}
    results = [node.output[0] for node in nodes]
    emulated, exact = (
        _session(_cut(whole, operands, results, there))
        for whole in (without_vnni(graph), without_vnni(graph, layers=()))
    )
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in executed.graph.initializer}
    total = equal = clipped = clipped_equal = 0
    for sample in range(len(there[results[0]]) if results else 0):
        values = constants | {name: np.asarray(array[sample]) for name, array in there.items()}
        feed = {f"{GIVEN}{name}": values[name] for name in operands}
        here, unclipped = (session.run(results, feed) for session in (emulated, exact))
        for node, ours, plain in zip(nodes, here, unclipped, strict=True):
            agrees = _equal(node, np.asarray(ours), values)
            differs = ~_equal(node, np.asarray(plain), values)
            total, equal = total + agrees.size, equal + int(agrees.sum())
            clipped, clipped_equal = clipped + int(differs.sum()), clipped_equal + int((differs & agrees).sum())
    share, clipped_share = (
        part / whole if whole else float("nan") for part, whole in ((equal, total), (clipped_equal, clipped))
    )
    return ProductAgreement(total, share, clipped, clipped_share)


def _session(graph: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _integer_products(executed: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in executed.graph.node if node.op_type in OPERATORS]


def _equal(node: onnx.NodeProto, ours: np.ndarray, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Bool of the result's shape."""
    there = values[node.output[0]]
    if there.dtype.kind in "iu":
        return np.asarray(ours == there)
    step = _step(node, values)
    known = np.abs(there) < LARGEST_KNOWN * step
    return known & (np.abs(ours.astype(np.float64) - there) < step / 2)


def _step(node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """What one is worth of the 32-bit sums behind a float result, for each of the last axis, or for all."""
    x, _, x_scale, w_scale, *_ = OPERANDS[node.op_type]
    if node.op_type == "DynamicQuantizeMatMul":
        # As DynamicQuantizeLinear has it.
        activations = values[node.input[x]]
        made = np.float32((max(activations.max(), 0) - min(activations.min(), 0)) / STEPS)
    else:
        made = values[node.input[x_scale]]
    alpha = next((attribute.f for attribute in node.attribute if attribute.name == "alpha"), 1.0)
    return np.asarray(made, np.float64) * values[node.input[w_scale]] * alpha


def _cut(
    whole: onnx.ModelProto, operands: Collection[str], results: Collection[str], there: Mapping[str, np.ndarray]
) -> onnx.ModelProto:
    """Only what makes the results of the operands, all of which are inputs then, even where one result is another's."""
    makers = {name: node for node in whole.graph.node for name in node.output}
    given = {name: f"{GIVEN}{name}" for name in operands}
    needed, wanted = set[str](), list(results)
    while wanted:
        name = wanted.pop()
        if name in makers and name not in needed:
            node = makers[name]
            needed.update(node.output)
            wanted += [operand for operand in node.input if operand not in given]
    kept = [node for node in whole.graph.node if needed.intersection(node.output)]
    read = {name for node in kept for name in node.input}
    cut = onnx.ModelProto()
    cut.CopyFrom(whole)
    del cut.graph.node[:], cut.graph.input[:], cut.graph.output[:], cut.graph.initializer[:]
    for node in kept:
        renamed = cut.graph.node.add()
        renamed.CopyFrom(node)
        renamed.input[:] = [given.get(name, name) for name in node.input]
    cut.graph.initializer.extend(tensor for tensor in whole.graph.initializer if tensor.name in read)
    for name in operands:
        kind = onnx.helper.np_dtype_to_tensor_dtype(there[name].dtype)
        cut.graph.input.append(onnx.helper.make_tensor_value_info(given[name], kind, None))
    cut.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in results)
    return cut
