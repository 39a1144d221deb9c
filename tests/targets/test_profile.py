"""Profiles: what is read is what stands there, and every mistake is told with its place."""

from pathlib import Path

import pytest

from calibration.errors import InputError
from targets.profile import HOST, Runtime, load_profile, profile_names, profile_yaml, read_profile

GOOD = """\
name: board
description: A board
architecture: aarch64
isa: [asimd, asimddp]
cores: 4
memory_mb: 1000
storage_mb: 8000
runtimes:
  - {target: "mine.py:Mine", version: ">=1.20,<2"}
precisions: [int8, fp32]
compute_capability: "8.7"
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "mine.py").write_text("class Mine: ...\n")

    def _write(text: str) -> Path:
        path = tmp_path / "board.yaml"
        path.write_text(text)
        return path

    return _write


def test_a_profile_by_path(write):
    path = write(GOOD)
    profile = load_profile("board.yaml", path.parent)
    assert profile.name == "board"
    assert profile.isa == ("asimd", "asimddp")
    assert profile.compute_capability == "8.7"
    assert profile.runtimes == (Runtime(f"{path.parent.resolve()}/mine.py:Mine", ">=1.20,<2"),)


def test_written_and_read_again_it_is_the_same(write):
    profile = read_profile(write(GOOD))
    assert read_profile(write(profile_yaml(profile))) == profile


@pytest.mark.parametrize(
    ("was", "now", "place", "words"),
    [
        ("cores: 4", "core: 4", "5:1", "did you mean 'cores'"),
        ("cores: 4", "cores: four", "5:8", 'cores must be a valid integer, not "four"'),
        ("cores: 4", "cores: 0", "5:8", "at least 1"),
        ("cores: 4", "cores: true", "5:8", "cores must be a valid integer"),
        ("aarch64", "arm64", "3:15", "did you mean 'aarch64'"),
        ("[int8, fp32]", "[int8, fp33]", "10:20", "did you mean 'fp32'"),
        ("[int8, fp32]", "[]", "10:13", "at least one"),
        ('">=1.20,<2"', '"1.20 or so"', "9:39", "PEP 440"),
        ('"8.7"', "8.7", "11:21", "put it in quotes"),
        ('"8.7"', '"87"', "11:21", "'8.9'"),
        ('"mine.py:Mine"', "onnxruntime-cpy", "9:14", "there is no target 'onnxruntime-cpy'"),
        ('"mine.py:Mine"', "other.py:Mine", "9:14", "there is no target"),
        ("version:", "versions:", "9:30", "unknown key 'versions'"),
        ("name: board", "name: a/b", "1:7", "letters, digits"),
        ("storage_mb: 8000\n", "", "1:1", "the key 'storage_mb' is missing"),
    ],
)
def test_a_mistake_is_told_with_its_place(write, was, now, place, words):
    assert was in GOOD
    path = write(GOOD.replace(was, now))
    with pytest.raises(InputError) as error:
        read_profile(path)
    assert f"{path}:{place}: " in error.value.message
    assert words in error.value.message


def test_an_unknown_device_is_told_with_the_near_one():
    with pytest.raises(InputError, match="did you mean 'raspberry-pi-5'") as error:
        load_profile("rasbery-pi-5")
    assert error.value.exit_code == 2


def test_names_are_the_files_and_the_host():
    assert profile_names()[0] == HOST
    assert {"intel-nuc", "raspberry-pi-5", "rtx-4060", "jetson-orin-nano"} <= set(profile_names())


def test_the_host_is_probed():
    profile = load_profile(HOST)
    assert profile.name == HOST
    assert profile.cores >= 1
    assert all("_" not in runtime.target for runtime in profile.runtimes)
