import pytest

from targets.device.errors import CallError
from targets.transport.local import validate
from tests.bundles import make_bundle


def test_returns_the_exit_code_and_report_of_a_fresh_process(tmp_path, monkeypatch):
    make_bundle(tmp_path, trial=True, pending_gates=[{"name": "faster_than_float", "limit": 1.0}])
    monkeypatch.chdir(tmp_path)
    code, report = validate(tmp_path, junit=tmp_path / "report.xml", seconds=0.2)
    assert (code, report["verdict"]) == (0, "pass")
    assert [gate["verdict"] for gate in report["gates"] if gate["name"] == "faster_than_float"] == ["pass"]
    assert b'failures="0"' in (tmp_path / "report.xml").read_bytes()


def test_a_refusal_comes_with_its_report(tmp_path):
    bundle = make_bundle(tmp_path)
    (bundle / "payload" / "model.onnx").write_bytes(b"changed")
    code, report = validate(bundle)
    assert (code, report["verdict"]) == (4, "refused")
    assert "model.onnx: its bytes" in report["error"]["message"]


def test_a_wrong_call_is_raised(tmp_path):
    with pytest.raises(CallError, match="no such folder"):
        validate(tmp_path / "nowhere")
