"""What a model costs a process that does nothing else: peak memory and load time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from targets.device.process import in_new_process
from targets.device.runners import import_library, import_runtime, load_runner

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND = "fresh-process"
TIMEOUT_S = 300
RUNS = 3


@dataclass(frozen=True)
class FreshProcess:
    """peak_memory_bytes: above what the process takes with numpy, the runtime and the feed but no model.
    load_ms: from the file to a loaded model, the runtime already imported.
    """

    peak_memory_bytes: int
    load_ms: float


def fresh_process(
    runner: str, folder: Path, files: Sequence[str], options: dict[str, Any], feed_file: Path
) -> FreshProcess:
    """Loads the model in a process of its own and runs it RUNS times on the first sample of `feed_file`.

    feed_file: .npz with an array input.<name> for each input, sample first.
    Raises what loading it raises, and UnsuitedError where the runtime crashes on it or memory runs out.
    """
    spec = {"runner": runner, "folder": str(Path(folder).resolve()), "files": list(files), "options": options}
    spec["feed_file"] = str(Path(feed_file).resolve())
    empty = _spawn({**spec, "files": []})
    loaded = _spawn(spec)
    return FreshProcess(max(0, loaded["peak_bytes"] - empty["peak_bytes"]), float(loaded["load_ms"]))


def peak_memory_bytes(runner: str, folder: Path, files: Sequence[str], options: dict[str, Any], feed_file: Path) -> int:
    """Of a fresh process, less an import-only baseline of the same runtime; see fresh_process."""
    return fresh_process(runner, folder, files, options, feed_file).peak_memory_bytes


def load_ms(runner: str, folder: Path, files: Sequence[str], options: dict[str, Any]) -> float:
    """Time to load the model in a fresh process, the runtime already imported."""
    spec = {"runner": runner, "folder": str(Path(folder).resolve()), "files": list(files), "options": options}
    return float(_spawn({**spec, "feed_file": None})["load_ms"])


def _spawn(spec: dict[str, Any]) -> dict[str, Any]:
    """The answer of `main` in a new process."""
    model = f"{spec['folder']}/{spec['files'][0]}" if spec["files"] else f"{spec['runner']} without a model"
    return in_new_process(COMMAND, spec, model, TIMEOUT_S)


def main(spec: dict[str, Any]) -> dict[str, Any]:
    """Within the new process: {"peak_bytes", "load_ms"}; with no files the runtime is imported and nothing loaded."""
    import_library("numpy", "numpy")
    feed = None if spec["feed_file"] is None else first_sample(Path(spec["feed_file"]))
    import_runtime(spec["runner"])
    start = perf_counter_ns()
    if spec["files"]:
        model = load_runner(spec["runner"], Path(spec["folder"]), spec["files"], spec["options"])
        loaded = perf_counter_ns()
        if feed is not None:
            for _ in range(RUNS):
                model.run(feed)
    else:
        loaded = start
    return {"peak_bytes": peak_bytes(), "load_ms": (loaded - start) / 1e6}


def first_sample(feed_file: Path) -> dict[str, Any]:
    """The first sample of each input.<name> array, as a batch of one."""
    from targets.device.arrays import read_arrays

    inputs = {name: array for name, array in read_arrays(feed_file).items() if name.startswith("input.")}
    return {name[len("input.") :]: array[:1] for name, array in inputs.items()}


def peak_bytes() -> int:
    """VmHWM of this process, the high-water mark of its resident memory (proc(5)); exec starts it anew."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
