"""Makes of a package what runs on the device."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pipeline.recipe import Device
    from pipeline.stage import Work


@dataclass(frozen=True)
class Compile:
    """Hands the package to the device's target, which writes the artifact and compiled.json."""

    takes: ClassVar = ("package", "device")
    gives: ClassVar = "compiled"
    distributions: ClassVar = ()
    revision: ClassVar = 3

    def __call__(self, work: "Work", *, package: Path, device: "Device") -> None:
        """Raises UnsupportedError where the target cannot take the model, or its runtime does not load it."""
        from pipeline.compiling import compiled
        from targets.plugins import load
        from targets.target import ModelPackage

        target = load("targets", device.target, work.recipe_folder)()
        made = compiled(ModelPackage.load(package), target, device, work.out)
        work.progress(1.0, f"{made.precision}, {made.size_bytes / 1e6:.2f} MB, {made.status}")
