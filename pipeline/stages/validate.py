"""Is the artifact right, and is it faster? Measured against the fp32 teacher in the same runtime and threads."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

from calibration.dataset import choose_balanced
from calibration.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from pipeline.data import Split
    from pipeline.gates import Figure
    from pipeline.recipe import Budget, Device
    from pipeline.stage import Work
    from pipeline.task import Task
    from targets.target import CompiledModel

PEAK_MEMORY_REPEATS = 5
GOLDEN_SAMPLES = 32


@dataclass(frozen=True)
class Validate:
    """Measures accuracy on every test sample, latency interleaved with the baseline, memory of fresh processes.

    seconds: of timing in one round, without loading; a ratio whose interval straddles its limit is measured on, up to
        max_seconds with it.
    Writes validation.json: the part of report.json that is measured or judged here, and whether it ran at all.
    """

    seconds: float = 6.0
    max_seconds: float = 45.0

    takes: ClassVar = (
        "task",
        "data",
        "compiled",
        "compiled_baseline",
        "compiled_float",
        "package",
        "baseline",
        "device",
        "budget",
        "machine",
    )
    gives: ClassVar = "validation"
    distributions: ClassVar = ("numpy",)
    revision: ClassVar = 6

    def __post_init__(self) -> None:
        for name in ("seconds", "max_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name}: {getattr(self, name):g} is no number above 0", "give seconds of timing")

    def __call__(
        self,
        work: "Work",
        *,
        task: "Task",
        data: Path,
        compiled: Path,
        compiled_baseline: Path,
        compiled_float: Path | None,
        package: Path,
        baseline: Path,
        device: "Device",
        budget: "Budget",
        machine: dict[str, str],
    ) -> None:
        from pipeline.data import label_names, load_split
        from pipeline.gates import Measures, judge, overall
        from targets.plugins import load
        from targets.profile import HOST
        from targets.target import CompiledModel, ModelPackage

        artifact, teacher = CompiledModel.load(compiled), CompiledModel.load(compiled_baseline)
        target = load("targets", device.target, work.recipe_folder)()
        capabilities = target.capabilities(device.profile)
        test = load_split(data, "test")
        record: dict[str, Any] = {
            "status": artifact.status,
            "baseline": {"what": "teacher fp32, same runtime, same threads", "size_bytes": teacher.size_bytes},
            "artifact": {"precision": artifact.precision, "size_bytes": artifact.size_bytes},
            "ratios": {"size": teacher.size_bytes / artifact.size_bytes},
            "cost": {"macs": ModelPackage.load(package).macs},
            "baseline_macs": ModelPackage.load(baseline).macs,
        }
        measures: dict[str, Any] = {}
        answering = artifact
        if not capabilities.answers_as_it_ships:
            simulated = work.scratch / "simulated"
            simulated.mkdir(exist_ok=True)
            answering = target.simulate(ModelPackage.load(package), device.profile, simulated)
        record["golden"] = write_golden(test, answering, work.out / "golden.npz")
        if capabilities.answers_here:
            record |= executed_on(machine, artifact, imitated=answering is not artifact)
            measures |= measure_answers(task, test, label_names(data), teacher, answering, budget, record, work)
        if capabilities.executes_here:
            with work.measuring():
                in_float = None
                if compiled_float is not None and artifact.precision != "fp32":
                    in_float = CompiledModel.load(compiled_float)
                measures |= self.measure_latency(test, teacher, artifact, in_float, budget, record, work)
                measures |= measure_memory(teacher, artifact, work.out / "golden.npz", record)
        known = Measures(artifact.precision, artifact.size_bytes, teacher.size_bytes, **measures)
        gates = judge(budget, known, on_device=device.profile.name == HOST)
        record |= {"gates": [asdict(gate) for gate in gates], "verdict": overall(gates)}
        (work.out / "validation.json").write_text(json.dumps(record, indent=1, allow_nan=False))

    def measure_latency(
        self,
        test: "Split",
        teacher: "CompiledModel",
        artifact: "CompiledModel",
        in_float: "CompiledModel | None",
        budget: "Budget",
        record: dict[str, Any],
        work: "Work",
    ) -> "dict[str, Figure]":
        """Times all in turn; fills the latency fields of the record. Returns the figures that gates are judged by.

        in_float: the artifact's own network in float, where that is neither the artifact nor the teacher.
        """
        from pipeline.evaluate import time_against
        from pipeline.gates import Figure
        from targets.device.measure import bounds95, percentiles

        # What is float need not be faster than float, and what has its own float model is held against that.
        least = None if artifact.precision == "fp32" or in_float else 1.0
        limits = [limit for limit in (least, budget.latency_ratio) if limit is not None]

        def settled(ratios: list[dict[str, float]]) -> bool:
            judged = [(ratios[0], limit) for limit in limits] + [(ratio, 1.0) for ratio in ratios[1:]]
            return not any(ratio["low95"] < limit <= ratio["high95"] for ratio, limit in judged)

        work.progress(0.7, "latency")
        others = [teacher, *([in_float] if in_float else [])]
        timing = time_against(artifact, others, test, self.seconds, self.max_seconds, settled)
        record["baseline"]["latency_ms"] = percentiles(timing.others_ms[0])
        record["artifact"]["latency_ms"] = percentiles(timing.artifact_ms)
        record["ratios"] |= dict(zip(("latency_p50", "latency_p50_to_float"), timing.ratios, strict=False))
        record["cost"]["cpu_seconds_per_inference"] = timing.cpu_seconds
        return {
            "latency_ratio": Figure(**timing.ratios[0]),
            **({"float_ratio": Figure(**timing.ratios[1])} if in_float else {}),
            "latency_p50_ms": Figure(record["artifact"]["latency_ms"]["p50"], *bounds95(timing.artifact_ms, 0.50)),
            "latency_p99_ms": Figure(record["artifact"]["latency_ms"]["p99"], *bounds95(timing.artifact_ms, 0.99)),
        }


def executed_on(machine: dict[str, str], artifact: "CompiledModel", *, imitated: bool) -> dict[str, Any]:
    """Which CPU, instruction set and runtime the figures come from; imitated: whether another's arithmetic was."""
    from targets.device.probe import probe
    from targets.device.runners import load_runner

    runtime = load_runner(artifact.runner, artifact.folder, list(artifact.files), artifact.options).runtime()
    return {
        "executed_on": {
            "cpu": machine["cpu"],
            "isa": probe()["isa"],
            "runtime": runtime["name"],
            "version": runtime["version"],
            "threads": artifact.options["threads"],
            "emulated": imitated,
        }
    }


