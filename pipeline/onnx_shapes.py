"""Shape arithmetic that exporters leave in a graph, done once instead of for every sample.

The only axis that is free is the batch (pipeline.onnx_graph.conform). So what is computed from shapes alone is seen by
running the graph on batches of some sizes: what is the same for all is a constant, and a target shape that differs in
the batch alone can be written without it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from targets.onnx_graph import DEFAULT_DOMAINS, session_errors
from targets.onnx_ranges import open_session

if TYPE_CHECKING:
    import onnx

# Several: what is as large as one of them by chance must not be taken for fixed.
BATCHES = (1, 2, 3, 5, 16)
SHAPES = ("Shape", "Size")
# The inputs that decide on the shape of what a node gives; of these operators no other input does.
DECIDING = {
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Squeeze", "Unsqueeze", "Split", "TopK", "OneHot", "Pad"), (1, 3)),
    **dict.fromkeys(("Slice", "Resize"), (1, 2, 3, 4)),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2"), (1,)),
    **dict.fromkeys(("ReduceL1", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"), (1,)),
    **dict.fromkeys(("Range", "ConstantOfShape", "HannWindow", "HammingWindow", "BlackmanWindow"), (0, 1, 2)),
    **dict.fromkeys(("CenterCropPad", "Col2Im", "Upsample", "MaxUnpool", "AffineGrid", "DFT", "STFT"), (1, 2, 3)),
}
# The shape of what these give depends on values, or they hold graphs that were not looked into, or differ by the run.
UNKNOWN = re.compile(
    r"NonZero|Unique|NonMaxSuppression|Compress|If|Loop|Scan|StringSplit|ImageDecoder|MelWeightMatrix|Bernoulli"
    r"|Multinomial|Random\w+|Optional\w*|\w*Sequence\w*"
)
# What these make of shapes grows with the batch evenly: where it is the same for BATCHES, it is for all.
EVEN = frozenset(
    ("Concat", "Reshape", "Flatten", "Transpose", "Expand", "ConstantOfShape", "Identity", "Add", "Sub", "Mul", "Neg")
)
# float32, int32, int64, float64
WIDE = (1, 6, 7, 11)
# Those that bring a tensor to a shape, with all its values or none.
TARGETED = ("Reshape", "Expand", "ConstantOfShape")
# Of the largest value: float32 sums in another order.
TOLERANCE = 1e-4


class Read(NamedTuple):
    """Where a node reads a value: its input of that number. source: the node's first input."""

    node: "onnx.NodeProto"
    number: int
    value: str
    source: str

    @property
    def is_target(self) -> bool:
        """Whether it is the shape that something is brought to."""
        return self.node.op_type in ("Reshape", "Expand") and self.number == 1

    @property
    def is_state(self) -> bool:
        """Whether it is a state that a recurrent layer begins with: zero where there is none."""
        return self.node.op_type in ("LSTM", "GRU", "RNN") and self.number in (5, 6)


def settled(graph: "onnx.ModelProto", batches: Sequence[Mapping[str, np.ndarray]]) -> "onnx.ModelProto":
    """The graph without the shape arithmetic that always has the same result; as it is where that cannot be told.

    batches: inputs of BATCHES samples. What was changed gives the same answers to them.
    """
    import onnx

    found = onnx.ModelProto()
    found.CopyFrom(graph)
    try:
        fixed = _of_shapes_alone(found, batches)
        changed = _constants_in(found, fixed, batches) + _transposed_at_once(found, batches)
        if not changed:
            return graph
        _drop_unread(found.graph)
        before, after = (_values(model, ["logits"], batches)["logits"] for model in (graph, found))
    except (*session_errors(), RuntimeError):  # the latter for types that numpy does not have
        return graph
    return found if all(map(_agree, before, after)) else graph


def _agree(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype.kind != "f":
        return np.array_equal(one, other)
    largest = np.abs(one[np.isfinite(one)]).max(initial=1.0)
    return bool(np.allclose(one, other, rtol=0, atol=TOLERANCE * largest, equal_nan=True))


def _of_shapes_alone(model: "onnx.ModelProto", batches: Sequence[Mapping[str, np.ndarray]]) -> set[str]:
    """Tensors that are computed from shapes, evenly; none where shapes may depend on more than that."""
    nodes = model.graph.node
    if any(node.domain not in DEFAULT_DOMAINS or UNKNOWN.fullmatch(node.op_type) for node in nodes):
        return set()
    constant, fixed = {tensor.name for tensor in model.graph.initializer} | {""}, set[str]()
    for node in nodes:
        known = constant | fixed
        if any(name not in known for name in _deciding(node)):
            return set()
        if node.op_type in SHAPES or (fixed & set(node.input) and all(name in known for name in node.input)):
            fixed |= set(node.output) - {""}
        elif all(name in constant for name in node.input):
            constant |= set(node.output)
    inner = [node for node in nodes if fixed & set(node.output) and node.op_type not in SHAPES]
    values = _values(model, fixed | {name for node in inner for name in node.input if name}, batches)
    uneven: set[str] = set()
    for node in inner:
        if uneven & set(node.input) or not _is_even(node, values):
            uneven |= set(node.output)
    varying = {name for name, seen in values.items() if not _same(seen)}
    # Cut or repeated as often as the batch says, a tensor has a size that may stop growing with it.
    risky = varying | uneven
    if any((uneven if node.op_type in TARGETED else risky) & set(_deciding(node)) for node in nodes):
        return set()
    return fixed - uneven


def _is_even(node: "onnx.NodeProto", values: Mapping[str, Sequence[np.ndarray]]) -> bool:
    """Whether what it makes of sizes grows evenly with them."""
    varying = [name for name in node.input if name and not _same(values[name])]
    match node.op_type:
        case "Where":
            return node.input[0] not in varying
        case "Equal":
            # What exporters ask of a shape: no size is below zero.
            return any((array < 0).all() for name in node.input for array in values[name][:1] if name not in varying)
        case "Cast":
            # A type of fewer bits starts again from zero.
            return not varying or next(a.i for a in node.attribute if a.name == "to") in WIDE
        case "Gather" | "Slice" | "Split" | "Squeeze" | "Unsqueeze":
            return set(varying) <= {node.input[0]}
        case _:
            return not varying or node.op_type in EVEN


def _deciding(node: "onnx.NodeProto") -> list[str]:
    return [node.input[number] for number in DECIDING.get(node.op_type, ()) if number < len(node.input)]


def _constants_in(model: "onnx.ModelProto", fixed: set[str], batches: Sequence[Mapping[str, np.ndarray]]) -> int:
    """Puts constants where the rest of the graph reads what depends on shapes alone; how many."""
    from onnx import numpy_helper

    reads = [
        Read(node, number, name, node.input[0])
        for node in model.graph.node
        if not fixed & set(node.output)
        for number, name in enumerate(node.input)
        if name in fixed
    ]
    values = _values(model, [name for read in reads for name in (read.value, read.source) if name], batches)
    count = 0
    for read in reads:
        seen = values[read.value]
        constant = seen[0] if _same(seen) else None
        if constant is None and read.is_target:
            constant = _without_batch(read.node, seen, [array.shape for array in values[read.source]])
        if constant is not None:
            label = f"{read.value}_settled_{count}"
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(constant), label))
            read.node.input[read.number] = label
        elif read.is_state and not any(array.any() for array in seen):
            read.node.input[read.number] = ""
        else:
            continue
        count += 1
    return count


