"""TensorRT on an NVIDIA Jetson: the engine is built on the device, for its own GPU and version."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from calibration.errors import UnsupportedError
from targets.explicit_quantization import (
    IR_VERSION,
    OPSET,
    PRECISIONS,
    Shapes,
    explicit_candidates,
    input_shapes,
    simulated,
    write_standard_graph,
)
from targets.onnx_graph import FILE
from targets.profile import DeviceProfile
from targets.runtime_versions import contains, fingerprint, runtime_of
from targets.target import Candidate, Capabilities, CompiledModel, ModelPackage

if TYPE_CHECKING:
    from calibration.dataset import CalibrationSet

NAME = "tensorrt"
ENGINE = "model.engine"
SHAPES = "shapes.json"
# 10.0 is the first whose trtexec builds strongly typed networks from Q/DQ and casts alone.
MINIMUM = ("9.9", "8.6")


class Tensorrt:
    """Ships a strongly typed ONNX graph, its shapes and the command that builds the engine from them.

    An engine runs only on the GPU and with the version it was built for, so none is built elsewhere and TensorRT is
    not needed here.
    """

    distributions: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    accepts: ClassVar[frozenset[str]] = frozenset({"onnx"})

    def capabilities(self, profile: DeviceProfile) -> Capabilities:
        """Raises UnsupportedError where the device has no such runtime, or one older than 10."""
        runtime = runtime_of(profile, NAME)
        if any(contains(runtime, version) for version in MINIMUM):
            raise UnsupportedError(
                f"{profile.name}: TensorRT {runtime.version} admits versions before 10, which build no strongly typed "
                "networks with trtexec's present options",
                "set the range to >=10.0 and update the device (JetPack 6.1 has 10.3)",
            )
        return Capabilities(
            executes_here=False,
            answers_here=False,
            why_not="the engine is built on the device; answers are simulated in ONNX Runtime",
            status="deferred_build",
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
        """threads: of the CPU beside the GPU; trtexec takes none.

        Raises UnsupportedError naming nodes that TensorRT cannot take.
        """
        write_standard_graph(package, out)
        shapes = input_shapes(package)
        (out / SHAPES).write_text(json.dumps({"schema": 1, "inputs": shapes}, indent=1))
        return CompiledModel.of(
            package,
            out,
            target=NAME,
            runner="tensorrt",
            files=(FILE, SHAPES),
            status="deferred_build",
            options={"threads": threads},
            requires={
                "architecture": profile.architecture,
                "isa": [],
                "runtime": {"tensorrt": runtime_of(profile, NAME).version},
                "python_packages": ["numpy", "tensorrt"],
            },
            build={"command": build_command(shapes), "produces": ENGINE},
            notes=("the engine is built on the device from this strongly typed graph, by the command in build",),
        )

    def simulate(
        self,
        package: ModelPackage,
        profile: DeviceProfile,
        out: Path,
    ) -> CompiledModel:
        return simulated(package, NAME, out)


def build_command(shapes: Shapes) -> list[str]:
    """Arguments of trtexec, run in the folder of the files. The graph's own types decide the precision."""

    def option(name: str, index: int) -> str:
        return f"--{name}=" + ",".join(f"{k}:{'x'.join(map(str, v[index]))}" for k, v in shapes.items())

    return [
        "trtexec",
        f"--onnx={FILE}",
        f"--saveEngine={ENGINE}",
        "--stronglyTyped",
        "--skipInference",
        *(option(name, index) for index, name in enumerate(("minShapes", "optShapes", "maxShapes"))),
    ]
