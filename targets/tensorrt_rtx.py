"""TensorRT-RTX on a GeForce RTX card: the engine is built here, without a GPU, and finished on the card."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from calibration.errors import InputError, UnsupportedError
from targets.device.versions import installed_version
from targets.explicit_quantization import (
    IR_VERSION,
    OPSET,
    PRECISIONS,
    explicit_candidates,
    input_shapes,
    simulated,
    write_standard_graph,
)
from targets.profile import DeviceProfile
from targets.runtime_versions import contains, fingerprint, not_here, runtime_of
from targets.target import Candidate, Capabilities, CompiledModel, ModelPackage

if TYPE_CHECKING:
    from calibration.dataset import CalibrationSet

NAME = "tensorrt-rtx"
DISTRIBUTION = "tensorrt-rtx"
ENGINE = "model.engine"
BUILD_SECONDS = 900


class TensorrtRtx:
    """Builds a real engine with the library alone; nothing of it can be executed where the card is not."""

    distributions: ClassVar[tuple[str, ...]] = (DISTRIBUTION, "onnx", "onnxruntime")
    accepts: ClassVar[frozenset[str]] = frozenset({"onnx"})

    def capabilities(self, profile: DeviceProfile) -> Capabilities:
        """Raises UnsupportedError where the device has no such runtime, and InputError where it states no GPU."""
        runtime = runtime_of(profile, NAME)
        if profile.compute_capability is None:
            raise InputError(
                f"{profile.name} names the runtime {NAME} and no compute_capability",
                'add the GPU\'s, such as compute_capability: "8.9", to the profile',
            )
        missing = not_here(runtime, DISTRIBUTION)
        return Capabilities(
            executes_here=False,
            answers_here=False,
            why_not=missing or "an engine needs the GPU it was built for; answers are simulated in ONNX Runtime",
            status="built",
            precisions=tuple(p for p in profile.precisions if p in PRECISIONS),
            opset=OPSET,
            ir_version=IR_VERSION,
        )

    def fingerprint(self) -> dict[str, str]:
        return fingerprint(self.distributions)

    def decides_by(self, profile: DeviceProfile) -> dict[str, Any]:
        return {"precisions": list(self.capabilities(profile).precisions)}

    def candidates(
        self, package: ModelPackage, profile: DeviceProfile, calibration: "CalibrationSet"
    ) -> Sequence[Candidate]:
        return explicit_candidates(package, calibration, self.capabilities(profile))

    def compile(self, package: ModelPackage, profile: DeviceProfile, threads: int, out: Path) -> CompiledModel:
        """threads: of the CPU beside the GPU; an engine takes none.

        Raises UnsupportedError naming the compute capability or the nodes that TensorRT-RTX refuses, or the version
        that the device needs.
        """
        runtime, version = runtime_of(profile, NAME), installed_version(DISTRIBUTION)
        if version is None or not contains(runtime, version):
            raise UnsupportedError(
                f"{profile.name} needs an engine of tensorrt-rtx {runtime.version}; {not_here(runtime, DISTRIBUTION)}",
                f'pip install "tensorrt-rtx{runtime.version}"',
            )
        build_engine(package, profile, out / ENGINE)
        return CompiledModel.of(
            package,
            out,
            target=NAME,
            runner="tensorrt_rtx",
            files=(ENGINE,),
            status="built",
            options={"threads": threads},
            requires={
                "architecture": profile.architecture,
                "isa": [],
                "runtime": {"tensorrt-rtx": f"=={version}"},
                "python_packages": ["numpy", "tensorrt-rtx"],
                "compute_capability": profile.compute_capability,
            },
            notes=(
                "the engine is an optimized graph with its weights; the card compiles its kernels at its first loading",
                "never executed where it was built: its answers and speed are pending until the device validates it",
            ),
        )

    def simulate(
        self,
        package: ModelPackage,
        profile: DeviceProfile,
        out: Path,
    ) -> CompiledModel:
        return simulated(package, NAME, out)


def build_engine(package: ModelPackage, profile: DeviceProfile, engine: Path) -> None:
    """Builds in a fresh process. Raises UnsupportedError with what is refused."""
    with tempfile.TemporaryDirectory() as scratch:
        request = Path(scratch) / "request.json"
        wanted = {
            "onnx": str(write_standard_graph(package, Path(scratch))),
            "engine": str(engine),
            "compute_capability": profile.compute_capability,
            "shapes": input_shapes(package),
        }
        request.write_text(json.dumps(wanted))
        program = Path(__file__).with_name("tensorrt_rtx_build.py")
        # -P: this folder must not be searched for modules; it has files named as the libraries they call.
        ran = subprocess.run(
            [sys.executable, "-P", str(program), str(request)],
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_SECONDS,
        )
    if ran.returncode != 0:
        said = (ran.stderr.strip().splitlines() or [f"exit {ran.returncode}"])[-1]
        raise UnsupportedError(f"the TensorRT-RTX build for {profile.name} broke off: {said}")
    answer = json.loads(ran.stdout.strip().splitlines()[-1])
    if "refused" in answer:
        nodes = f" at {', '.join(answer['nodes'])}" if answer["nodes"] else ""
        raise UnsupportedError(
            f"TensorRT-RTX builds no engine of {package.graph.name} for {profile.name} "
            f"(compute capability {profile.compute_capability}){nodes}: {answer['refused']}",
            "choose a target that the device can use, or change the model at these nodes",
        )
