"""Validates a bundle on this device: its bytes, what it needs, its answers, its speed and memory."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targets.device import probe
from targets.device.errors import BundleError, DeviceError, UnsuitedError
from targets.device.manifest import read_manifest
from targets.device.process import in_new_process
from targets.device.requirements import Check, check_expiry, check_requirements
from targets.device.verify import find_payload, verify

if TYPE_CHECKING:
    import numpy as np

    from targets.device.gates import Outcome
    from targets.device.manifest import Manifest

SCHEMA = 1
COMMAND = "run-payload"
# The golden answers, two fresh processes, and loading models; short of memory, a runtime may loop for ever while it is
# imported.
TIMEOUT_S = 1200
# Of the seconds asked for: up to four rounds of timing, with loading up to three times as long each.
TIMING_LIMIT = 12
GATE_EXIT_CODE = 3


@dataclass
class Findings:
    """What is found out, while it grows, so that what was found before an error is still in the findings."""

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

    def refuse(self, error: DeviceError) -> None:
        """Records what ended it."""
        kind = "bundle" if error.exit_code == BundleError.exit_code else "device"
        self.checks.append(Check(kind, "fail", error.message, error.next_step))
        self.error = {"exit_code": error.exit_code, "message": error.message, "next_step": error.next_step}


def validate(bundle: Path, seconds: float) -> tuple[int, dict[str, Any]]:
    """The exit code and the report (schema 1) of a bundle on this device.

    seconds: of timing, without loading; up to four times as long where an interval straddles its limit. Raises
    CallError where there is no such folder; every other DeviceError is in the findings.
    """
    payload = find_payload(bundle)
    shown: dict[str, Any] = {}
    before, ran = Findings(), asdict(Findings())
    try:
        manifest = _check(payload, shown, before)
        spec = {"payload": str(payload.resolve()), "seconds": seconds, "executed_on": before.executed_on}
        ran = in_new_process(COMMAND, spec, manifest.name, TIMEOUT_S + TIMING_LIMIT * seconds)
    except DeviceError as e:
        before.refuse(e)
    except MemoryError:
        before.refuse(UnsuitedError("not enough memory to check this bundle", "free memory"))
    error = before.error or ran["error"]
    report = {"schema": SCHEMA, "bundle": shown, **ran, "error": error}
    report["executed_on"] = ran["executed_on"] or before.executed_on
    report["checks"] = [asdict(check) for check in before.checks] + ran["checks"]
    if error:
        return error["exit_code"], report
    return 0 if report["verdict"] == "pass" else GATE_EXIT_CODE, report


def _check(payload: Path, shown: dict[str, Any], findings: Findings) -> Manifest:
    """What needs neither numpy nor the runtime: the bytes, and what the manifest requires."""
    manifest, digest = verify(payload)
    shown.update(name=manifest.name, version=manifest.version, device=manifest.device, payload_digest=digest)
    findings.checks.append(Check("files", "pass", f"{len(manifest.files)} files have the sha256 of the manifest"))
    findings.checks.append(check_expiry(manifest, dt.datetime.now(dt.timezone.utc).date()))
    findings.executed_on = {
        "cpu": probe.cpu_model(),
        "isa": probe.relevant_isa(),
        "runtime": None,
        "version": None,
        "threads": None,
        "emulated": probe.emulated(),
    }
    requirements = check_requirements(manifest, payload)
    findings.checks += requirements
    failed = [check for check in requirements if check.verdict == "fail"]
    if failed:
        steps = "; ".join(dict.fromkeys(check.next_step for check in failed))
        raise UnsuitedError("; ".join(dict.fromkeys(check.detail for check in failed)), steps)
    return manifest


def main(spec: dict[str, Any]) -> dict[str, Any]:
    """Within the new process: the Findings of running the payload, as JSON."""
    findings = Findings(executed_on=spec["executed_on"])
    try:
        payload = Path(spec["payload"])
        _run(read_manifest(payload), payload, spec["seconds"], findings)
    except DeviceError as e:
        findings.refuse(e)
    except MemoryError:
        findings.refuse(UnsuitedError("not enough memory to run this bundle", "free memory, or use a smaller model"))
    return asdict(findings)


def _run(manifest: Manifest, payload: Path, seconds: float, findings: Findings) -> None:
    """Everything that needs numpy and the runtime. Fills in gates, figures and the verdict."""
    from targets.device import runners

    runners.import_library("numpy", "numpy")
    runners.import_runtime(manifest.runner)

    from targets.device import gates, golden

    samples = golden.read_golden(payload, manifest) if manifest.golden else None
    # Emulated time and memory say nothing about the device.
    native = samples is not None and not findings.executed_on["emulated"]
    if native:
        # Before the model is loaded here: a runtime that crashes on it then takes down only that process.
        _memory(manifest, payload, findings)
    runner = runners.load_runner(manifest.runner, payload, manifest.model_files, manifest.options)
    runtime = runner.runtime()
    findings.executed_on.update(
        runtime=runtime["name"], version=runtime["version"], threads=manifest.options.get("threads", 1)
    )
    if samples is not None and manifest.golden is not None:
        agreement = golden.compare_golden(samples, manifest, runner)
        outcomes = gates.judge_golden(manifest.golden, agreement)
        detail = f"{agreement.samples} samples, {agreement.sqnr_db:.1f} dB, same class {agreement.argmax_agreement:.2%}"
        findings.checks.append(Check("golden", gates.overall(outcomes), detail))
        findings.gates += outcomes
        if native:
            del runner  # timing loads its own
            _time(manifest, payload, samples.feeds(), seconds, findings)
    judged = {outcome.name for outcome in findings.gates}
    if "golden_argmax_agreement" in judged:
        judged.add("golden")
    findings.gates += [gates.pending(gate) for gate in manifest.pending_gates if gate.name not in judged]
    findings.verdict = gates.overall(findings.gates)


def _memory(manifest: Manifest, payload: Path, findings: Findings) -> None:
    from targets.device.fresh import fresh_process
    from targets.device.gates import judge_memory

    cost = fresh_process(manifest.runner, payload, manifest.model_files, manifest.options, payload / "golden.npz")
    findings.peak_memory_bytes, findings.load_ms = cost.peak_memory_bytes, cost.load_ms
    limits = [gate for gate in manifest.pending_gates if gate.name == "peak_memory_mb"]
    findings.gates += [judge_memory(gate, cost.peak_memory_bytes) for gate in limits]


def _time(
    manifest: Manifest,
    payload: Path,
    feeds: list[dict[str, np.ndarray]],
    seconds: float,
    findings: Findings,
) -> None:
    from targets.device.timing import time_bundle

    timing = time_bundle(manifest, payload, feeds, seconds)
    findings.latency_ms, findings.trial_latency_ms = timing.latency_ms, timing.trial_latency_ms
    findings.latency_ratio = timing.ratio
    findings.gates += timing.outcomes
