"""The sample reports in tests/fixtures/reports, made by the real statistics from drawn answers.

`python tests/pipeline/report/test_samples.py` writes them anew, to be looked over and committed with what changed them.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.gates import Figure, Measures, churn, judge, overall, paired_drop, slice_verdicts
from pipeline.intervals import Upper
from pipeline.recipe import Budget
from pipeline.report.record import (
    Accuracy,
    Artifact,
    Baseline,
    Cost,
    ExecutedOn,
    Latency,
    Ratio,
    Ratios,
    Refusal,
    Rejected,
    Report,
    StageRecord,
    dumps,
)

FOLDER = Path(__file__).parents[2] / "fixtures" / "reports"
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
MAIL = ("ham", "spam")
CPU = ExecutedOn(
    cpu="AMD EPYC 9B14",
    isa=("avx2", "fma", "avx512f", "avx512_vnni"),
    runtime="onnxruntime",
    version="1.31.1",
    threads=1,
    emulated=False,
)
WHAT = "teacher fp32, same runtime, same threads"
TOOLS = {"torch": "2.13.0", "onnx": "1.23.2", "onnxruntime": "1.31.1", "nncf": "3.4.0", "numpy": "2.4.6"}


def drawn(
    classes: tuple[str, ...], samples: int, right: float, lost: float, gained: float
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Scores of teacher and artifact and the class masks: `lost` and `gained` are shares of all samples."""
    rng = np.random.default_rng(7)
    labels = rng.integers(0, len(classes), samples)
    draw = rng.random(samples)
    # The last class but three is the hard one, as shirts are.
    hard = np.where(labels == len(classes) - min(4, len(classes)), 2.6, 0.82)
    teacher = rng.random(samples) < 1 - (1 - right) * hard
    artifact = np.where(teacher, draw >= lost * hard, draw < gained / (1 - right))
    masks = {name: labels == i for i, name in enumerate(classes)}
    return teacher.astype(np.float64), artifact.astype(np.float64), masks


def stages(cached: tuple[str, ...], times: dict[str, float]) -> tuple[StageRecord, ...]:
    reasons = {"validate": "config.seconds changed: 6.0 -> 8.0", "package": "validation will be rebuilt"}
    return tuple(
        StageRecord(
            name=name,
            digest=hashlib.sha256(name.encode()).hexdigest(),
            contents=hashlib.sha256(f"{name} made".encode()).hexdigest(),
            cached=name in cached,
            reason="" if name in cached else reasons.get(name, "never built"),
            seconds=seconds,
            peak_memory_bytes=int(2e8 + 4e6 * seconds),
        )
        for name, seconds in times.items()
    )


