"""All that a model gives for some feeds, from a process of its own: on this processor, or on an emulated one."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targets.device.process import in_new_process
from targets.device.runners import import_library, load_runner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

COMMAND = "tensors"
TIMEOUT_S = 600


def tensors(
    runner: str,
    folder: Path,
    files: Sequence[str],
    options: dict[str, Any],
    feeds: Sequence[Mapping[str, np.ndarray]],
    emulator: Sequence[str] = (),
) -> list[dict[str, np.ndarray]]:
    """Output name -> array, for each feed. emulator: the command that runs a program as on another processor.

    Raises what loading and running the model raises, and UnsuitedError where the runtime crashes on it.
    """
    import numpy as np

    with tempfile.TemporaryDirectory() as scratch:
        arrays: dict[str, Any] = {f"{i}:{name}": array for i, feed in enumerate(feeds) for name, array in feed.items()}
        np.savez(Path(scratch) / "feeds.npz", **arrays)
        spec: dict[str, Any] = {"runner": runner, "folder": str(folder.resolve()), "files": list(files)}
        spec |= {"options": options, "scratch": scratch, "feeds": len(feeds)}
        in_new_process(COMMAND, spec, f"{folder / files[0]}", TIMEOUT_S, shlex.join(emulator))
        return _read(Path(scratch) / "outputs.npz", len(feeds))


def main(spec: dict[str, Any]) -> dict[str, Any]:
    """Within the new process: writes scratch/outputs.npz; returns {"runtime": what the runner says of itself}."""
    import_library("numpy", "numpy")
    import numpy as np

    model = load_runner(spec["runner"], Path(spec["folder"]), spec["files"], spec["options"])
    scratch = Path(spec["scratch"])
    feeds = _read(scratch / "feeds.npz", spec["feeds"])
    found: dict[str, Any] = {}
    for i, feed in enumerate(feeds):
        found.update({f"{i}:{name}": array for name, array in model.run(feed).items()})
    np.savez(scratch / "outputs.npz", **found)
    return {"runtime": model.runtime()}


def _read(file: Path, samples: int) -> list[dict[str, np.ndarray]]:
    """What was written as "sample:name"."""
    import numpy as np

    found: list[dict[str, Any]] = [{} for _ in range(samples)]
    with np.load(file, allow_pickle=False) as arrays:
        for key in arrays.files:
            index, _, name = key.partition(":")
            found[int(index)][name] = arrays[key]
    return found
