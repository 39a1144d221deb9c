"""The device part's command line: `python3 device.pyz validate BUNDLE`, `python3 device.pyz probe`."""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

from targets.device.errors import CallError, DeviceError

MAX_SECONDS = 3600
# What in_new_process may ask for: the module whose main answers.
COMMANDS = {
    "answers": "targets.device.answers",
    "fresh-process": "targets.device.fresh",
    "run-payload": "targets.device.validate",
    "tensors": "targets.device.tensors",
}
EXIT_CODES = "exit codes: 0 holds; 2 wrong call; 3 a gate does not hold; 4 not what it claims; 5 not for this device"


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and 0 < value <= MAX_SECONDS):
        raise ValueError(text)
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="device.pyz", description="Checks a bundle on the device it is to run on.", epilog=EXIT_CODES
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="{validate,probe}")
    check = verbs.add_parser("validate", help="check files, requirements, golden answers, latency and memory")
    check.add_argument("bundle", type=Path, metavar="BUNDLE", help="the folder that holds payload/, or the one above")
    check.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    check.add_argument("--junit", type=Path, metavar="FILE", help="write the report as JUnit XML")
    check.add_argument(
        "--seconds", type=_seconds, default=5.0, metavar="N", help="of timing (5); up to four times that if undecided"
    )
    verbs.add_parser("probe", help="print this device as a profile, in JSON")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs a verb; prints; returns the exit code. No DeviceError leaves it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if len(arguments) == 2 and arguments[0] in COMMANDS:
            return _in_process(*arguments)
        call = _parser().parse_args(arguments)
        if call.verb == "probe":
            from targets.device.probe import probe

            print(json.dumps(probe(), indent=1))
            return 0
        return _validate(call)
    except DeviceError as e:
        print(_printable(f"device.pyz: {e.message}\n  {e.next_step}".rstrip()), file=sys.stderr)
        return e.exit_code
    except OSError as e:
        print(_printable(f"device.pyz: {e.filename or 'this device'}: {e.strerror}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("device.pyz: interrupted", file=sys.stderr)
        return 1


def _validate(call: argparse.Namespace) -> int:
    from targets.device.junit import to_junit
    from targets.device.validate import validate
    from targets.device.verify import find_payload

    for file in (call.json, call.junit):
        if file is not None and (file.is_dir() or not file.resolve().parent.is_dir()):
            raise CallError(f"{file}: cannot be written", "name a file in a folder that exists")
        if file is not None and find_payload(call.bundle).resolve() in file.resolve().parents:
            raise CallError(f"{file}: lies in the payload, and would change it", "name a file elsewhere")
    code, report = validate(call.bundle, call.seconds)
    if call.json is not None:
        call.json.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    if call.junit is not None:
        call.junit.write_bytes(to_junit(report))
    print(_printable("\n".join(summary(report))))
    return code


def _in_process(command: str, spec: str) -> int:
    """The other end of process.in_new_process: one line of JSON, the error's own exit code."""
    try:
        answer = import_module(COMMANDS[command]).main(json.loads(spec))
    except DeviceError as e:
        print(json.dumps({"message": e.message, "next_step": e.next_step}))
        return e.exit_code
    print(json.dumps(answer))
    return 0


def summary(report: dict[str, Any]) -> list[str]:
    """The report in a few lines for a person."""
    bundle, on = report["bundle"], report["executed_on"]
    lines = [f"{bundle['name']} version {bundle['version']} for {bundle['device']}"] if bundle else []
    if on:
        runtime = f", {on['runtime']} {on['version']}, threads {on['threads']}" if on["runtime"] else ""
        lines.append(f"on {on['cpu']}{runtime}{' (emulated)' if on['emulated'] else ''}")
    lines += [f"  {check['verdict']:<12} {check['name']}: {check['detail']}" for check in report["checks"]]
    if report["latency_ms"]:
        lines.append(
            "  latency      p50 {p50:.3f} ms, p90 {p90:.3f} ms, p99 {p99:.3f} ms ({n} calls)".format(
                **report["latency_ms"]
            )
        )
    if report["latency_ratio"]:
        lines.append(
            "  against float {value:.2f}x faster (95%: {low95:.2f} to {high95:.2f})".format(**report["latency_ratio"])
        )
    if report["peak_memory_bytes"] is not None:
        lines.append(f"  peak memory  {report['peak_memory_bytes'] / 1e6:.1f} MB, loaded in {report['load_ms']:.0f} ms")
    for gate in report["gates"]:
        figures = "" if gate["measured"] is None else f" measured {gate['measured']:.4g}, bound {gate['bound']:.4g}"
        lines.append(f"  {gate['verdict']:<12} gate {gate['name']}: limit {gate['limit']:.4g}{figures}")
    lines.append(f"verdict: {report['verdict']}")
    if report["error"] and report["error"]["next_step"]:
        lines.append(f"next: {report['error']['next_step']}")
    return lines


def _printable(text: str) -> str:
    """Without control characters, with which a file name could write anything on the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
