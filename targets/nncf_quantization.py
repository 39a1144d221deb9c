"""Quantization routes of NNCF: on ONNX graphs, and on OpenVINO models, where it is quicker and knows the kernels."""

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from calibration.errors import UnsupportedError
from targets.onnx_graph import fit, read_graph, refusing, write_derived, write_package
from targets.onnx_quantization import quiet
from targets.openvino_format import FILES, save_openvino
from targets.target import Candidate, Capabilities, ModelPackage

if TYPE_CHECKING:
    from calibration.dataset import CalibrationSet

Preset = Literal["performance", "mixed"]

# On ONNX graphs its statistics of attention take a tenth of a second a sample and layer.
TRANSFORMER_SAMPLES = 64


def nncf_onnx(
    name: str, package: ModelPackage, calibration: "CalibrationSet", reads: Capabilities, *, saturating: bool
) -> Candidate:
    """Q/DQ pairs at NNCF's places in the ONNX graph, with bias correction."""

    def make(folder: Path) -> ModelPackage:
        with _nncf(name):
            samples = TRANSFORMER_SAMPLES if package.architecture == "transformer" else len(calibration)
            quantized = _quantize(read_graph(package), package, calibration, "performance", saturating, samples)
            return write_package(package, fit(quantized, reads.opset, reads.ir_version), folder, "int8")

    return Candidate(name, "int8", make)


def nncf_openvino(
    name: str, package: ModelPackage, calibration: "CalibrationSet", preset: Preset, *, saturating: bool
) -> Candidate:
    """NNCF on the OpenVINO model; the package then holds OpenVINO's own format.

    preset: performance quantizes activations symmetrically, mixed with a zero point.
    """

    def make(folder: Path) -> ModelPackage:
        with _nncf(name):
            from openvino import Core

            model = Core().read_model(package.graph)
            return _write_openvino(_quantize(model, package, calibration, preset, saturating), package, folder)

    return Candidate(name, "int8", make)


def nncf_openvino_weights(name: str, package: ModelPackage) -> Candidate:
    """int8 weights, per-channel, and float arithmetic: smaller, and quicker where memory is what limits."""

    def make(folder: Path) -> ModelPackage:
        with _nncf(name):
            from nncf import CompressWeightsMode, compress_weights
            from openvino import Core

            model = compress_weights(Core().read_model(package.graph), mode=CompressWeightsMode.INT8_SYM)
            return _write_openvino(model, package, folder)

    return Candidate(name, "int8", make)


def _quantize(
    model: Any,
    package: ModelPackage,
    calibration: "CalibrationSet",
    preset: Preset,
    saturating: bool,
    samples: int | None = None,
) -> Any:
    import nncf

    transformer = package.architecture == "transformer"
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
        advanced_parameters=parameters,
    )


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
