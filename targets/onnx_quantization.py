"""Quantization routes of onnxruntime.quantization, for every target that reads ONNX."""

import logging
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
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
from targets.onnx_bias import corrected
from targets.onnx_equalization import equalized
from targets.onnx_float import FloatGraph
from targets.onnx_float_products import kept_in_float, products_by_activations
from targets.onnx_graph import fit, read_graph, refusing, write_package
from targets.onnx_pairs import unsaturated_weights
from targets.onnx_quantized import has_integer_products, kept_float
from targets.onnx_ranges import answers
from targets.onnx_regions import kinds_of
from targets.onnx_smoothing import smoothed
from targets.target import Candidate, Capabilities, Make, ModelPackage

if TYPE_CHECKING:
    import onnx

# Of onnxruntime's log; it starts with warnings and does not tell its level.
WARNINGS, ONLY_ERRORS = 2, 3
Guard = Literal["none", "pairs", "pairs_within_places"]
# Of a transformer: matrix products, and the embeddings, which are most of a small one's bytes.
PRODUCTS_AND_TABLES = ("MatMul", "Gemm", "Gather")
# What onnxruntime adds to a Gemm's name for the MatMul that it makes of it.
MATMUL_OF_GEMM = "_MatMul"
# Of two ways that are about as good the plainer one is taken.
CLEARLY_BETTER_DB = 0.5


@dataclass(frozen=True)
class StaticScheme:
    """Where Q/DQ pairs go and of what type they are; weights are int8, symmetric and per-channel.

    operators: those whose inputs and outputs are quantized; None for all that onnxruntime knows.
    activations: type of activations; by_sign is uint8 where none is below 0 and symmetric int8 elsewhere, so that every
        zero point is 0.
    symmetric: the zero point of signed activations is 0.
    guard: of weights, for kernels that clip sums of two products to 16 bits. pairs: only as small as their pair needs
        (calibration/saturation.py), of 7 bits where it is not known which are neighbours; pairs_within_places: the same
        for OpenVINO's kernels, where products by activations stay float.
    explicit: as TensorRT takes it: weights as float with a Q/DQ pair, float bias.
    float_outputs: operators after which there is no pair, unless what reads the output asks for one.
    fused: integer operators (QLinearConv ...) instead of float ones between pairs.
    """

    activations: Literal["uint8", "int8", "by_sign"]
    operators: tuple[str, ...] | None = None
    symmetric: bool = False
    guard: Guard = "none"
    explicit: bool = False
    float_outputs: tuple[str, ...] = ()
    fused: bool = False


@dataclass(frozen=True)
class _Way:
    """How a graph is quantized: what its weights became in float, and the range of each tensor."""

    model: "onnx.ModelProto"
    ranges: Mapping[str, Range]
    note: str


def static(
    name: str, scheme: StaticScheme, graph: FloatGraph, reads: Capabilities, plain_ranges: str = "min_max"
) -> Candidate:
    """Q/DQ pairs by onnxruntime's static quantizer, in the way that keeps the calibration set's answers best.

    Ranges by four methods, weights equalized across layers or activations smoothed, and biases corrected are tried,
    each kept where it helps; the plain route takes the graph as it is, and ranges by one method, `plain_ranges`.
    """

    def made(scheme: StaticScheme, ranges: str = "") -> Make:
        def make(folder: Path, in_float: frozenset[str] = frozenset()) -> ModelPackage:
            # In which operators it is written down changes no number.
            numbers = replace(scheme, fused=False)
            with refusing(name), quiet():
                if (ranges, numbers) not in graph.decisions:
                    found = plain_way(ranges, graph, numbers) if ranges else best_way(graph, numbers)
                    graph.decisions[ranges, numbers] = found
                way = graph.decisions[ranges, numbers]
                quantized = _quantized(way.model, way.ranges, scheme, in_float)
                written = finished(graph.package, quantized, folder, "int8", reads)
                noted = replace(written, notes=(way.note, *written.notes))
                noted.save()
                return noted

        return make

    regions, kinds = (lambda: graph.regions), (lambda: kinds_of(graph.model))
    unguarded = made(replace(scheme, guard="none")) if scheme.guard != "none" else None
    plain = made(scheme, plain_ranges)
    return Candidate(name, "int8", made(scheme), regions, kinds, plain=plain, unguarded=unguarded)


def plain_way(method: str, graph: FloatGraph, scheme: StaticScheme) -> _Way:
    """The graph as it is, ranges by one of METHODS."""
    ranges = graph.ends if method == "min_max" else _ranges(method, graph.histograms, scheme)
    return _Way(graph.model, ranges, f"ranges by {method}")


