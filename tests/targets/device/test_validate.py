import json
import subprocess
import sys

import numpy as np
import pytest

from targets.device.__main__ import main
from tests.bundles import SAMPLES, edit_manifest, layers, make_bundle, seal, write_model


def run(bundle, *arguments):
    """Exit code and report of a validation in this process, with as little timing as there can be."""
    file = bundle.parent / "out.json"
    code = main(["validate", str(bundle), "--seconds", "0.05", "--json", str(file), *arguments])
    return code, json.loads(file.read_text())


def gates(report):
    return {gate["name"]: gate["verdict"] for gate in report["gates"]}


def change(bundle, key, **values):
    edit_manifest(bundle / "payload", lambda m: m | {key: m[key] | values})


def test_a_sound_bundle_passes_and_its_report_is_complete(tmp_path, capsys):
    bundle = make_bundle(tmp_path)
    code, report = run(bundle)
    assert code == 0
    assert set(report) >= {
        "schema",
        "bundle",
        "executed_on",
        "checks",
        "latency_ms",
        "peak_memory_bytes",
        "gates",
        "verdict",
    }
    assert set(report["executed_on"]) == {"cpu", "isa", "runtime", "version", "threads", "emulated"}
    assert {"name", "version", "device", "payload_digest"} == set(report["bundle"])
    assert report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert report["peak_memory_bytes"] > 0
    assert all(set(gate) == {"name", "limit", "measured", "bound", "verdict"} for gate in report["gates"])
    assert "verdict: pass" in capsys.readouterr().out


def test_pending_gates_are_judged_and_those_unknown_stay_pending(tmp_path):
    limits = {"latency_p50_ms": 1000, "latency_p99_ms": 1e-6, "peak_memory_mb": 0.001, "energy_mj": 1}
    limits |= {"latency_ratio": 1.5, "faster_than_float": 1.0, "golden": 0}
    pending = [{"name": name, "limit": limit} for name, limit in limits.items()]
    code, report = run(make_bundle(tmp_path, trial=True, pending_gates=pending))
    assert code == 3
    assert gates(report) == {
        "golden": "pass",
        "golden_argmax_agreement": "pass",
        "latency_p50_ms": "pass",
        "latency_p99_ms": "fail",
        "peak_memory_mb": "fail",
        "energy_mj": "pending",
        "latency_ratio": "pass",
        "faster_than_float": "pass",
    }
    assert report["verdict"] == "fail"
    assert report["trial_latency_ms"]["p50"] > report["latency_ms"]["p50"]


def test_an_artifact_slower_than_its_float_model_fails(tmp_path):
    bundle = make_bundle(tmp_path, trial=True, pending_gates=[{"name": "faster_than_float", "limit": 1.0}])
    change(bundle, "model", files=["trial/model.onnx"])
    change(bundle, "trial", files=["model.onnx"])
    edit_manifest(bundle / "payload", lambda m: m | {"golden": {"samples": SAMPLES}})
    code, report = run(bundle)
    assert (code, gates(report)) == (3, {"faster_than_float": "fail"})


def test_what_beats_the_teacher_but_not_its_own_network_in_float_fails(tmp_path):
    limits = {"latency_ratio": 0.5, "faster_than_float": 1.0}
    pending = [{"name": name, "limit": limit} for name, limit in limits.items()]
    bundle = make_bundle(tmp_path, trial=True, pending_gates=pending)
    change(bundle, "model", files=["trial/model.onnx"])
    own = {"runner": "onnxruntime_cpu", "files": ["model.onnx"], "options": {"threads": 1, "optimization": "all"}}
    edit_manifest(bundle / "payload", lambda m: m | {"golden": {"samples": SAMPLES}, "own_float": own})
    code, report = run(bundle)
    assert (code, gates(report)) == (3, {"latency_ratio": "pass", "faster_than_float": "fail"})


def test_a_ratio_without_a_float_model_stays_pending(tmp_path):
    code, report = run(make_bundle(tmp_path, pending_gates=[{"name": "latency_ratio", "limit": 6}]))
    assert (code, gates(report)["latency_ratio"]) == (0, "pending")


@pytest.mark.parametrize(
    ("limits", "verdict"), [({}, "pending"), ({"min_sqnr_db": 500}, "fail"), ({"min_sqnr_db": 50}, "pass")]
)
def test_a_golden_gate_without_limits_is_not_taken_for_judged(tmp_path, limits, verdict):
    pending = [{"name": "golden", "limit": 0}]
    _, report = run(make_bundle(tmp_path, pending_gates=pending, golden={"samples": SAMPLES} | limits))
    assert gates(report) == {"golden": verdict}


def test_wrong_answers_fail(tmp_path):
    bundle = make_bundle(tmp_path)
    write_model(bundle / "payload" / "model.onnx", layers(depth=2, width=128, seed=5))
    seal(bundle / "payload")
    code, report = run(bundle)
    assert (code, gates(report)["golden"]) == (3, "fail")


def test_weights_that_are_not_numbers_fail(tmp_path):
    bundle = make_bundle(tmp_path)
    write_model(bundle / "payload" / "model.onnx", [w * np.float32("nan") for w in layers(depth=2, width=128)])
    seal(bundle / "payload")
    code, report = run(bundle)
    assert (code, gates(report)["golden"]) == (3, "fail")


