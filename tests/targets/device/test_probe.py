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


def test_a_probe_imports_nothing_heavy(repository):
    code = (
        f"import sys; sys.path.insert(0, {str(repository)!r}); from targets.device.probe import probe; probe();"
        "import json; print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "onnxruntime", "openvino", "subprocess"} & set(json.loads(done.stdout))


def test_memory_is_the_control_groups_where_that_is_less(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(module, "MEMORY_LIMITS", (str(limit),))
    whole = memory_bytes()
    limit.write_text("max\n")
    assert memory_bytes() == whole
    limit.write_text(f"{whole // 2}\n")
    assert memory_bytes() == whole // 2
