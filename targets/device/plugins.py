"""The files of a package, by name: also where the package is inside device.pyz."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def names(path: Iterable[str]) -> list[str]:
    """Module names of the package with this `__path__`, sorted. Imports nothing."""
    return sorted(module.name for module in pkgutil.iter_modules(path))
