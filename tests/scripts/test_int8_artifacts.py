import ast

import int8_artifacts as artifacts
import peer_environments as environments
import pytest
from packaging.requirements import Requirement


def test_lines_that_a_user_writes_are_those_with_content():
    assert artifacts.lines_of("") == 0
    assert artifacts.lines_of("\n# a comment\n   # another\n\na = 1\n  b\n") == 2


def test_an_error_is_the_last_exception_that_was_named():
    said = "Traceback:\n  File x\nValueError: first\nonnx.checker.ValidationError: last\n  a hint\n"
    assert artifacts.last_line(said) == "onnx.checker.ValidationError: last"
    assert artifacts.last_line("it went wrong\n\n") == "it went wrong"
    assert artifacts.last_line("") == "it said nothing"


@pytest.mark.parametrize("peer", artifacts.PEER_TOOLS, ids=lambda peer: peer.name)
def test_a_peer_has_scripts_and_pinned_versions(peer):
    for architecture in ("convolutional", "transformer", "recurrent"):
        for runtime in artifacts.RUNNERS:
            ast.parse(peer.script(architecture, runtime).read_text())
    lines = environments.requirements(peer.environment).read_text().split()
    assert lines
    assert all(len(Requirement(line).specifier) == 1 and "==" in line for line in lines)


def test_an_artifact_is_read_as_it_was_kept(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"12345")
    made = artifacts.Artifact("nncf", str(tmp_path), ("model.onnx",), cpu_seconds=1.5, options={"threads": 2})
    artifacts.keep(tmp_path / "artifact.json", made)
    assert artifacts.read_artifact(tmp_path / "artifact.json") == made
    assert made.size_bytes == 5


def test_the_time_and_words_of_a_command_are_kept(tmp_path):
    busy = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"
    code, said, seconds = artifacts.timed(["sh", "-c", f"{busy}; echo out; echo err >&2; exit 3"], tmp_path)
    assert (code, said) == (3, "out\nerr\n")
    assert seconds > 0
