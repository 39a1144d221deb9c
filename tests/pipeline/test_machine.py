import fcntl
import tempfile
import threading
from pathlib import Path

import pytest

from pipeline import machine


def test_a_measurement_waits_for_another_builds_stage_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    waits = threading.Event()
    with machine.working(waits.set) as measuring, measuring():
        assert not waits.is_set()
    (lock,) = tmp_path.iterdir()
    done = threading.Event()

    def measure() -> None:
        with machine.working(waits.set) as measuring, measuring():
            done.set()

    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        thread = threading.Thread(target=measure)
        thread.start()
        assert waits.wait(20)
        assert not done.is_set()
    thread.join(20)
    assert done.is_set()
