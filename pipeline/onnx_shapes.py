"""Shape arithmetic that exporters leave in a graph, done once instead of for every sample.

The only axis that is free is the batch (pipeline.onnx_graph.conform). So what is computed from shapes alone is seen by
running the graph on batches of some sizes: what is the same for all is a constant, and a target shape that differs in
the batch alone can be written without it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from targets.onnx_graph import DEFAULT_DOMAINS, session_errors
from targets.onnx_ranges import open_session

if TYPE_CHECKING:
    import onnx

# Several: what is as large as one of them by chance, or changes with the batch in steps, must not be taken for fixed.
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
UNKNOWN = frozenset(
    (
        *("NonZero", "Unique", "NonMaxSuppression", "Compress", "If", "Loop", "Scan", "StringSplit", "ImageDecoder"),
        *("SequenceAt", "SequenceMap", "SplitToSequence", "MelWeightMatrix"),
        *("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"),
    )
)
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

    fixed = _depends_on_shapes_alone(graph)
    if fixed is None:
        return graph
    found = onnx.ModelProto()
    found.CopyFrom(graph)
    try:
        changed = _constants_in(found, fixed, batches) + _transposed_at_once(found, batches)
        if not changed:
            return graph
        _drop_unread(found.graph)
        before, after = (_values(model, ["logits"], batches)["logits"] for model in (graph, found))
    except session_errors():
        return graph
    same = all(np.abs(a - b).max() <= TOLERANCE * max(1.0, np.abs(a).max()) for a, b in zip(before, after, strict=True))
    return found if same else graph


def _depends_on_shapes_alone(graph: "onnx.ModelProto") -> set[str] | None:
    """Tensors that are computed from the shapes of others; None where shapes may depend on more than the batch."""
    constant, fixed = {tensor.name for tensor in graph.graph.initializer} | {""}, set[str]()
    for node in graph.graph.node:
        if node.domain not in DEFAULT_DOMAINS or node.op_type in UNKNOWN:
            return None
        known = constant | fixed
        if any(name not in known for name in _deciding(node)):
            return None
        if node.op_type in SHAPES or (fixed & set(node.input) and all(name in known for name in node.input)):
            fixed |= set(node.output)
        elif all(name in constant for name in node.input):
            constant |= set(node.output)
    return fixed


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
    for (first, last), names in zip(chains, ends, strict=True):
        given, folded, back = ([array.shape for array in values[name]] for name in names)
        swapped = [(*shape[:-2], shape[-1], shape[-2]) for shape in given if len(shape) > 2]
        if swapped == back and [shape[-2:] for shape in given] == [shape[1:] for shape in folded]:
            axes = list(range(len(given[0])))
            last.op_type, last.input[:] = "Transpose", [first.input[0]]
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
