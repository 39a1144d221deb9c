"""Switches off what libraries would send home. Called before any of them is imported."""

import os
import sys

OFF = {
    "NNCF_CI": "1",
    # Since 1.31 it gathers events of every session, and sends them, on Linux too.
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "PIP_NO_INDEX": "1",
}


def switch_off(offline: bool = False) -> None:
    """Sets the variables that the libraries, and the processes started from here, read.

    offline: nothing is fetched either.
    """
    os.environ.update(OFF)
    if offline:
        os.environ.update(OFFLINE)
    # OpenVINO's tools read no variable: they send where this package can be imported, and do without it where not.
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
