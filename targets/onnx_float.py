"""A package's float graph as quantizers want it, and what calibration samples show of it, each worked out once."""

import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.observers import Range
from calibration.observers.histogram import Histogram
from targets.onnx_graph import DEFAULT_DOMAINS, inferred, read_graph, session_errors
from targets.onnx_ranges import OBSERVED_AT_ONCE, answers, ends, observe, open_session
from targets.onnx_regions import regions_of
from targets.target import ModelPackage, Region

if TYPE_CHECKING:
    from collections.abc import Hashable

    import onnx

    from calibration.dataset import CalibrationSet

# Of the calibration set: on so many samples ways to quantize are compared.
COMPARED = 64
# The first opset in which a QuantizeLinear has a scale for each channel.
PER_CHANNEL = 13


class FloatGraph:
    """package: what is to be quantized. calibration: samples that show what values its tensors have.

    model: the prepared graph, where it is not the package's own but another that computes the same.
    decisions: what routes found best for it, by what for: two forms of one route need not both find it.
    """

    def __init__(
        self, package: ModelPackage, calibration: "CalibrationSet", model: "onnx.ModelProto | None" = None
    ) -> None:
        self.package = package
        self.calibration = calibration
        self.decisions: dict[Hashable, Any] = {}
        if model is not None:
            self.model = model

    @cached_property
    def model(self) -> "onnx.ModelProto":
        """Constants and normalizations folded, shapes inferred. Who changes it, copies it first.

        Raises UnsupportedError where the package is in another runtime's format.
        """
        return prepared(read_graph(self.package))

    @cached_property
    def histograms(self) -> dict[str, Histogram]:
        """Tensor -> its values on the whole calibration set. Raises UnsupportedError for NaN and infinity."""
        return observe(self.model, self.calibration)

    @cached_property
    def ends(self) -> dict[str, Range]:
        """Tensor -> its smallest and largest value there. Raises UnsupportedError for NaN and infinity."""
        if "histograms" in vars(self):
            return {tensor: seen.seen() for tensor, seen in self.histograms.items()}
        return ends(self.model, self.calibration)

    @cached_property
    def feeds(self) -> list[dict[str, np.ndarray]]:
        """The samples that ways to quantize are compared on."""
        return list(self.calibration.feeds(OBSERVED_AT_ONCE)[: COMPARED // OBSERVED_AT_ONCE])

    @cached_property
    def answers(self) -> np.ndarray:
        """[samples, outputs] float64: its outputs for `feeds`."""
        return answers(self.model, self.feeds)

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """What can be left in float; see targets.onnx_regions."""
        return regions_of(self.model)


def prepared(graph: "onnx.ModelProto") -> "onnx.ModelProto":
    """A graph with constants and normalizations folded, types known, and every node named."""
    # Shapes that an exporter left contradict those of the nodes that the quantizers put in their place.
    del graph.graph.value_info[:]
    found = _folded(_raised(graph))
    del found.graph.value_info[:]
    taken = {node.name for node in found.graph.node}
    for position, node in enumerate(found.graph.node):
        if not node.name:
            name = f"{node.op_type}_{position}"
            node.name = name if name not in taken else f"{name}_unnamed"
    found.graph.value_info.extend(_typed_by_the_runtime(found))
    return found


def _folded(graph: "onnx.ModelProto") -> "onnx.ModelProto":
    """What onnxruntime's preprocessing for quantization makes of it.

    That also infers shapes, and for it writes and reads the weights three times more; so it is asked only for what the
    runtime does not take.
    """
    import onnx
    import onnxruntime
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        folded = Path(folder) / "prepared.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        try:
            onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except session_errors():
            onnx.save(graph, unfolded := Path(folder) / "float.onnx")
            quant_pre_process(unfolded, folded, skip_symbolic_shape=True)
        found = onnx.load(folded)
    add_pre_process_metadata(found)
    return found


def _raised(graph: "onnx.ModelProto") -> "onnx.ModelProto":
    """The graph in the first opset with a scale for each channel; as it is where it is newer, or has no such form."""
    import onnx
    from onnx import version_converter

    version = next((o.version for o in graph.opset_import if o.domain in DEFAULT_DOMAINS), PER_CHANNEL)
    if version >= PER_CHANNEL:
        return graph
    try:
        return version_converter.convert_version(graph, PER_CHANNEL)
    except (RuntimeError, version_converter.ConvertError, onnx.checker.ValidationError):
        return graph


def _typed_by_the_runtime(graph: "onnx.ModelProto") -> "list[onnx.ValueInfoProto]":
    """What ONNX's inference cannot tell since it comes after an operator that is not ONNX's: the quantizers would take
    no value of unknown type for one of float.
    """
    import onnx

    typed = inferred(graph)
    known = {value.name for value in (*typed.value_info, *typed.output) if value.type.tensor_type.elem_type}
    unknown = [name for node in graph.graph.node for name in node.output if name and name not in known]
    if not unknown:
        return []
    kinds = {f"tensor({name.lower()})": kind for name, kind in onnx.TensorProto.DataType.items()}
    given = {port.name: port for port in open_session(graph, unknown).get_outputs()}
    return [
        onnx.helper.make_tensor_value_info(name, kinds[given[name].type], given[name].shape)
        for name in unknown
        if given[name].type in kinds
    ]
