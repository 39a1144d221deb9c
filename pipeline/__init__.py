"""The build. `from pipeline import build, plan` is the public API; importing it costs nothing."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.plan import Row
    from pipeline.run import BuildResult

__all__ = ["build", "plan"]


def build(
    recipe: Path | str, devices: Sequence[str] | None = None, out: Path | str = "dist", store: Path | str | None = None
) -> "BuildResult":
    """Builds a bundle for each device of a recipe, or a report that says why there is none, in out/RECIPE/DEVICE.

    devices: names to build for, instead of all of the recipe's. store: its folder, instead of the default one.
    Runs the Python files that the recipe names. Raises EdgewrightError (calibration/errors.py).
    """
    from pipeline.telemetry import switch_off

    switch_off()
    from pipeline import run
    from pipeline.recipe import load_recipe
    from pipeline.store import Store

    read = load_recipe(Path(recipe), list(devices or []), run_user_code=True)
    return run.build(read, Store.default() if store is None else Store(Path(store)), Path(out), quiet=True)


def plan(recipe: Path | str, devices: Sequence[str] | None = None, store: Path | str | None = None) -> "list[Row]":
    """What a build would run: for each stage of each device its digest, and whether it is cached or why it must run.

    Runs no code of the recipe's. Raises EdgewrightError.
    """
    from pipeline.plan import make_plan
    from pipeline.recipe import load_recipe
    from pipeline.store import Store

    place = Store.default() if store is None else Store(Path(store))
    return make_plan(load_recipe(Path(recipe), list(devices or [])), place).rows(place)


class _Package(ModuleType):
    """Keeps `pipeline.plan` the function: importing the submodule of that name would put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name == "plan" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
