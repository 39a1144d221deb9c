"""run_onnx FOLDER: every FOLDER/NAME.onnx on the arrays of NAME.npz; its first output goes to NAME.npy."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def run(folder: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    for model in sorted(folder.glob("*.onnx")):
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        with np.load(model.with_suffix(".npz")) as arrays:
            outputs: Any = session.run(None, dict(arrays))
        np.save(model.with_suffix(".npy"), outputs[0])


if __name__ == "__main__":
    run(Path(sys.argv[1]))
