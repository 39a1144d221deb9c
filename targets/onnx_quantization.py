"""Quantization routes of onnxruntime.quantization, for every target that reads ONNX."""

import logging
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from calibration.observers import Range
from calibration.observers.entropy import Entropy
from calibration.observers.histogram import Histogram
from calibration.observers.mse import Mse
from calibration.observers.percentile import Percentile
from calibration.quantization import QuantizationScheme
from targets.device.golden import sqnr_db
from targets.onnx_graph import fit, read_graph, refusing, write_package
from targets.onnx_pairs import unsaturated_weights
from targets.onnx_ranges import OBSERVED_AT_ONCE, answers, observe
from targets.target import Candidate, Capabilities, ModelPackage

if TYPE_CHECKING:
    import onnx

    from calibration.dataset import CalibrationSet

# Of the calibration set: on so many samples the ranges of each method are compared.
COMPARED = 64
# Of onnxruntime's log; it starts with warnings and does not tell its level.
WARNINGS, ONLY_ERRORS = 2, 3
Guard = Literal["none", "seven_bits", "pairs"]
PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
# Of a transformer: matrix products, and the embeddings, which are most of a small one's bytes.
PRODUCTS_AND_TABLES = ("MatMul", "Gemm", "Gather")


@dataclass(frozen=True)
class StaticScheme:
    """Where Q/DQ pairs go and of what type they are; weights are int8, symmetric and per-channel.

    operators: those whose inputs and outputs are quantized; None for all that onnxruntime knows.
    activations: type of activations; with symmetric, their zero point is 0.
    guard: of weights, for kernels that clip sums of two products to 16 bits. seven_bits: too small for any to clip;
        pairs: where it is known which are neighbours, only as small as their pair needs (calibration/saturation.py).
    explicit: as TensorRT takes it: only inputs of the operators, weights as float with a Q/DQ pair, float bias.
    """

    activations: Literal["uint8", "int8"]
    operators: tuple[str, ...] | None = None
    symmetric: bool = False
    guard: Guard = "none"
    explicit: bool = False


def static(
    name: str, scheme: StaticScheme, package: ModelPackage, calibration: "CalibrationSet", reads: Capabilities
) -> Candidate:
    """Q/DQ pairs by onnxruntime's static quantizer, ranges by the method that keeps the calibration set's answers best.

    All methods look at the same histograms, so that the samples are run once.
    """

    def make(folder: Path) -> ModelPackage:
        with refusing(name), quiet(), tempfile.TemporaryDirectory() as scratch:
            graph = prepared(package, Path(scratch))
            histograms = observe(graph, calibration)
            feeds = calibration.feeds(OBSERVED_AT_ONCE)[: COMPARED // OBSERVED_AT_ONCE]
            expected = answers(graph, feeds)
            made: dict[str, float] = {}
            for method, ranges in _ranges_by_method(histograms, scheme).items():
                file = Path(scratch) / f"{method}.onnx"
                _write_static(graph, file, ranges, scheme)
                made[method] = sqnr_db(expected, answers(file, feeds))
            # Of two that are as good, the first: rebuilds choose the same.
            best = max(made, key=lambda method: made[method])
            quantized = finished(package, Path(scratch) / f"{best}.onnx", folder, "int8", reads)
            others = ", ".join(f"{method} {db:.1f}" for method, db in made.items() if method != best)
            noted = replace(quantized, notes=(f"ranges by {best}: {made[best]:.1f} dB ({others})",))
            noted.save()
            return noted

    return Candidate(name, "int8", make)


def _ranges_by_method(histograms: Mapping[str, Histogram], scheme: StaticScheme) -> dict[str, dict[str, Range]]:
    integers = QuantizationScheme(signed=scheme.activations == "int8", symmetric=scheme.symmetric)
    return {
        "min_max": {tensor: seen.seen() for tensor, seen in histograms.items()},
        "mse": {tensor: Mse(histogram=seen).range(integers) for tensor, seen in histograms.items()},
        "percentile": {tensor: Percentile(histogram=seen).range(integers) for tensor, seen in histograms.items()},
        "entropy": {tensor: Entropy(histogram=seen).range(integers) for tensor, seen in histograms.items()},
    }


def _write_static(graph: Path, out: Path, ranges: Mapping[str, Range], scheme: StaticScheme) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

    extra: dict[str, Any] = {"ActivationSymmetric": scheme.symmetric}
    if scheme.explicit:
        extra |= {"QuantizeBias": False, "AddQDQPairToWeight": True}
        extra |= {"OpTypesToExcludeOutputQuantization": list(scheme.operators or ())}
    if scheme.guard == "pairs":
        extra["TensorQuantOverrides"] = unsaturated_weights(graph, gemm_as_matmul=False)
    # Whatever made the ranges: MinMax is how the quantizer calls two ends without a histogram.
    ends: dict[str, Any] = {tensor: (np.float32(low[0]), np.float32(high[0])) for tensor, (low, high) in ranges.items()}
    known = out.with_suffix(".json")
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, ends), known)
    quantize_static(
        graph,
        out,
        None,
        calibration_cache_path=known,
        op_types_to_quantize=list(scheme.operators) if scheme.operators else None,
        per_channel=True,
        reduce_range=scheme.guard != "none",
        activation_type=QuantType.QUInt8 if scheme.activations == "uint8" else QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options=extra,
    )


def dynamic(name: str, package: ModelPackage, reads: Capabilities, guard: Guard) -> Candidate:
    """int8 weights, per-channel; activations are quantized as they come, by their own range. Needs no calibration.

    guard: see StaticScheme.
    """

    def make(folder: Path) -> ModelPackage:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with refusing(name), quiet(), tempfile.TemporaryDirectory() as scratch:
            graph = prepared(package, Path(scratch))
            quantize_dynamic(
                graph,
                Path(scratch) / "quantized.onnx",
                per_channel=True,
                reduce_range=guard != "none",
                weight_type=QuantType.QInt8,
                extra_options={"TensorQuantOverrides": unsaturated_weights(graph, gemm_as_matmul=True)}
                if guard == "pairs"
                else {},
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
