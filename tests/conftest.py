"""What every test runs under: no hub, no telemetry, and a store that is not the user's."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Read by libraries when they are imported, so set before any test is collected.
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", NO_COLOR="1", COLUMNS="200")
os.environ.update(NNCF_CI="1", ORT_DISABLE_TELEMETRY="1")

# Where scripts/get-qemu unpacks what the system does not have, or has too old.
QEMU = Path(__file__).resolve().parents[1] / ".tools/qemu"
os.environ["PATH"] = f"{QEMU}/usr/bin{os.pathsep}{os.environ['PATH']}"
os.environ.setdefault("EDGEWRIGHT_SYSROOT", f"{QEMU}/aarch64")

# A shell that starts the suite in the background has it ignore interrupts, and with it every program that it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time in CI, new ones at a developer's; no deadlines, which a busy machine would miss.
settings.register_profile("edgewright", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("edgewright")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder of the working copy."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEWRIGHT_STORE", str(tmp_path_factory.mktemp("store")))
        yield