def best_way(graph: FloatGraph, scheme: StaticScheme) -> _Way:
    """The way with which the answers to some calibration samples have the least noise, one decision after the other."""
    tried: dict[str, float] = {}

    def noise_db(way: _Way) -> float:
        return sqnr_db(graph.answers, answers(_quantized(way.model, way.ranges, scheme), graph.feeds))

    ways = {method: _Way(graph.model, _ranges(method, graph.histograms, scheme), method) for method in METHODS}
    tried |= {method: noise_db(way) for method, way in ways.items()}
    # Of two that are as good, the first: rebuilds choose the same.
    name = max(tried, key=lambda method: tried[method])
    best, reached = ways[name], tried[name]

    def keep_if_better(label: str, way: _Way | None) -> None:
        nonlocal best, reached
        if way is None:
            return
        tried[label] = noise_db(way)
        if tried[label] > reached + CLEARLY_BETTER_DB:
            best, reached = way, tried[label]

    for label, change in (("equalized", equalized), ("smoothed", lambda model: smoothed(model, graph.feeds))):
        keep_if_better(label, _changed(graph, change(best.model), name, label, scheme))
    moved = corrected(best.model, _quantized(best.model, best.ranges, scheme), graph.feeds)
    if moved is not None:
        keep_if_better("bias corrected", replace(best, model=moved, note=f"{best.note}, bias corrected"))
    others = ", ".join(f"{label} {db:.1f}" for label, db in tried.items())
    return replace(best, note=f"ranges by {best.note}: {reached:.1f} dB ({others})")


METHODS: dict[str, Callable[[Histogram, QuantizationScheme], Range]] = {
    "min_max": lambda seen, _: seen.seen(),
    "mse": lambda seen, integers: Mse(histogram=seen).range(integers),
    "percentile": lambda seen, integers: Percentile(histogram=seen).range(integers),
    "entropy": lambda seen, integers: Entropy(histogram=seen).range(integers),
}


def _changed(
    graph: FloatGraph, model: "onnx.ModelProto | None", method: str, label: str, scheme: StaticScheme
) -> _Way | None:
    """The way of a graph whose weights and activations have changed, with ranges of its own."""
    if model is None:
        return None
    changed = FloatGraph(graph.package, graph.calibration, model)
    return _Way(model, _ranges(method, changed.histograms, scheme), f"{method}, {label}")


def _ranges(method: str, histograms: Mapping[str, Histogram], scheme: StaticScheme) -> dict[str, Range]:
    def integers(seen: Histogram) -> QuantizationScheme:
        if scheme.activations == "by_sign":
            return QuantizationScheme(signed=_is_signed(seen.seen()), symmetric=_is_signed(seen.seen()))
        return QuantizationScheme(signed=scheme.activations == "int8", symmetric=scheme.symmetric)

    return {tensor: METHODS[method](seen, integers(seen)) for tensor, seen in histograms.items()}


def _is_signed(ends: Range) -> bool:
    return float(ends[0][0]) < 0.0


def _quantized(
    model: "onnx.ModelProto",
    ranges: Mapping[str, Range],
    scheme: StaticScheme,
    in_float: frozenset[str] = frozenset(),
) -> "onnx.ModelProto":
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

    extra: dict[str, Any] = {"ActivationSymmetric": scheme.symmetric}
    if scheme.explicit:
        extra |= {"QuantizeBias": False, "AddQDQPairToWeight": True}
    if scheme.float_outputs:
        extra |= {"OpTypesToExcludeOutputQuantization": list(scheme.float_outputs)}
    overrides: dict[str, list[dict[str, Any]]] = {}
    if scheme.activations == "by_sign":
        for tensor, reached in ranges.items():
            kind = QuantType.QInt8 if _is_signed(reached) else QuantType.QUInt8
            overrides[tensor] = [{"quant_type": kind, "symmetric": _is_signed(reached)}]
    if scheme.guard != "none":
        overrides |= unsaturated_weights(model, within_places=scheme.guard == "pairs_within_places")
    # Unsigned by unsigned is exact in ONNX Runtime.
    clips = scheme.guard == "pairs_within_places" or (scheme.guard == "pairs" and scheme.activations != "uint8")
    by_activations = products_by_activations(model) if clips else frozenset[str]()
    # Whatever made the ranges: MinMax is how the quantizer calls two ends without a histogram.
    ends: dict[str, Any] = {tensor: _ends(reached) for tensor, reached in ranges.items()}
    with tempfile.TemporaryDirectory() as scratch:
        source, out, known = (Path(scratch) / file for file in ("float.onnx", "quantized.onnx", "ranges.json"))
        onnx.save(model, source)
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, ends), known)
        quantize_static(
            source,
            out,
            None,
            calibration_cache_path=known,
            quant_format=QuantFormat.QOperator if scheme.fused else QuantFormat.QDQ,
            op_types_to_quantize=list(scheme.operators) if scheme.operators else None,
            nodes_to_exclude=sorted(in_float | by_activations),
            per_channel=True,
            reduce_range=scheme.guard != "none",
            activation_type=QuantType.QInt8 if scheme.activations == "int8" else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options=extra | {"TensorQuantOverrides": overrides},
        )
        return kept_in_float(onnx.load(out), by_activations)


