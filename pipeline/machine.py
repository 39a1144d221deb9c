"""The build machine as a shared thing: who may measure on it, and how much memory a stage took."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path


@contextmanager
def working(waiting: Callable[[], None]) -> Generator[Callable[[], AbstractContextManager[None]]]:
    """Held while a stage works; yields `measuring`, within which no other build's stage works on this machine.

    Working builds share one lock and a measuring one has it alone. Turning a shared flock into an exclusive one lets
    go of the first before it waits for the second, so two builds that both want to measure cannot deadlock.
    waiting: called before a measurement that has to wait for another build's stage.
    """
    path = Path(tempfile.gettempdir()) / f"edgewright-{os.getuid()}.lock"
    with path.open("w") as f:

        @contextmanager
        def measuring() -> Generator[None]:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(f, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(f, fcntl.LOCK_SH)

        fcntl.flock(f, fcntl.LOCK_SH)
        yield measuring


def reset_peak_memory() -> None:
    """Starts this process's peak of resident memory anew (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """The peak of this process's resident memory since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