@pytest.mark.parametrize(
    ("key", "values", "words"),
    [
        ("requires", {"architecture": "riscv64"}, "needs riscv64"),
        ("requires", {"isa": ["avx9000", "amx_fp4"]}, "lacks avx9000, amx_fp4"),
        ("requires", {"runtime": {"onnxruntime": ">=99"}}, "needs onnxruntime>=99"),
        ("requires", {"runtime": {"imaginary-runtime": ">=1"}}, "imaginary-runtime>=1 is not installed"),
        ("requires", {"python_packages": ["numpy<1"]}, "needs numpy<1"),
        ("requires", {"memory_mb": 1e9}, "needs 1000000000 MB"),
        ("requires", {"disk_mb": 1e12}, "needs 1000000000000 MB"),
    ],
)
def test_a_device_that_does_not_suit_is_told_what_it_lacks(tmp_path, capsys, key, values, words):
    bundle = make_bundle(tmp_path)
    change(bundle, key, **values)
    code, report = run(bundle)
    assert (code, report["verdict"], report["error"]["exit_code"]) == (5, "refused", 5)
    assert words in report["error"]["message"]
    assert report["error"]["next_step"]
    assert words in capsys.readouterr().out


def test_a_bundle_of_another_runtime_is_refused_with_what_is_missing(tmp_path):
    code, report = run(make_bundle(tmp_path, runner="tensorrt_rtx", status="built"))
    assert code == 5
    assert "runner tensorrt_rtx is not known here" in report["error"]["message"]


@pytest.mark.parametrize(
    ("program", "words"), [("no-such-compiler", "no-such-compiler is not installed"), ("true", "not compiled")]
)
def test_a_deferred_build_is_refused_with_its_command_and_never_runs_it(tmp_path, program, words):
    command = [program, "--onnx=model.onnx"]
    bundle = make_bundle(tmp_path, status="deferred_build", build={"command": command, "produces": "model.plan"})
    code, report = run(bundle)
    assert code == 5
    assert words in report["error"]["message"]
    assert f"run: {program} --onnx=model.onnx" in report["error"]["next_step"]


def test_all_that_is_missing_is_said_at_once(tmp_path):
    bundle = make_bundle(tmp_path, runner="unheard_of")
    change(bundle, "requires", architecture="sparc", python_packages=["absent-package"])
    _, report = run(bundle)
    for words in ("needs sparc", "absent-package is not installed", "unheard_of is not known"):
        assert words in report["error"]["message"]


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"threads": -1}},
        {"options": {"threads": 1, "graph": "all"}},
        {"expires": "2001-01-01"},
        {"expires": "soon"},
        {"requires": None},
        {"model": {"files": ["../model.onnx"], "precision": "fp32"}},
        {"model": {"files": [], "precision": "fp32"}},
        {"status": "fine"},
        {"golden": {"samples": SAMPLES + 1}},
        {"inputs": []},
        {"status": "deferred_build", "build": None},
    ],
    ids=str,
)
def test_a_manifest_that_claims_what_is_not_so_exits_4(tmp_path, changes):
    code, report = run(make_bundle(tmp_path, **changes))
    assert (code, report["verdict"]) == (4, "refused")


def test_a_bundle_expires_after_its_last_day(tmp_path):
    assert run(make_bundle(tmp_path, expires="9999-12-31"))[0] == 0


@pytest.mark.parametrize("raw", [b"", b"no model", b"\x08\x08\x12\x05hello"])
def test_a_corrupt_model_under_a_good_hash_exits_4(tmp_path, raw):
    bundle = make_bundle(tmp_path)
    (bundle / "payload" / "model.onnx").write_bytes(raw)
    seal(bundle / "payload")
    code, report = run(bundle)
    assert code == 4
    assert "model.onnx: onnxruntime does not load it" in report["error"]["message"]


def test_a_model_newer_than_the_runtime_exits_5(tmp_path):
    bundle = make_bundle(tmp_path)
    write_model(bundle / "payload" / "model.onnx", layers(depth=2, width=128), ir_version=99)
    seal(bundle / "payload")
    code, report = run(bundle)
    assert code == 5
    assert "onnxruntime" in report["error"]["next_step"]


@pytest.mark.parametrize("changes", [{"driver": "telepathy"}, {"preprocessing": {"kind": "smell"}}], ids=str)
def test_a_driver_or_preprocessing_it_does_not_know_exits_5(tmp_path, changes):
    assert run(make_bundle(tmp_path, **changes))[0] == 5


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["validate"], ["validate", "."], ["validate", "/nowhere"], ["validate", "x", "--seconds", "nan"]],
)
def test_a_wrong_call_exits_2_without_a_traceback(tmp_path, arguments):
    if arguments == ["validate", "."]:
        arguments = ["validate", str(make_bundle(tmp_path)), "--json", "/nowhere/report.json"]
    command = [sys.executable, "-m", "targets.device", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_names_cannot_write_control_sequences_on_the_terminal(tmp_path, capsys):
    bundle = make_bundle(tmp_path)
    (bundle / "payload" / "evil\x1b[2J\udcff").write_text("")
    assert run(bundle)[0] == 4
    assert "\x1b" not in capsys.readouterr().out


def test_junit_is_written_for_a_refusal_too(tmp_path):
    bundle = make_bundle(tmp_path, status="fine")
    run(bundle, "--junit", str(tmp_path / "out.xml"))
    assert b'failures="1"' in (tmp_path / "out.xml").read_bytes()


def test_a_report_inside_the_bundle_is_refused(tmp_path, capsys):
    bundle = make_bundle(tmp_path)
    assert main(["validate", str(bundle), "--json", str(bundle / "payload" / "report.json")]) == 2
    assert "lies in the payload" in capsys.readouterr().err
