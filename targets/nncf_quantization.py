"""Quantization routes of NNCF: on ONNX graphs, and on OpenVINO models, where it is quicker and knows the kernels."""

import logging
import os
from collections.abc import Collection, Generator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from calibration.errors import UnsupportedError
from targets.onnx_float import FloatGraph
from targets.onnx_float_products import kept_in_float, products_by_activations
from targets.onnx_graph import read_graph, refusing, write_derived
from targets.onnx_quantization import finished, quiet
from targets.onnx_regions import kinds_of
from targets.onnx_repair import unsaturated, weights_of
from targets.openvino_format import FILES, read_openvino, save_openvino
from targets.target import Candidate, Capabilities, Make, ModelPackage

if TYPE_CHECKING:
    import onnx

Preset = Literal["performance", "mixed"]

# On ONNX graphs its statistics of attention take a tenth of a second a sample and layer.
TRANSFORMER_SAMPLES = 64
# In OpenVINO, which makes zeros of an LSTM's quantized weights and does not load a GRU's (2026.4).
RECURRENT = ("LSTMSequence", "GRUSequence")


def nncf_onnx(name: str, graph: FloatGraph, reads: Capabilities, *, saturating: bool) -> Candidate:
    """Q/DQ pairs at NNCF's places in the ONNX graph, with bias correction."""

    def made(*, guarded: bool) -> Make:
        def make(folder: Path, in_float: frozenset[str] = frozenset()) -> ModelPackage:
            with _nncf(name):
                package = graph.package
                samples = TRANSFORMER_SAMPLES if package.architecture == "transformer" else len(graph.calibration)
                # NNCF's own guard takes a bit from every weight.
                clips = products_by_activations(graph.model) if guarded else frozenset[str]()
                quantized = _quantize(graph.model, graph, "performance", False, in_float | clips, samples)
                safe = unsaturated(quantized, floats=weights_of(graph.model)) if guarded else quantized
                return finished(package, kept_in_float(safe, clips), folder, "int8", reads)

        return make

    make, unguarded = made(guarded=saturating), made(guarded=False) if saturating else None
    return Candidate(name, "int8", make, lambda: graph.regions, lambda: kinds_of(graph.model), unguarded=unguarded)


def nncf_openvino(name: str, graph: FloatGraph, preset: Preset, *, saturating: bool) -> Candidate:
    """NNCF on the OpenVINO model; the package then holds OpenVINO's own format.

    preset: performance quantizes activations symmetrically, mixed with a zero point.
    """

    def make(folder: Path, in_float: frozenset[str] = frozenset()) -> ModelPackage:
        with _nncf(name):
            model = read_openvino(graph.model.SerializeToString())
            if saturating:
                # NNCF takes a bit from constants that stand second alone.
                in_float |= products_by_activations(graph.model)
            kept = frozenset(_operators_of(model, graph.model, in_float))
            return _write_openvino(_quantize(model, graph, preset, saturating, kept), graph.package, folder)

    return Candidate(name, "int8", make, lambda: graph.regions, lambda: kinds_of(graph.model))


def nncf_openvino_weights(name: str, package: ModelPackage) -> Candidate:
    """int8 weights, per-channel, and float arithmetic: smaller, and quicker where memory is what limits."""

    def make(folder: Path, in_float: frozenset[str] = frozenset()) -> ModelPackage:
        with _nncf(name):
            from nncf import CompressWeightsMode, IgnoredScope, compress_weights

            model = read_openvino(package.graph)
            kept = _operators_of(model, read_graph(package), in_float)
            scope = IgnoredScope(names=sorted(kept), validate=False)
            model = compress_weights(model, mode=CompressWeightsMode.INT8_SYM, ignored_scope=scope)
            return _write_openvino(model, package, folder)

    return Candidate(name, "int8", make)


def _quantize(
    model: Any,
    graph: FloatGraph,
    preset: Preset,
    saturating: bool,
    in_float: frozenset[str],
    samples: int | None = None,
) -> Any:
    import nncf

    calibration = graph.calibration
    transformer = graph.package.architecture == "transformer"
    parameters = nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix.ENABLE if saturating else nncf.OverflowFix.DISABLE
    )
    return nncf.quantize(
        model,
        nncf.Dataset(calibration.feeds(1)[:samples]),
        # A transformer's activations are lopsided: NNCF's own choice for it is the mixed preset.
        preset=None if transformer else nncf.QuantizationPreset(preset),
        target_device=nncf.TargetDevice.CPU,
        subset_size=min(samples or len(calibration), len(calibration)),
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        # Of its nodes the back end may have merged some: that a name is not found is no mistake.
        ignored_scope=nncf.IgnoredScope(names=sorted(in_float), types=list(RECURRENT), validate=False),
        advanced_parameters=parameters,
    )


def _operators_of(model: Any, graph: "onnx.ModelProto", names: Collection[str]) -> set[str]:
    """Names of the operators that OpenVINO has for some nodes of the ONNX graph.

    A node with a bias is several, of which the last alone has its name, if that is not the name of an output. What ONNX
    calls a tensor is called so in OpenVINO, and what lies within a node has no name.
    """
    ports = {name: port for node in model.get_ops() for port in node.outputs() for name in port.get_names()}
    found: set[str] = set()
    for node in graph.graph.node:
        within = [ports[name] for name in node.output if node.name in names and name in ports]
        while within:
            operator = within.pop().get_node()
            found.add(operator.get_friendly_name())
            within += [port for port in operator.input_values() if not port.get_names()]
    return found


def _write_openvino(model: Any, package: ModelPackage, folder: Path) -> ModelPackage:
    save_openvino(model, folder)
    return write_derived(package, folder, "int8", FILES[0], FILES[1:])


@contextmanager
def _nncf(route: str) -> Generator[None]:
    """NNCF without telemetry, log and progress bars; what it raises for a model it cannot take as UnsupportedError."""
    os.environ["NNCF_CI"] = "1"
    import nncf

    nncf.set_log_level(logging.ERROR)
    refusals = (
        *(nncf.InternalError, nncf.ParameterNotSupportedError, nncf.UnsupportedModelError),
        *(nncf.UnsupportedBackendError, nncf.UnsupportedVersionError, nncf.ValidationError, nncf.InvalidGroupSizeError),
    )
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), quiet(), refusing(route):
        try:
            yield
        except refusals as error:
            raise UnsupportedError(f"{route} cannot take this model: {error}") from error
