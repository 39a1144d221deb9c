"""ONNX Runtime on the CPU."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from targets.device.errors import BundleError, UnsuitedError, says_out_of_memory
from targets.device.runners import check_options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

PROVIDERS = ["CPUExecutionProvider"]
LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}
# Not one of them has a base class of its own, and old versions lack some.
ERRORS = (
    *("EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "ModelLoaded"),
    *("ModelRequiresCompilation", "NoModel", "NoSuchFile", "NotFound", "NotImplemented", "RuntimeException"),
)
TOO_NEW = ("IR version", "Opset", "opset", "Could not find an implementation")


class Runner:
    """options: threads (intra-op), optimization (all, extended, basic, none), spinning.

    Spinning is off unless asked for: an idle session's spinning threads would slow the one it is compared with. Graph
    parts run in sequence, so there is one inter-op thread.
    """

    module: ClassVar[str] = "onnxruntime"
    distribution: ClassVar[str] = "onnxruntime"

    def __init__(self, folder: Path, files: Sequence[str], options: dict[str, Any]) -> None:
        import onnxruntime

        check_options(options, {"threads": int, "optimization": str, "spinning": bool})
        level = options.get("optimization", "all")
        if level not in LEVELS:
            raise BundleError(f"options.optimization: {level!r} is not one of {', '.join(LEVELS)}", "build it again")
        state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        self.file = folder / files[0]
        self.errors = (*(getattr(state, n) for n in ERRORS if hasattr(state, n)), RuntimeError, ValueError)
        self.version = str(onnxruntime.__version__)
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = options.get("threads", 1)
        session_options.inter_op_num_threads = 1
        session_options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        session_options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[level])
        spinning = "1" if options.get("spinning", False) else "0"
        session_options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        session_options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        session_options.log_severity_level = 4
        if not self.file.is_file():
            raise BundleError(f"{self.file}: no such model file", "build the bundle again")
        try:
            self.session = onnxruntime.InferenceSession(str(self.file), session_options, providers=PROVIDERS)
        except self.errors as e:
            if says_out_of_memory(str(e)):
                raise MemoryError from e
            if type(e).__name__ == "NotImplemented" or any(word in str(e) for word in TOO_NEW):
                raise UnsuitedError(
                    f"{self.file}: onnxruntime {self.version} cannot run this model: {e}", "install a newer onnxruntime"
                ) from e
            raise BundleError(f"{self.file}: onnxruntime does not load it: {e}", "build the bundle again") from e
        # A build of onnxruntime for another processor may put its own provider first.
        if self.session.get_providers() != PROVIDERS:
            raise UnsuitedError(
                f"onnxruntime runs {self.file.name} on {', '.join(self.session.get_providers())}, not on the CPU alone",
                "install the plain onnxruntime package",
            )
        self.outputs = [output.name for output in self.session.get_outputs()]

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            answers: Any = self.session.run(self.outputs, feeds)
        except self.errors as e:
            if says_out_of_memory(str(e)):
                raise MemoryError from e
            raise BundleError(f"{self.file}: onnxruntime does not run it: {e}", "build the bundle again") from e
        return dict(zip(self.outputs, answers))

    def runtime(self) -> dict[str, str]:
        return {"name": self.distribution, "version": self.version, "providers": ",".join(self.session.get_providers())}
