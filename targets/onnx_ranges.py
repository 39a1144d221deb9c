"""The ranges of an ONNX graph's activations on the calibration set, in one pass and in the memory of one batch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from calibration.errors import UnsupportedError
from calibration.observers import Range
from calibration.observers.histogram import Histogram
from calibration.observers.min_max import MinMax
from calibration.quantization import LARGEST
from targets.onnx_graph import inferred

if TYPE_CHECKING:
    import onnx

    from calibration.dataset import CalibrationSet

Seeing = TypeVar("Seeing", Histogram, MinMax)

# Samples run at once: enough to be quick, few enough that activations stay small.
OBSERVED_AT_ONCE = 16
# Where little is done with activations: so few that what one node writes the next still finds in the cache.
SKIMMED_AT_ONCE = 4


def observe(model: "onnx.ModelProto", calibration: "CalibrationSet") -> dict[str, Histogram]:
    """Tensor -> its values, for every float32 tensor that is computed from the inputs, and the inputs themselves.

    Raises UnsupportedError naming the first tensor that has NaN or infinity on a calibration sample, or a range wider
    than float32 can tell.
    """
    histograms = _observed(model, calibration, Histogram, OBSERVED_AT_ONCE)
    _require_widths({name: histogram.seen() for name, histogram in histograms.items()})
    return histograms


def ends(model: "onnx.ModelProto", calibration: "CalibrationSet") -> dict[str, Range]:
    """The same tensors -> their smallest and largest value, which is quicker found. Raises as `observe` does."""
    found = {name: seen.seen() for name, seen in _observed(model, calibration, MinMax, SKIMMED_AT_ONCE).items()}
    _require_widths(found)
    return found


def _observed(
    model: "onnx.ModelProto", calibration: "CalibrationSet", kind: type[Seeing], batch: int
) -> dict[str, Seeing]:
    observers: dict[str, Seeing] = {}
    for values in activations(model, calibration, batch):
        for name, array in values.items():
            try:
                observers.setdefault(name, kind()).observe(array)
            except ValueError as error:
                raise UnsupportedError(
                    f"tensor {name}: {error} on calibration samples", "look at what the model computes before it"
                ) from error
    return observers


def _require_widths(ranges: Mapping[str, Range]) -> None:
    for name, ((low,), (high,)) in ranges.items():
        if high - low > LARGEST:
            raise UnsupportedError(
                f"tensor {name} goes from {low:.3g} to {high:.3g}: the width of that range is no float32",
                "scale the model's inputs or weights down",
            )


def activations(model: "onnx.ModelProto", calibration: "CalibrationSet", batch: int) -> Iterator[dict[str, np.ndarray]]:
    """For each `batch` samples in order, tensor -> values of what `observe` looks at, inputs first."""
    inputs, computed = float_tensors(model)
    session = open_session(model, computed)
    for feed in calibration.feeds(batch):
        found: list[Any] = session.run(computed, feed) if computed else []
        given = {name: feed[name] for name in inputs}
        yield given | {name: np.asarray(array) for name, array in zip(computed, found, strict=True)}


def float_tensors(graph: "onnx.ModelProto") -> tuple[list[str], list[str]]:
    """Names of the float32 inputs, and of what the nodes compute in float32, in the graph's order."""
    import onnx

    typed = inferred(graph)
    floats = {
        value.name
        for value in (*typed.input, *typed.value_info, *typed.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    weights = {tensor.name for tensor in typed.initializer}
    inputs = [value.name for value in typed.input if value.name in floats - weights]
    return inputs, [name for node in typed.node for name in node.output if name in floats]


def answers(graph: "onnx.ModelProto", feeds: Iterable[dict[str, np.ndarray]]) -> np.ndarray:
    """[samples, outputs] float64: all outputs of a graph, side by side."""
    session = _session(graph)
    rows: list[np.ndarray] = []
    for feed in feeds:
        outputs: Any = session.run(None, feed)
        rows.append(np.concatenate([np.asarray(o, np.float64).reshape(len(o), -1) for o in outputs], axis=1))
    return np.concatenate(rows)


def open_session(model: "onnx.ModelProto", tensors: Sequence[str]) -> Any:
    """A session of the graph that gives these tensors too. The graph itself stays as it is."""
    import onnx

    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    outputs = {output.name for output in tapped.graph.output}
    tapped.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in tensors if n not in outputs)
    return _session(tapped)


def _session(model: "onnx.ModelProto") -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        # Q/DQ pairs that are not made integer kernels of compute what every kernel should, on every processor: this
        # one's may clip sums that the device's does not.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
