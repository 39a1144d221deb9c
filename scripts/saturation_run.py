"""saturation_run.py FOLDER: every FOLDER/NAME.onnx on the samples of NAME.npz, one at a time, into NAME.out.npz.

It is run under an emulator and takes ONNX Runtime and NumPy, nothing of ours. NAME.raw.onnx is run unoptimized.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def run(model: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if model.stem.endswith(".raw"):
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    with np.load(model.parent / f"{model.name.removesuffix('.onnx').removesuffix('.raw')}.npz") as arrays:
        inputs = dict(arrays)
    names = [output.name for output in session.get_outputs()]
    samples = range(len(next(iter(inputs.values()))))
    # By place: names of tensors are no names of files.
    stacked: dict[str, Any] = {}
    for i in samples:
        answer = session.run(names, {k: array[i : i + 1] for k, array in inputs.items()})
        for place, array in enumerate(map(np.asarray, answer)):
            # Filled one by one: a large model's do not fit into memory twice.
            stacked.setdefault(str(place), np.empty((len(samples), *array.shape), array.dtype))[i] = array
    np.savez(model.with_suffix(".out.npz"), **stacked)


if __name__ == "__main__":
    for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
        run(path)
