"""Quantization routes of onnxruntime.quantization, for every target that reads ONNX."""

import logging
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from targets.onnx_graph import fit, read_graph, refusing, write_package
from targets.target import Candidate, Capabilities, ModelPackage

if TYPE_CHECKING:
    import onnx

    from calibration.dataset import CalibrationSet

# Samples run at once while ranges are observed: enough to be quick, few enough that activations stay small.
OBSERVED_AT_ONCE = 16
# Of onnxruntime's log; it starts with warnings and does not tell its level.
WARNINGS, ONLY_ERRORS = 2, 3
PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
# Of a transformer: matrix products, and the embeddings, which are most of a small one's bytes.
PRODUCTS_AND_TABLES = ("MatMul", "Gemm", "Gather")


@dataclass(frozen=True)
class StaticScheme:
    """Where Q/DQ pairs go and of what type they are; weights are int8, symmetric and per-channel.

    operators: those whose inputs and outputs are quantized; None for all that onnxruntime knows.
    activations: type of activations; with symmetric, their zero point is 0.
    reduce_range: 7-bit weights, which cannot saturate a 16-bit sum of two products.
    explicit: as TensorRT takes it: only inputs of the operators, weights as float with a Q/DQ pair, float bias.
    """

    activations: Literal["uint8", "int8"]
    operators: tuple[str, ...] | None = None
    symmetric: bool = False
    reduce_range: bool = False
    explicit: bool = False


def static(
    name: str, scheme: StaticScheme, package: ModelPackage, calibration: "CalibrationSet", reads: Capabilities
) -> Candidate:
    """Ranges from the calibration set by min-max, Q/DQ pairs by onnxruntime's static quantizer."""

    def make(folder: Path) -> ModelPackage:
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.feeds = iter(calibration.feeds(min(OBSERVED_AT_ONCE, len(calibration))))

            def get_next(self) -> dict[str, Any]:
                # None says that there are no more; the base class does not type it.
                return next(self.feeds, None)  # pyright: ignore[reportReturnType]

        extra: dict[str, Any] = {"ActivationSymmetric": scheme.symmetric}
        if scheme.explicit:
            extra |= {"QuantizeBias": False, "AddQDQPairToWeight": True}
            extra |= {"OpTypesToExcludeOutputQuantization": list(scheme.operators or ())}
        with refusing(name), quiet(), tempfile.TemporaryDirectory() as scratch:
            quantize_static(
                prepared(package, Path(scratch)),
                Path(scratch) / "quantized.onnx",
                Reader(),
                op_types_to_quantize=list(scheme.operators) if scheme.operators else None,
                per_channel=True,
                reduce_range=scheme.reduce_range,
                activation_type=QuantType.QUInt8 if scheme.activations == "uint8" else QuantType.QInt8,
                weight_type=QuantType.QInt8,
                extra_options=extra,
            )
            return finished(package, Path(scratch) / "quantized.onnx", folder, "int8", reads)

    return Candidate(name, "int8", make)


def dynamic(name: str, package: ModelPackage, reads: Capabilities, *, reduce_range: bool) -> Candidate:
    """int8 weights, per-channel; activations are quantized as they come, by their own range. Needs no calibration."""

    def make(folder: Path) -> ModelPackage:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with refusing(name), quiet(), tempfile.TemporaryDirectory() as scratch:
            quantize_dynamic(
                prepared(package, Path(scratch)),
                Path(scratch) / "quantized.onnx",
                per_channel=True,
                reduce_range=reduce_range,
                weight_type=QuantType.QInt8,
            )
            return finished(package, Path(scratch) / "quantized.onnx", folder, "int8", reads)

    return Candidate(name, "int8", make)


def half_precision(name: str, package: ModelPackage, reads: Capabilities) -> Candidate:
    """Weights and arithmetic in float16; inputs and outputs keep their types."""

    def make(folder: Path) -> ModelPackage:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        with refusing(name), quiet():
            graph = read_graph(package)
            del graph.graph.value_info[:]
            converted = convert_float_to_float16(graph, keep_io_types=True)
            return write_package(package, fit(converted, reads.opset, reads.ir_version), folder, "fp16")

    return Candidate(name, "fp16", make)


def prepared(package: ModelPackage, scratch: Path) -> Path:
    """The graph with constants and normalizations folded and shapes inferred, as the quantizers want it, in a file."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    graph = read_graph(package)
    # Shapes that an exporter left contradict those of the nodes that the quantizers put in their place.
    del graph.graph.value_info[:]
    onnx.save(graph, scratch / "float.onnx")
    quant_pre_process(scratch / "float.onnx", scratch / "prepared.onnx", skip_symbolic_shape=True)
    prepared = onnx.load(scratch / "prepared.onnx")
    del prepared.graph.value_info[:]
    onnx.save(prepared, scratch / "prepared.onnx")
    return scratch / "prepared.onnx"


def finished(package: ModelPackage, made: Path, folder: Path, precision: str, reads: Capabilities) -> ModelPackage:
    """The package of a graph that a quantizer wrote. Raises ValueError where it quantized nothing."""
    import onnx

    graph = onnx.load(made)
    if not quantized_nodes(graph):
        raise ValueError("no operator of it can be quantized")
    return write_package(package, fit(graph, reads.opset, reads.ir_version), folder, precision)


def quantized_nodes(graph: "onnx.ModelProto") -> int:
    """How many nodes turn float into integers."""
    return sum(node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") for node in graph.graph.node)


@contextmanager
def quiet() -> Generator[None]:
    """Keeps the quantizers' advice off the user's screen, and the root logger without the handler they would add."""
    import onnxruntime

    root = logging.getLogger()
    handlers, disabled = list(root.handlers), root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(ONLY_ERRORS)
    try:
        yield
    finally:
        logging.disable(disabled)
        onnxruntime.set_default_logger_severity(WARNINGS)
        root.handlers[:] = handlers