def _without_batch(
    node: "onnx.NodeProto", targets: Sequence[np.ndarray], given: Sequence[tuple[int, ...]]
) -> np.ndarray | None:
    """A target shape of Reshape or Expand that does for every batch; None where there is none.

    targets, given: of each batch the target, and the shape of what is brought to it.
    """
    rank = targets[0].size
    if any(target.size != rank or (target == 0).any() for target in targets):
        return None
    found = targets[0].copy()
    for axis in np.flatnonzero(np.any(np.diff(np.stack(targets), axis=0), axis=0)):
        if node.op_type == "Expand":
            # Counted from the last axis; a size of one leaves what is there.
            own = [shape[axis - rank] if len(shape) >= rank - axis else 1 for shape in given]
            unchanged, mark = own == [target[axis] for target in targets], 1
        else:
            kept = not any(a.name == "allowzero" and a.i for a in node.attribute)
            own = [shape[axis] if axis < len(shape) else -1 for shape in given]
            unchanged, mark = kept and own == [target[axis] for target in targets], 0
            if not unchanged and (found != -1).all():
                unchanged, mark = True, -1
        if not unchanged:
            return None
        found[axis] = mark
    return found


def _transposed_at_once(model: "onnx.ModelProto", batches: Sequence[Mapping[str, np.ndarray]]) -> int:
    """Makes one Transpose of a Reshape to three axes, a swap of the last two and a Reshape back; how many.

    The exporter writes it for the keys of attention, and no runtime sees through it.
    """
    import onnx

    made_by = {name: node for node in model.graph.node for name in node.output}
    chains: list[tuple[onnx.NodeProto, onnx.NodeProto]] = []
    for last in model.graph.node:
        swap = made_by.get(last.input[0]) if last.op_type == "Reshape" else None
        first = made_by.get(swap.input[0]) if swap is not None and swap.op_type == "Transpose" else None
        if swap is None or first is None or first.op_type != "Reshape":
            continue
        if any(list(a.ints) == [0, 2, 1] for a in swap.attribute):
            chains.append((first, last))
    ends = [(first.input[0], first.output[0], last.output[0]) for first, last in chains]
    values = _values(model, [name for names in ends for name in names], batches)
    count = 0
    for (_, last), names in zip(chains, ends, strict=True):
        given, folded, back = ([array.shape for array in values[name]] for name in names)
        swapped = [(*shape[:-2], shape[-1], shape[-2]) for shape in given if len(shape) > 2]
        if swapped == back and [shape[-2:] for shape in given] == [shape[1:] for shape in folded]:
            axes = list(range(len(given[0])))
            last.op_type, last.input[:] = "Transpose", [names[0]]
            del last.attribute[:]
            last.attribute.append(onnx.helper.make_attribute("perm", [*axes[:-2], axes[-1], axes[-2]]))
            count += 1
    return count


def _values(
    model: "onnx.ModelProto", names: Iterable[str], batches: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, list[np.ndarray]]:
    """Tensor -> its value for each batch."""
    asked = list(dict.fromkeys(names))
    if not asked:
        return {}
    inputs = {port.name for port in model.graph.input}
    opened = open_session(model, [name for name in asked if name not in inputs])
    found: dict[str, list[np.ndarray]] = {name: [] for name in asked}
    for feed in batches:
        computed = [name for name in asked if name not in inputs]
        for name, value in zip(computed, opened.run(computed, dict(feed)), strict=True):
            found[name].append(np.asarray(value))
        for name in set(asked) & inputs:
            found[name].append(np.asarray(feed[name]))
    return found


def _same(arrays: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(array, arrays[0]) for array in arrays[1:])


def _drop_unread(graph: "onnx.GraphProto") -> None:
    """Removes what nothing reads any more: nodes, then constants."""
    read = {port.name for port in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if read & set(node.output):
            kept.append(node)
            read |= set(node.input) - {""}
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)
