"""Measures all that the tools made of one model, in one process, with one runtime: int8_measure.py SPEC OUT.

SPEC: JSON of {model, runtime, threads, seconds, artifacts}; the first artifact is the fp32 model. OUT gets the table's
rows. A process of its own: a runtime that crashes takes nothing else with it, and none inherits another's memory.
"""

import hashlib
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bench_models.catalogue import BenchModel, named
from benchmark import ROOT
from int8_artifacts import OURS, RUNNERS, WORK, Artifact

sys.path.insert(0, str(ROOT))
from pipeline.data import load_split
from targets.device.errors import DeviceError
from targets.device.measure import Loadings, ratio_interval
from targets.device.runners import Runner, load_runner

if TYPE_CHECKING:
    from collections.abc import Callable

# Test samples that timing goes through in turn.
FEEDS = 64
WARM_UP = 20
SAME = {"value": 1.0, "low95": 1.0, "high95": 1.0}


def options_of(artifact: Artifact, runtime: str, threads: int) -> dict[str, Any]:
    """Those that it ships with; else the bench's, which are the runners' own."""
    if artifact.options:
        return artifact.options
    own = {"optimization": "all"} if runtime == "onnxruntime-cpu" else {"inference_precision": "f32"}
    return {"threads": threads, **own}


def answers(artifact: Artifact, runner: Runner, runtime: str, model: BenchModel) -> np.ndarray:
    """Class of each test sample, [samples] int64, one sample at a time; kept by the files and the runtime's version."""
    h = hashlib.sha256(f"{model.data.name}{runner.runtime()}".encode())
    for file in artifact.files:
        h.update((Path(artifact.folder) / file).read_bytes())
    kept = WORK / "answers" / f"{model.name}-{runtime}-{h.hexdigest()[:16]}.npy"
    if kept.is_file():
        return np.load(kept)
    inputs = model.data.inputs_of(load_split(model.data.folder, "test"))
    samples = len(next(iter(inputs.values())))
    found = np.empty(samples, dtype=np.int64)
    for i in range(samples):
        output = next(iter(runner.run({name: array[i : i + 1] for name, array in inputs.items()}).values()))
        # A NaN is no answer, so it is a wrong one.
        found[i] = output.argmax() if np.isfinite(output).all() else -1
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.save(kept, found)
    return found


def drop_of(baseline: np.ndarray, other: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Points of accuracy lost, paired by sample, and their standard error."""
    points = 100.0 * ((baseline == labels).astype(float) - (other == labels))
    return float(points.mean()), float(points.std() / np.sqrt(len(points)))


def measure(spec: dict[str, Any]) -> list[dict[str, Any]]:
    model, runtime, threads = named(spec["model"]), spec["runtime"], spec["threads"]
    artifacts = [Artifact(**entry | {"files": tuple(entry["files"])}) for entry in spec["artifacts"]]
    rows: list[dict[str, Any]] = []
    load: dict[str, Callable[[], Runner]] = {}
    for artifact in artifacts:
        row = asdict(artifact) | {"model": model.name, "runtime": runtime, "threads": threads}
        rows.append(row)
        if artifact.error:
            continue
        row["size_bytes"] = artifact.size_bytes
        # What ships in float is the fp32 model itself: it is not timed against itself.
        if artifact.precision == "fp32" and artifact is not artifacts[0]:
            continue
        try:
            loaded = partial(
                load_runner,
                RUNNERS[runtime],
                Path(artifact.folder),
                list(artifact.files),
                options_of(artifact, runtime, threads),
            )
            row["classes"] = answers(artifact, loaded(), runtime, model)
            load[artifact.tool] = loaded
        except DeviceError as error:
            row["error"] = error.message.strip().splitlines()[-1][-300:]
    labels = np.asarray(load_split(model.data.folder, "test").labels)
    inputs = model.data.inputs_of(load_split(model.data.folder, "test"))
    spread = np.linspace(0, len(labels) - 1, FEEDS).astype(int)
    feeds = [{name: array[i : i + 1] for name, array in inputs.items()} for i in spread]
    times = Loadings(list(load.values()), feeds, WARM_UP).measure(spec["seconds"])
    latencies = dict(zip(load, times, strict=True))
    reference = artifacts[0].tool
    mine = OURS if OURS in latencies else reference
    for row in rows:
        if row["error"]:
            continue
        tool = row["tool"] if row["tool"] in latencies else reference
        classes = row.pop("classes", rows[0].get("classes", rows[0].get("kept")))
        if row is rows[0]:
            row["kept"] = classes
        row["accuracy"] = float((classes == labels).mean())
        row["drop_points"], row["drop_error"] = drop_of(rows[0]["kept"], classes, labels)
        row["p50_ms"] = float(np.median(latencies[tool]))
        row["to_fp32"] = SAME if tool == reference else ratio_interval(latencies[reference], latencies[tool])
        row["ours_to_it"] = SAME if tool == mine else ratio_interval(latencies[tool], latencies[mine])
    rows[0].pop("kept", None)
    return rows


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(measure(json.loads(Path(sys.argv[1]).read_text())), indent=1))
