"""OpenVINO on the CPU of an x86-64 device."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from calibration.errors import UnsupportedError
from targets.device.probe import cpu_model
from targets.device.versions import installed_version
from targets.int8_kernels import clips, flags_needed, imitated, int8_kernels, unlike_here
from targets.nncf_quantization import nncf_openvino, nncf_openvino_weights
from targets.onnx_float import FloatGraph
from targets.onnx_quantization import PRODUCTS_AND_TABLES, StaticScheme, static
from targets.onnx_regions import PRODUCTS
from targets.openvino_exact import spell_out_quantization
from targets.openvino_format import FILES, read_openvino, save_openvino
from targets.profile import DeviceProfile
from targets.runtime_versions import contains, fingerprint, not_here, runtime_of
from targets.target import Candidate, Capabilities, CompiledModel, ModelPackage

if TYPE_CHECKING:
    from calibration.dataset import CalibrationSet

NAME = "openvino"
RUNNER = "openvino"
PRECISIONS = ("int8", "fp32")
# What its ONNX front end has read since 2024.
OPSET, IR_VERSION = 20, 10


class Openvino:
    """Ships OpenVINO's own format: fp32 stays fp32, in storage and in arithmetic."""

    distributions: ClassVar[tuple[str, ...]] = ("openvino", "nncf", "onnx", "onnxruntime")
    accepts: ClassVar[frozenset[str]] = frozenset({"onnx"})

    def capabilities(self, profile: DeviceProfile) -> Capabilities:
        """Raises UnsupportedError where the device has no such runtime or another architecture."""
        runtime = runtime_of(profile, NAME)
        if profile.architecture != "x86_64":
            raise UnsupportedError(
                f"the OpenVINO target builds for x86_64; {profile.name} is {profile.architecture}",
                "use onnxruntime-cpu for it",
            )
        why_not = unlike_here(profile) or not_here(runtime, "openvino")
        return Capabilities(
            executes_here=not why_not,
            answers_here=installed_version("openvino") is not None,
            why_not=why_not,
            status="ready",
            precisions=tuple(p for p in profile.precisions if p in PRECISIONS),
            opset=OPSET,
            ir_version=IR_VERSION,
            # On a device that clips, the weights of every route are too small for it to matter.
            imitated=imitated(profile) if not clips(profile) else "",
        )

    def fingerprint(self) -> dict[str, str]:
        return fingerprint(self.distributions)

    def decides_by(self, profile: DeviceProfile) -> dict[str, Any]:
        """The kind of int8 kernel; where candidates are timed here, also what they run on."""
        able = self.capabilities(profile)
        facts: dict[str, Any] = {
            "int8_kernels": int8_kernels(profile.architecture, profile.isa),
            "precisions": list(able.precisions),
            "imitated": able.imitated,
        }
        if able.executes_here:
            facts |= {"cpu": cpu_model(), "openvino": installed_version("openvino")}
        return facts

    def candidates(
        self, package: ModelPackage, profile: DeviceProfile, calibration: "CalibrationSet"
    ) -> Sequence[Candidate]:
        """NNCF's places, which are made for these kernels, and onnxruntime's, for models whose answers NNCF's spoil."""
        able = self.capabilities(profile)
        narrow = clips(profile)
        graph = FloatGraph(package, calibration)

        def places(name: str, scheme: StaticScheme) -> Candidate:
            guarded = replace(scheme, guard="pairs_within_places") if narrow else scheme
            return static(f"{name}-unsaturated" if narrow else name, guarded, graph, able)

        mixed = nncf_openvino("nncf-mixed", graph, "mixed", saturating=narrow)
        transformer = package.architecture == "transformer"
        # Only inputs of products: what reads an answer as integers asks for it.
        operators = (*PRODUCTS, "Gather") if transformer else PRODUCTS
        by_sign = places("static-by-sign", StaticScheme("by_sign", operators, float_outputs=operators))
        if transformer:
            tables = places("static-u8s8-products", StaticScheme("uint8", PRODUCTS_AND_TABLES))
            return (mixed, by_sign, tables, nncf_openvino_weights("nncf-weights", package))
        symmetric = nncf_openvino("nncf", graph, "performance", saturating=narrow)
        return (symmetric, mixed, by_sign, places("static-u8s8", StaticScheme("uint8")))

    def compile(self, package: ModelPackage, profile: DeviceProfile, threads: int, out: Path) -> CompiledModel:
        """Raises UnsupportedError with OpenVINO's reason, which names the node, where it cannot read the graph."""
        self._check_version(profile)
        try:
            model = read_openvino(package.graph)
        except RuntimeError as error:
            raise UnsupportedError(
                f"OpenVINO cannot read {package.graph.name}: {error}", "use onnxruntime-cpu for this device"
            ) from error
        save_openvino(model, out)
        return CompiledModel.of(
            package,
            out,
            target=NAME,
            runner=RUNNER,
            files=FILES,
            status="ready",
            # Without the hint a CPU that has bfloat16 would run "fp32" in it.
            options={"threads": threads, "inference_precision": "f32"},
            requires={
                "architecture": profile.architecture,
                "isa": flags_needed(profile) if package.precision == "int8" else [],
                "runtime": {"openvino": self._runtime_range(profile)},
                "python_packages": ["numpy", "openvino"],
            },
        )

    def simulate(self, package: ModelPackage, profile: DeviceProfile, out: Path) -> CompiledModel:
        """The artifact; where this machine clips sums that the device does not, with its integers computed in float."""
        compiled = self.compile(package, profile, 1, out)
        if package.precision != "int8" or not self.capabilities(profile).imitated:
            return compiled
        model = read_openvino(package.graph)
        spell_out_quantization(model)
        save_openvino(model, out)
        return compiled

    def _runtime_range(self, profile: DeviceProfile) -> str:
        """A newer OpenVINO reads what an older one wrote, not the other way round."""
        release = ".".join((installed_version("openvino") or "").split(".")[:2])
        return f"{runtime_of(profile, NAME).version},>={release}"

    def _check_version(self, profile: DeviceProfile) -> None:
        """Raises UnsupportedError where every OpenVINO of the device's range is older than the one that would write."""
        runtime, version = runtime_of(profile, NAME), installed_version("openvino") or ""
        if not contains(runtime, version):
            raise UnsupportedError(
                f"OpenVINO {version} writes a format that the device's ({runtime.version}) need not read",
                f"install an openvino in that range here, or widen the range of {profile.name}",
            )
