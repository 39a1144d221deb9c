"""ONNX Runtime on the CPU of an x86-64 or aarch64 device."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from calibration.errors import UnsupportedError
from targets.device.probe import cpu_model
from targets.device.versions import installed_version
from targets.int8_kernels import CLIPPED, clips, flags_needed, imitated, int8_kernels, unlike_here
from targets.nncf_quantization import nncf_onnx
from targets.onnx_float import FloatGraph
from targets.onnx_graph import FILE, fit, read_graph
from targets.onnx_quantization import StaticScheme, dynamic, static
from targets.onnx_regions import PRODUCTS
from targets.onnx_saturation import RUN as UNOPTIMIZED
from targets.onnx_saturation import without_vnni
from targets.profile import DeviceProfile
from targets.runtime_versions import fingerprint, not_here, onnxruntime_reads, runtime_of
from targets.target import Candidate, Capabilities, CompiledModel, ModelPackage

if TYPE_CHECKING:
    from calibration.dataset import CalibrationSet

NAME = "onnxruntime-cpu"
RUNNER = "onnxruntime_cpu"
ARCHITECTURES = ("x86_64", "aarch64")
PRECISIONS = ("int8", "fp32")


class OnnxruntimeCpu:
    """Ships the ONNX graph itself: what a session optimizes for this machine's CPU may not run on another."""

    distributions: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx", "nncf")
    accepts: ClassVar[frozenset[str]] = frozenset({"onnx"})

    def capabilities(self, profile: DeviceProfile) -> Capabilities:
        """Raises UnsupportedError where the device has no such runtime or another architecture."""
        runtime = runtime_of(profile, NAME)
        if profile.architecture not in ARCHITECTURES:
            raise UnsupportedError(f"ONNX Runtime has no release for {profile.architecture}, which {profile.name} is")
        opset, ir_version = onnxruntime_reads(runtime)
        why_not = unlike_here(profile) or not_here(runtime, "onnxruntime")
        return Capabilities(
            executes_here=not why_not,
            answers_here=installed_version("onnxruntime") is not None,
            why_not=why_not,
            status="ready",
            precisions=tuple(p for p in profile.precisions if p in PRECISIONS),
            opset=opset,
            ir_version=ir_version,
            imitated=imitated(profile),
            clips=CLIPPED if clips(profile) else "",
        )

    def fingerprint(self) -> dict[str, str]:
        return fingerprint(self.distributions)

    def decides_by(self, profile: DeviceProfile) -> dict[str, Any]:
        """The kind of int8 kernel and the graph format; where candidates are timed here, also what they run on."""
        able = self.capabilities(profile)
        facts: dict[str, Any] = {
            "int8_kernels": int8_kernels(profile.architecture, profile.isa),
            "opset": able.opset,
            "ir_version": able.ir_version,
            "precisions": list(able.precisions),
            "imitated": able.imitated,
        }
        if able.executes_here:
            facts |= {"cpu": cpu_model(), "onnxruntime": installed_version("onnxruntime")}
        return facts

    def candidates(
        self, package: ModelPackage, profile: DeviceProfile, calibration: "CalibrationSet"
    ) -> Sequence[Candidate]:
        """In the order of what was fastest, and right, on processors of that kind."""
        able = self.capabilities(profile)
        narrow = clips(profile)
        guard, ending = ("pairs", "-unsaturated") if narrow else ("none", "")
        unsigned = StaticScheme("uint8", guard=guard)
        # On x86-64 the runtime makes signed activations unsigned when it loads the graph: their products clip as well.
        signed = StaticScheme("int8", guard=guard)
        graph = FloatGraph(package, calibration)

        def made(name: str, scheme: StaticScheme) -> Candidate:
            return static(name, scheme, graph, able)

        nncf = nncf_onnx("nncf", graph, able, saturating=narrow)
        # A matrix product whose answer is float adds its bias by itself; what follows is float more often than not.
        products = StaticScheme("uint8", PRODUCTS, guard=guard, float_outputs=("MatMul", "Gemm"))
        by_sample = dynamic(f"dynamic{ending}", graph, able, guard)
        if package.architecture == "transformer":
            # Ranges of a transformer's activations depend on the sample: dynamic ones hold where static ones break, and
            # static ones of everything (attention masks, softmax) break first.
            tables = replace(products, operators=(*PRODUCTS, "Gather"))
            return (
                by_sample,
                made(f"static-u8s8-products{ending}", tables),
                made(f"static-u8s8{ending}", unsigned),
                nncf,
            )
        # The same as pairs, with the integer operators that the runtime would make of them when it loads the file.
        pairs = made(f"static-u8s8{ending}", unsigned)
        fused = replace(made(f"static-u8s8-fused{ending}", replace(unsigned, fused=True)), form_of=pairs.name)
        signs, sparse = made(f"static-s8s8{ending}", signed), made(f"static-u8s8-products{ending}", products)
        routes = (pairs, nncf, signs, sparse, fused)
        if profile.architecture == "aarch64":
            routes = (signs, pairs, sparse, fused, nncf)
        if package.architecture == "recurrent":
            # The runtime has an LSTM of int8 weights, whose activations are quantized as they come, and no other.
            return (by_sample, *routes)
        return routes

    def compile(self, package: ModelPackage, profile: DeviceProfile, threads: int, out: Path) -> CompiledModel:
        """The graph in the opset and IR version of the oldest runtime in the range.

        Raises UnsupportedError where there is no such form.
        """
        import onnx

        able = self.capabilities(profile)
        onnx.save(fit(read_graph(package), able.opset, able.ir_version), out / FILE)
        return CompiledModel.of(
            package,
            out,
            target=NAME,
            runner=RUNNER,
            files=(FILE,),
            status=able.status,
            options={"threads": threads, "optimization": "all"},
            requires={
                "architecture": profile.architecture,
                "isa": flags_needed(profile) if package.precision == "int8" else [],
                "runtime": {"onnxruntime": runtime_of(profile, NAME).version},
                "python_packages": ["numpy", "onnxruntime"],
            },
        )

    def simulate(self, package: ModelPackage, profile: DeviceProfile, out: Path) -> CompiledModel:
        """The artifact; where one of device and machine has no VNNI, a graph that computes what the device does.

        See targets/onnx_saturation.py.
        Raises UnsupportedError as compile does, and naming a node of which it is not known how it sums.
        """
        compiled = self.compile(package, profile, 1, out)
        if package.precision != "int8" or not self.capabilities(profile).imitated:
            return compiled
        import onnx

        layers = None if clips(profile) else ()
        onnx.save(without_vnni(onnx.load(out / FILE), layers), out / FILE)
        imitating = replace(compiled, options={"threads": 1} | UNOPTIMIZED)
        imitating.save()
        return imitating
