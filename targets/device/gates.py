"""Limits that only the device can judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from targets.device.intervals import bounds95, percentiles, ratio_interval

if TYPE_CHECKING:
    import numpy as np

    from targets.device.golden import Agreement
    from targets.device.manifest import Gate, Golden

LATENCY_QUANTILES = {"latency_p50_ms": 0.5, "latency_p99_ms": 0.99}
# Each is p50 of a float model over p50 of the artifact: of the trial, or of the artifact's own network.
RATIOS = ("latency_ratio", "faster_than_float")
MB = 1_000_000


@dataclass(frozen=True)
class Outcome:
    """bound: the end of the 95% interval that must keep the limit. verdict: pass, fail, inconclusive (the interval
    straddles the limit) or pending (not judged here).
    """

    name: str
    limit: float
    measured: float | None
    bound: float | None
    verdict: str


def pending(gate: Gate) -> Outcome:
    """A gate that is not judged here."""
    return Outcome(gate.name, gate.limit, None, None, "pending")


def judge_latency(gate: Gate, latencies_ms: np.ndarray) -> Outcome:
    """At most the limit, by the upper 95% bound. latencies_ms: [loadings, calls]."""
    low, high = bounds95(latencies_ms, LATENCY_QUANTILES[gate.name])
    measured = percentiles(latencies_ms)["p50" if gate.name == "latency_p50_ms" else "p99"]
    verdict = "pass" if high <= gate.limit else "fail" if low > gate.limit else "inconclusive"
    return Outcome(gate.name, gate.limit, measured, high, verdict)


def judge_ratio(gate: Gate, float_ms: np.ndarray, artifact_ms: np.ndarray) -> Outcome:
    """At least the limit, by the lower end of the 95% interval. [loadings, calls] each, paired."""
    ratio = ratio_interval(float_ms, artifact_ms)
    verdict = "pass" if ratio["low95"] >= gate.limit else "fail" if ratio["high95"] < gate.limit else "inconclusive"
    return Outcome(gate.name, gate.limit, ratio["value"], ratio["low95"], verdict)


def judge_memory(gate: Gate, peak_memory_bytes: int) -> Outcome:
    """At most the limit; one process, so there is no interval."""
    measured = peak_memory_bytes / MB
    return Outcome(gate.name, gate.limit, measured, measured, "pass" if measured <= gate.limit else "fail")


def judge_golden(golden: Golden, agreement: Agreement) -> list[Outcome]:
    """One outcome for each limit there is: "golden" in dB and "golden_argmax_agreement" as a share."""
    found = [
        ("golden", golden.min_sqnr_db, agreement.sqnr_db),
        ("golden_argmax_agreement", golden.min_argmax_agreement, agreement.argmax_agreement),
    ]
    return [
        Outcome(name, limit, measured, measured, "pass" if measured >= limit else "fail")
        for name, limit, measured in found
        if limit is not None
    ]


def overall(outcomes: list[Outcome]) -> str:
    """The worst verdict: fail before inconclusive before pass; what is pending does not count."""
    verdicts = {outcome.verdict for outcome in outcomes}
    return next((verdict for verdict in ("fail", "inconclusive") if verdict in verdicts), "pass")
