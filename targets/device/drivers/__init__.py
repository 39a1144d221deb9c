"""How the graphs of a model are called to answer one batch. One file a driver."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from targets.device.errors import UnsuitedError
from targets.device.plugins import names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from targets.device.runners import Runner

    Drive = Callable[[Runner, Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def driver_names() -> list[str]:
    """The drivers this version has."""
    return names(__path__)


def load_driver(name: str) -> Drive:
    """`drive(runner, inputs) -> outputs` of the driver's file. Raises UnsuitedError where it is unknown."""
    if name not in driver_names():
        raise UnsuitedError(
            f"driver: {name!r} is not known here; this version has {', '.join(driver_names())}",
            "install a newer device.pyz",
        )
    return import_module(f"{__name__}.{name}").drive