def measure_answers(
    task: "Task",
    test: "Split",
    labels: list[str],
    teacher: "CompiledModel",
    artifact: "CompiledModel",
    budget: "Budget",
    record: dict[str, Any],
    work: "Work",
) -> dict[str, Any]:
    """Scores both on every test sample; fills accuracy, slices and churn of the record."""
    from pipeline.evaluate import answers
    from pipeline.gates import churn, paired_drop, slice_verdicts

    outputs: list[np.ndarray] = []
    for part, model in enumerate((teacher, artifact)):
        outputs.append(answers(model, test, lambda f, part=part: work.progress(0.35 * (part + f), "accuracy")))
    scores = [task.score(output, test.labels) for output in outputs]
    drop = paired_drop(scores[0], scores[1])
    slices = slice_verdicts(scores[0], scores[1], task.slices(test.labels, labels), budget.worst_slice_drop)
    record["accuracy"] = {
        "metric": task.metric,
        "unit": task.unit,
        "higher_is_better": task.higher_is_better,
        "teacher": float(scores[0].mean()),
        "artifact": float(scores[1].mean()),
        "drop_points": {"value": drop.value_points, "upper95": drop.upper95},
        "samples": len(test),
    }
    guessed = best_guess(task, test.labels, outputs[0].shape[-1])
    if (teacher_score := float(scores[0].mean())) <= guessed:
        note = (
            f"the fp32 teacher is right on {100 * teacher_score:.1f}% of the test samples, always naming the most "
            f"frequent class would be on {100 * guessed:.1f}%: that the artifact answers like it says little"
        )
        record["notes"] = [note]
    record["slices"] = [asdict(s) for s in slices]
    record["churn"] = asdict(churn(outputs[0].argmax(-1), outputs[1].argmax(-1)))
    return {"drop": drop, "samples": len(test), "slices": slices}


def best_guess(task: "Task", labels: "np.ndarray", classes: int) -> float:
    """The mean score of answers that name the most frequent class, whatever the sample. labels: [samples] int64."""
    import numpy as np

    frequent = np.bincount(labels, minlength=classes).argmax()
    return float(
        task.score(np.repeat(np.eye(classes, dtype=np.float32)[[frequent]], len(labels), axis=0), labels).mean()
    )


def measure_memory(
    teacher: "CompiledModel", artifact: "CompiledModel", golden: Path, record: dict[str, Any]
) -> "dict[str, Figure]":
    """Peak memory of fresh processes, and how long a fresh one takes to load the artifact; fills the record."""
    from pipeline.gates import MB, Figure, repeated
    from targets.device.fresh import fresh_process

    for key, model, repeats in (("baseline", teacher, 1), ("artifact", artifact, PEAK_MEMORY_REPEATS)):
        runs = [fresh_process(model.runner, model.folder, model.files, model.options, golden) for _ in range(repeats)]
        record[key]["peak_memory_bytes"] = int(median(run.peak_memory_bytes for run in runs))
    record["artifact"]["load_ms"] = median(run.load_ms for run in runs)
    record["ratios"]["peak_memory"] = record["baseline"]["peak_memory_bytes"] / record["artifact"]["peak_memory_bytes"]
    peak = repeated([run.peak_memory_bytes for run in runs])
    return {"peak_memory_mb": Figure(peak.value / MB, peak.low95 / MB, peak.high95 / MB)}


def write_golden(test: "Split", model: "CompiledModel", file: Path) -> dict[str, int]:
    """Writes test inputs, as the model takes them, and its answers: what the device must reproduce."""
    import numpy as np

    from pipeline.evaluate import answers
    from targets.device.preprocess import preprocess

    chosen = test.take(choose_balanced(test.labels, GOLDEN_SAMPLES, seed=0))
    inputs = preprocess(model.preprocessing, chosen.columns)
    arrays = {f"input.{name}": array for name, array in inputs.items()}
    arrays[f"output.{model.outputs[0].name}"] = answers(model, chosen)
    np.savez(file, allow_pickle=False, **arrays)
    return {"samples": len(chosen)}