def fashion_host() -> Report:
    """A pass with every figure."""
    teacher, artifact, masks = drawn(CLOTHES, 10_000, 0.9354, 0.0205, 0.0087)
    drop = paired_drop(teacher, artifact)
    budget = Budget(
        accuracy_drop=1.5, worst_slice_drop=3.0, latency_ratio=6, size_mb=1, latency_p99_ms=2, peak_memory_mb=96
    )
    slices = slice_verdicts(teacher, artifact, masks, budget.worst_slice_drop)
    ratio = Figure(12.37, 12.12, 12.66)
    measures = Measures(
        precision="int8",
        size_bytes=98_412,
        baseline_size_bytes=1_937_554,
        drop=drop,
        samples=10_000,
        slices=slices,
        latency_ratio=ratio,
        float_ratio=Figure(3.12, 3.05, 3.2),
        latency_p50_ms=Figure(0.1386, 0.1379, 0.1398),
        latency_p99_ms=Figure(0.1891, 0.1840, 0.1977),
        peak_memory_mb=Figure(5.42, 5.36, 5.51),
    )
    gates = judge(budget, measures, on_device=True)
    return Report(
        recipe="fashion",
        device="host",
        target="onnxruntime-cpu",
        status="ready",
        verdict=overall(gates),
        choice="measured",
        executed_on=CPU,
        baseline=Baseline(WHAT, 1_937_554, 14_213_120, Latency(1.7145, 1.7702, 1.9613, 2160)),
        artifact=Artifact("int8", 98_412, 5_419_008, 3.81, Latency(0.1386, 0.1442, 0.1891, 2160)),
        ratios=Ratios(Ratio(12.37, 12.12, 12.66), 19.688, 2.623, Ratio(3.12, 3.05, 3.2)),
        accuracy=accuracy(teacher, artifact),
        slices=tuple(slices),
        churn=churn(teacher, artifact),
        gates=tuple(gates),
        cost=Cost(macs=6_512_640, cpu_seconds_per_inference=0.000141),
        stages=stages(
            ("prepare", "load teacher", "load student", "predict"),
            {
                "prepare": 6.41,
                "load teacher": 1.92,
                "load student": 0.31,
                "predict": 41.7,
                "distill": 238.4,
                "export": 7.9,
                "export baseline": 6.2,
                "calibrate": 0.6,
                "quantize": 31.5,
                "compile": 0.4,
                "compile baseline": 0.4,
                "validate": 24.8,
                "package": 1.3,
            },
        ),
        rejected=(
            tried("float", "slower than nncf-mixed", 0.2914, 1.0, 0.9442, 0.0, 251_338),
            tried("nncf-performance", "slower than nncf-mixed", 0.1562, 1.87, 0.9428, 0.14, 95_120),
            tried("ort-qdq-minmax", "slower than float: 0.70×", 0.4163, 0.70, 0.9406, 0.36, 103_870),
            tried("ort-qdq-percentile", "slower than float: 0.72×", 0.4047, 0.72, 0.9412, 0.30, 103_870),
            tried("dynamic", "costs 84.4 points where 0.5 are allowed", 0.2712, 1.07, 0.1002, 84.4, 99_004),
        ),
        chosen=tried("nncf-mixed", "the fastest that holds the accuracy", 0.1391, 2.10, 0.9421, 0.21, 98_412),
        tools=TOOLS,
    )


def accuracy(teacher: np.ndarray, artifact: np.ndarray) -> Accuracy:
    drop = paired_drop(teacher, artifact)
    return Accuracy(
        metric="accuracy",
        unit="fraction",
        higher_is_better=True,
        teacher=float(teacher.mean()),
        artifact=float(artifact.mean()),
        drop_points=Upper(drop.value_points, drop.upper95),
        samples=len(teacher),
    )


def tried(name: str, why: str, ms: float, ratio: float, accuracy: float, drop: float, size: int) -> Rejected:
    figures = {
        "latency_ms": ms,
        "ratio_to_float": {"value": ratio, "low95": round(ratio * 0.98, 3), "high95": round(ratio * 1.02, 3)},
        "accuracy": accuracy,
        "drop_points": drop,
        "size_bytes": size,
    }
    return Rejected(name, why, figures)


def fashion_rtx_4060() -> Report:
    """Compiled without the GPU: what follows from running it is left to the device."""
    budget = Budget(accuracy_drop=1.5, worst_slice_drop=3.0, latency_ratio=6, size_mb=1)
    gates = judge(budget, Measures("int8", 311_204, baseline_size_bytes=1_968_112), on_device=False)
    return Report(
        recipe="fashion",
        device="rtx-4060",
        target="tensorrt-rtx",
        status="built",
        verdict=overall(gates),
        choice="rule",
        baseline=Baseline(WHAT, 1_968_112),
        artifact=Artifact("int8", 311_204),
        ratios=Ratios(size=6.324),
        gates=tuple(gates),
        cost=Cost(macs=6_512_640),
        stages=stages(
            ("prepare", "load teacher", "load student", "predict", "distill", "export", "export baseline"),
            {
                "prepare": 6.41,
                "load teacher": 1.92,
                "load student": 0.31,
                "predict": 41.7,
                "distill": 238.4,
                "export": 7.9,
                "export baseline": 6.2,
                "calibrate": 0.6,
                "quantize": 9.3,
                "compile": 14.2,
                "compile baseline": 17.9,
                "validate": 0.7,
                "package": 0.9,
            },
        ),
        rejected=(Rejected("fp16", "the rule puts int8 first", {"precision": "fp16", "size_bytes": 248_730}),),
        chosen=Rejected("entropy", "the rule's first for compute capability 8.9", {"precision": "int8"}),
        tools=TOOLS | {"tensorrt-rtx": "1.7.1.116"},
    )


