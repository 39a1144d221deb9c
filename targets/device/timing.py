"""Times a bundle on this device and judges the gates that need it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from targets.device import gates
from targets.device.intervals import percentiles, ratio_interval
from targets.device.measure import Loadings
from targets.device.runners import load_runner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from targets.device.manifest import Gate, Manifest

# An interval that straddles its limit is measured on, for this many times the time asked for in all.
MAX_ROUNDS = 4
# But no further round begins for which loading the models would take longer than that in all.
MOST_LOADING_S = 300.0
WARMUP = 10


@dataclass(frozen=True)
class Timing:
    """latency_ms, trial_latency_ms: {p50, p90, p99, n}. ratio: {value, low95, high95}, float over artifact.

    The trial's are None where the bundle carries no float model. outcomes: of the gates that could be judged.
    """

    latency_ms: dict[str, float]
    trial_latency_ms: dict[str, float] | None
    ratio: dict[str, float] | None
    outcomes: list[gates.Outcome]


def time_bundle(manifest: Manifest, payload: Path, feeds: Sequence[dict[str, np.ndarray]], seconds: float) -> Timing:
    """Times the artifact, interleaved with the float models that the bundle carries, until its gates are decided.

    seconds: of timing, for each of at most MAX_ROUNDS rounds. Raises what loading a model raises.
    """
    models = [(manifest.runner, manifest.model_files, manifest.options)]
    models += [(model.runner, model.files, model.options) for model in manifest.float_models]
    loadings = Loadings([partial(load_runner, runner, payload, *how) for runner, *how in models], feeds, WARMUP)
    times: list[np.ndarray] = []
    outcomes: list[gates.Outcome] = []
    start = monotonic()
    for done in range(1, MAX_ROUNDS + 1):
        times = loadings.measure(seconds)
        outcomes = judge(manifest.pending_gates, times)
        late = (monotonic() - start) * (done + 1) / done > MAX_ROUNDS * seconds + MOST_LOADING_S
        if late or all(outcome.verdict != "inconclusive" for outcome in outcomes):
            break
    latencies = [percentiles(t) for t in times]
    if manifest.trial is None:
        return Timing(latencies[0], None, None, outcomes)
    return Timing(latencies[0], latencies[1], ratio_interval(times[1], times[0]), outcomes)


def judge(pending: Sequence[Gate], times: Sequence[np.ndarray]) -> list[gates.Outcome]:
    """The gates that these times decide.

    times: of the artifact, the float model of a trial, and the artifact's own network in float, as far as there are
    such models; [loadings, calls]. Without the last the trial's is the artifact's own.
    """
    latency = [gates.judge_latency(gate, times[0]) for gate in pending if gate.name in gates.LATENCY_QUANTILES]
    if len(times) == 1:
        return latency
    against = {"latency_ratio": times[1], "faster_than_float": times[-1]}
    return latency + [
        gates.judge_ratio(gate, against[gate.name], times[0]) for gate in pending if gate.name in gates.RATIOS
    ]
