"""A model's answers to many samples, in a process that does nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from targets.device.runners import import_library, import_runtime, load_runner

COMMAND = "answers"


def main(spec: dict[str, Any]) -> dict[str, Any]:
    """Within the new process: reads `inputs`, an .npz, and writes `outputs`, another; gives {"runtime": ...}.

    Their arrays are input.<name> and output.<name>, sample first. batch: samples a call; null for all at once. An
    output without axes becomes one value a call. Raises what loading and running the model raise.
    """
    import_library("numpy", "numpy")
    import_runtime(spec["runner"])

    import numpy as np

    runner = load_runner(spec["runner"], Path(spec["folder"]), spec["files"], spec["options"])
    with np.load(spec["inputs"], allow_pickle=False) as arrays:
        inputs = {name[len("input.") :]: arrays[name] for name in arrays.files}
    if spec["batch"] is None:
        outputs = runner.run(inputs)
    else:
        starts = range(0, len(next(iter(inputs.values()))), spec["batch"])
        feeds = ({k: np.ascontiguousarray(v[i : i + spec["batch"]]) for k, v in inputs.items()} for i in starts)
        answers = [runner.run(feed) for feed in feeds]
        outputs = {name: np.concatenate([np.atleast_1d(a[name]) for a in answers]) for name in answers[0]}
    named: dict[str, Any] = {f"output.{name}": array for name, array in outputs.items()}
    np.savez(spec["outputs"], **named)
    return {"runtime": runner.runtime()}
