"""OpenVINO on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from targets.device.errors import BundleError, UnsuitedError, says_out_of_memory
from targets.device.runners import check_options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np


class Runner:
    """options: threads, inference_precision ("f32" unless said otherwise).

    On a CPU with bfloat16 OpenVINO would run fp32 layers in it unasked, so the precision is always set and read back.
    """

    module: ClassVar[str] = "openvino"
    distribution: ClassVar[str] = "openvino"

    def __init__(self, folder: Path, files: Sequence[str], options: dict[str, Any]) -> None:
        import numpy as np
        import openvino

        check_options(options, {"threads": int, "inference_precision": str})
        self.copy = np.array
        self.version = str(openvino.__version__).partition("-")[0]
        self.file = folder / files[0]
        precision = options.get("inference_precision", "f32")
        config = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": options.get("threads", 1),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
        }
        for name in files:
            if not (folder / name).is_file():
                raise BundleError(f"{folder / name}: no such model file", "build the bundle again")
        try:
            compiled = openvino.Core().compile_model(str(self.file), "CPU", config)
        except RuntimeError as e:
            if says_out_of_memory(str(e)):
                raise MemoryError from e
            raise BundleError(f"{self.file}: openvino does not load it: {e}", "build the bundle again") from e
        self.precision = str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        if self.precision != precision:
            raise UnsuitedError(
                f"openvino runs {self.file.name} in {self.precision}, not {precision}", "update openvino"
            )
        self.request = compiled.create_infer_request()
        self.input_count = len(compiled.inputs)
        self.outputs = [(i, sorted(output.names)) for i, output in enumerate(compiled.outputs)]

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        # For an input that is left out the request would take the last call's.
        if len(feeds) != self.input_count:
            raise BundleError(
                f"{self.file}: openvino does not run it: {len(feeds)} inputs given, {self.input_count} wanted",
                "build the bundle again",
            )
        try:
            self.request.infer(feeds, share_inputs=True, share_outputs=True)
        except (RuntimeError, TypeError, ValueError) as e:
            if says_out_of_memory(str(e)):
                raise MemoryError from e
            raise BundleError(f"{self.file}: openvino does not run it: {e}", "build the bundle again") from e
        # The request's own buffers are written again by the next call.
        arrays = [self.copy(self.request.get_output_tensor(i).data) for i, _ in self.outputs]
        return {name: arrays[i] for i, aliases in self.outputs for name in aliases}

    def runtime(self) -> dict[str, str]:
        return {"name": self.distribution, "version": self.version, "inference_precision": self.precision}