def fashion_refused() -> Report:
    """A budget that cannot be met: the report is written, no bundle is made."""
    passed = fashion_host()
    budget = Budget(accuracy_drop=0.25, latency_ratio=20, size_mb=1)
    ratio = Figure(12.37, 12.12, 12.66)
    teacher, artifact, _ = drawn(CLOTHES, 10_000, 0.9354, 0.0205, 0.0087)
    measures = Measures("int8", 98_412, drop=paired_drop(teacher, artifact), samples=10_000, latency_ratio=ratio)
    gates = judge(budget, measures, on_device=True)
    failed = [gate for gate in gates if gate.verdict != "pass"]
    refusal = Refusal(
        stage="package",
        reason="the budget does not hold: " + "; ".join(f"{g.name} is {g.verdict} at {g.limit:g}" for g in failed),
        next_step="give the limits that can be met: " + "; ".join(g.nearest for g in failed),
    )
    return replace(
        passed, verdict=overall(gates), gates=tuple(gates), stages=passed.stages[:-1], refusal=refusal, status=None
    )


def spam_host() -> Report:
    """A text task with two classes, one of them too small to tell."""
    teacher, artifact, masks = drawn(MAIL, 2_000, 0.9795, 0.0085, 0.0050)
    drop = paired_drop(teacher, artifact)
    budget = Budget(accuracy_drop=1.5, worst_slice_drop=2.0, latency_ratio=8, size_mb=40)
    masks = masks | {"long mail": np.arange(2_000) % 53 == 0}
    slices = slice_verdicts(teacher, artifact, masks, budget.worst_slice_drop)
    measures = Measures(
        precision="int8",
        size_bytes=14_911_204,
        baseline_size_bytes=90_412_330,
        drop=drop,
        samples=2_000,
        slices=slices,
        latency_ratio=Figure(10.81, 10.42, 11.17),
    )
    gates = judge(budget, measures, on_device=True)
    return Report(
        recipe="spam",
        device="host",
        target="onnxruntime-cpu",
        status="ready",
        verdict=overall(gates),
        choice="measured",
        executed_on=CPU,
        baseline=Baseline(WHAT, 90_412_330, 188_416_000, Latency(16.42, 17.31, 21.90, 640)),
        artifact=Artifact("int8", 14_911_204, 31_850_496, 61.4, Latency(1.519, 1.602, 2.244, 640)),
        ratios=Ratios(Ratio(10.81, 10.42, 11.17), 6.063, 5.916),
        accuracy=accuracy(teacher, artifact),
        slices=tuple(slices),
        churn=churn(teacher, artifact),
        gates=tuple(gates),
        cost=Cost(macs=124_780_544, cpu_seconds_per_inference=0.00153),
        stages=stages(
            (),
            {"prepare": 48.2, "predict": 62.0, "distill": 171.3, "export": 12.4, "quantize": 33.9, "validate": 55.1},
        ),
        rejected=(
            tried("float", "slower than dynamic", 2.913, 1.0, 0.9812, 0.0, 57_930_114),
            tried("nncf-transformer", "costs 1.28 points where 0.5 are allowed", 1.377, 2.12, 0.9684, 1.28, 14_790_331),
        ),
        chosen=tried("dynamic", "the fastest that holds the accuracy", 1.522, 1.91, 0.9801, 0.11, 14_911_204),
        tools=TOOLS | {"transformers": "4.57.6", "optimum": "2.1.0"},
    )


SAMPLES = {
    "fashion-host": fashion_host,
    "fashion-rtx-4060": fashion_rtx_4060,
    "fashion-refused": fashion_refused,
    "spam-host": spam_host,
}


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_is_what_the_statistics_give(name: str):
    stored = (FOLDER / f"{name}.json").read_text()
    how = f"if the change is meant, write it anew: python {Path(__file__).relative_to(Path(__file__).parents[3])}"
    assert stored == dumps(SAMPLES[name]().to_json()), how


if __name__ == "__main__":
    for name, make in SAMPLES.items():
        (FOLDER / f"{name}.json").write_text(dumps(make().to_json()))
