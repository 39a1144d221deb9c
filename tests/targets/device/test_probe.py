import json
import os
import platform
import subprocess
import sys

from targets.device import probe as module
from targets.device.probe import cpu_model, emulated, isa, memory_bytes, probe, relevant_isa
from targets.profile import DeviceProfile


def test_a_probe_has_the_fields_of_a_profile(repository):
    found = probe()
    assert set(found) == set(DeviceProfile.__dataclass_fields__)
    assert found["architecture"] == platform.machine()
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert {r["target"] for r in found["runtimes"]} == {"onnxruntime_cpu", "openvino"}
    assert found["memory_mb"] > 500
    assert found["precisions"][-1] == "fp32"
    assert json.loads(json.dumps(found)) == found
    assert not emulated()
    assert cpu_model()
    assert set(relevant_isa()) <= set(isa())


def test_a_probe_is_quick_and_imports_nothing_heavy(repository):
    code = (
        "import time; from targets.device.probe import probe; probe();"
        "import sys, json; print(json.dumps([time.process_time(), sorted(sys.modules)]))"
    )
    best = 1.0
    for _ in range(3):
        out = subprocess.run(
            [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(repository)!r});{code}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        seconds, modules = json.loads(out)
        best = min(best, seconds)
        assert not {"numpy", "onnxruntime", "openvino", "subprocess"} & set(modules)
    assert best < 0.1


def test_memory_is_the_control_groups_where_that_is_less(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(module, "MEMORY_LIMITS", (str(limit),))
    whole = memory_bytes()
    limit.write_text("max\n")
    assert memory_bytes() == whole
    limit.write_text(f"{whole // 2}\n")
    assert memory_bytes() == whole // 2
