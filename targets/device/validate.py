"""Validates a bundle on this device: its bytes, what it needs, its answers, its speed and memory."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from targets.device import probe
from targets.device.errors import DeviceError, UnsuitedError
from targets.device.requirements import Check, check_expiry, check_requirements
from targets.device.verify import find_payload, verify

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from targets.device.gates import Outcome
    from targets.device.manifest import Manifest
    from targets.device.runners import Runner

SCHEMA = 1
GATE_EXIT_CODE = 3


@dataclass
class Validation:
    """The report while it grows, so that what was found before an error is still in it."""

    bundle: dict[str, Any] = field(default_factory=dict)
    executed_on: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    gates: list[Outcome] = field(default_factory=list)
    latency_ms: dict[str, float] | None = None
    trial_latency_ms: dict[str, float] | None = None
    latency_ratio: dict[str, float] | None = None
    peak_memory_bytes: int | None = None
    load_ms: float | None = None
    verdict: str = "refused"
    error: dict[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        """JSON, schema 1."""
        return {"schema": SCHEMA, **asdict(self)}


def validate(bundle: Path, seconds: float) -> tuple[int, dict[str, Any]]:
    """The exit code and the report (schema 1) of a bundle on this device.

    seconds: of timing; up to four times as long where an interval straddles its limit. Raises CallError where there is
    no such folder; every other DeviceError is in the report.
    """
    report = Validation()
    payload = find_payload(bundle)
    try:
        code = _validate(payload, seconds, report)
    except DeviceError as e:
        report.checks.append(Check("bundle" if e.exit_code == 4 else "device", "fail", e.message, e.next_step))
        report.error = {"exit_code": e.exit_code, "message": e.message, "next_step": e.next_step}
        code = e.exit_code
    except MemoryError:
        message, next_step = "not enough memory to validate this bundle", "free memory, or use a smaller model"
        report.checks.append(Check("device", "fail", message, next_step))
        report.error = {"exit_code": UnsuitedError.exit_code, "message": message, "next_step": next_step}
        code = UnsuitedError.exit_code
    return code, report.record()


def _validate(payload: Path, seconds: float, report: Validation) -> int:
    manifest, digest = verify(payload)
    report.bundle = {"name": manifest.name, "version": manifest.version, "device": manifest.device}
    report.bundle["payload_digest"] = digest
    report.checks.append(Check("files", "pass", f"{len(manifest.files)} files have the sha256 of the manifest"))
    report.checks.append(check_expiry(manifest, dt.datetime.now(dt.timezone.utc).date()))
    report.executed_on = {
        "cpu": probe.cpu_model(),
        "isa": probe.relevant_isa(),
        "runtime": None,
        "version": None,
        "threads": None,
        "emulated": probe.emulated(),
    }
    requirements = check_requirements(manifest, payload)
    report.checks += requirements
    failed = [check for check in requirements if check.verdict == "fail"]
    if failed:
        steps = "; ".join(dict.fromkeys(check.next_step for check in failed))
        raise UnsuitedError("; ".join(dict.fromkeys(check.detail for check in failed)), steps)
    _run(manifest, payload, seconds, report)
    return 0 if report.verdict == "pass" else GATE_EXIT_CODE


def _run(manifest: Manifest, payload: Path, seconds: float, report: Validation) -> None:
    """Everything that needs numpy and the runtime. Fills in gates, figures and the verdict."""
    from targets.device import runners

    runners.import_library("numpy", "numpy")
    runners.import_runtime(manifest.runner)

    from targets.device import gates, golden

    samples = golden.read_golden(payload, manifest) if manifest.golden else None
    # Emulated time and memory say nothing about the device.
    native = samples is not None and not report.executed_on["emulated"]
    if native:
        # Before the model is loaded here: a runtime that crashes on it then takes down only that process.
        _memory(manifest, payload, report)
    runner = runners.load_runner(manifest.runner, payload, manifest.model_files, manifest.options)
    runtime = runner.runtime()
    report.executed_on.update(
        runtime=runtime["name"], version=runtime["version"], threads=manifest.options.get("threads", 1)
    )
    if samples is not None and manifest.golden is not None:
        agreement = golden.compare_golden(samples, manifest, runner)
        outcomes = gates.judge_golden(manifest.golden, agreement)
        detail = f"{agreement.samples} samples, {agreement.sqnr_db:.1f} dB, same class {agreement.argmax_agreement:.2%}"
        report.checks.append(Check("golden", gates.overall(outcomes), detail))
        report.gates += outcomes
        if native:
            _time(manifest, payload, runner, samples.feeds(), seconds, report)
    judged = {outcome.name for outcome in report.gates}
    if "golden_argmax_agreement" in judged:
        judged.add("golden")
    report.gates += [gates.pending(gate) for gate in manifest.pending_gates if gate.name not in judged]
    report.verdict = gates.overall(report.gates)


def _memory(manifest: Manifest, payload: Path, report: Validation) -> None:
    from targets.device.fresh import fresh_process
    from targets.device.gates import judge_memory

    cost = fresh_process(manifest.runner, payload, manifest.model_files, manifest.options, payload / "golden.npz")
    report.peak_memory_bytes, report.load_ms = cost.peak_memory_bytes, cost.load_ms
    limits = [gate for gate in manifest.pending_gates if gate.name == "peak_memory_mb"]
    report.gates += [judge_memory(gate, cost.peak_memory_bytes) for gate in limits]


def _time(
    manifest: Manifest,
    payload: Path,
    runner: Runner,
    feeds: list[dict[str, np.ndarray]],
    seconds: float,
    report: Validation,
) -> None:
    from targets.device.timing import time_bundle

    timing = time_bundle(manifest, payload, runner, feeds, seconds)
    report.latency_ms, report.trial_latency_ms = timing.latency_ms, timing.trial_latency_ms
    report.latency_ratio = timing.ratio
    report.gates += timing.outcomes