def _ends(reached: Range) -> tuple[np.float32, np.float32]:
    """The ends of a range; of a tensor that was always zero such that integers behind a ReLU have none below zero.

    Of no width, the quantizer puts zero in the middle of signed integers, and leaves out the ReLU all the same.
    """
    low, high = np.float32(reached[0][0]), np.float32(reached[1][0])
    return (low, high) if low or high else (np.float32(0), np.float32(1))


def dynamic(name: str, graph: FloatGraph, reads: Capabilities, guard: Guard) -> Candidate:
    """int8 weights, per-channel; activations are quantized as they come, by their own range. Needs no calibration.

    guard: see StaticScheme.
    """
    # The quantizer would do it itself, after it has compared settings and names with the graph as it was before.
    without_gemm = cache(lambda: _gemm_as_matmul(graph.model))

    def made(guard: Guard) -> Make:
        def make(folder: Path, in_float: frozenset[str] = frozenset()) -> ModelPackage:
            import onnx
            from onnxruntime.quantization import QuantType, quantize_dynamic

            with refusing(name), quiet(), tempfile.TemporaryDirectory() as scratch:
                model = without_gemm()
                # ConvInteger takes weights of one scale, and sums exactly.
                overrides = unsaturated_weights(model, exact=("Conv",)) if guard == "pairs" else {}
                source, out = Path(scratch) / "float.onnx", Path(scratch) / "quantized.onnx"
                onnx.save(model, source)
                quantize_dynamic(
                    source,
                    out,
                    per_channel=True,
                    nodes_to_exclude=sorted(in_float | {f"{node}{MATMUL_OF_GEMM}" for node in in_float}),
                    reduce_range=guard != "none",
                    weight_type=QuantType.QInt8,
                    extra_options={"TensorQuantOverrides": overrides},
                )
                return finished(graph.package, onnx.load(out), folder, "int8", reads)

        return make

    unguarded = made("none") if guard != "none" else None
    return Candidate(
        name, "int8", made(guard), lambda: graph.regions, lambda: kinds_of(graph.model), unguarded=unguarded
    )


def _gemm_as_matmul(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The graph with a MatMul and an Add for each Gemm that is no more than that; itself where there is none."""
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel

    if all(node.op_type != "Gemm" for node in model.graph.node):
        return model
    found = onnx.ModelProto()
    found.CopyFrom(model)
    ONNXModel(found).replace_gemm_with_matmul()
    return found


def half_precision(name: str, package: ModelPackage, reads: Capabilities) -> Candidate:
    """Weights and arithmetic in float16; inputs and outputs keep their types."""

    def make(folder: Path, in_float: frozenset[str] = frozenset()) -> ModelPackage:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        with refusing(name), quiet():
            graph = read_graph(package)
            del graph.graph.value_info[:]
            converted = convert_float_to_float16(graph, keep_io_types=True, node_block_list=sorted(in_float) or None)
            return write_package(package, fit(converted, reads.opset, reads.ir_version), folder, "fp16")

    return Candidate(name, "fp16", make)


def finished(
    package: ModelPackage, graph: "onnx.ModelProto", folder: Path, precision: str, reads: Capabilities
) -> ModelPackage:
    """The package of a graph that a quantizer wrote. Raises ValueError where it quantized nothing to speak of."""
    if not has_integer_products(graph):
        raise ValueError("no convolution or matrix product of it can be quantized: int8 would only cost time")
    written = write_package(package, fit(graph, reads.opset, reads.ir_version), folder, precision)
    left = kept_float(graph)
    noted = replace(written, notes=(f"computed in float: {left}",) if left else ())
    noted.save()
    return noted


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
