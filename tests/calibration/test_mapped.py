import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration import mapped
from calibration.dataset import CalibrationSet

# Reads a set of `rows` rows of 4 KiB as a run does, and prints the most memory it took, in KiB.
READ = """
import sys
from pathlib import Path
from calibration.dataset import CalibrationSet
found = CalibrationSet.load(Path(sys.argv[1]))
total = sum(float(feed["x"].sum()) for feed in found.feeds(16))
found.digest
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


@given(st.integers(1, 9), st.lists(st.integers(0, 39), min_size=1, max_size=12))
def test_rows_of_a_file_are_those_of_the_array(tmp_path_factory, size, index):
    array = np.arange(40 * 3, dtype=np.float32).reshape(40, 3)
    file = tmp_path_factory.mktemp("mapped") / "x.npy"
    mapped.write({"x": file}, 40, ({"x": array[i : i + size]} for i in range(0, 40, size)))
    read = mapped.load(file)
    assert np.array_equal(read, np.load(file))
    for which in (np.array(index), slice(index[0], None)):
        taken = mapped.rows(read, which)
        assert np.array_equal(taken, array[which])
        assert taken.dtype == array.dtype
    assert np.array_equal(read, array)


def test_what_may_have_been_written_to_is_never_dropped(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(4096))
    array = np.load(tmp_path / "x.npy", mmap_mode="c")
    array[7] = 5.0
    mapped.release(array)
    assert array[7] == 5.0


def test_memory_does_not_grow_with_the_samples(tmp_path):
    peak: dict[int, int] = {}
    for samples in (64, 16384):
        folder = tmp_path / str(samples)
        folder.mkdir()
        block = {"x": np.ones((64, 1024), np.float32)}
        ids = tuple(map(str, range(samples)))
        CalibrationSet({}, ids, np.zeros(samples, np.int64), 0).save(folder, [block] * (samples // 64))
        command = [sys.executable, "-c", READ, str(folder)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        peak[samples] = int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    assert peak[16384] - peak[64] < 8192, peak  # KiB; the file has 65536


@pytest.mark.parametrize("picked", [slice(2, 5), slice(None, 3), slice(-2, None), slice(7, 99)])
def test_feeds_can_be_cut_and_counted(picked):
    x = np.arange(50, dtype=np.float32)
    feeds = CalibrationSet({"x": x}, tuple(map(str, x)), np.zeros(50, np.int64), 0).feeds(6)
    whole = list(feeds)
    assert len(feeds) == len(whole) == 9
    assert [feed["x"].tolist() for feed in feeds[picked]] == [feed["x"].tolist() for feed in whole[picked]]
    assert feeds[-1]["x"].tolist() == [48.0, 49.0]
    with pytest.raises(IndexError):
        feeds[9]
    with pytest.raises(ValueError, match="in order"):
        feeds[::2]
