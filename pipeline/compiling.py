"""Makes of a package what runs on the device, and sees that this machine's runtime loads it, if it has that runtime."""

from pathlib import Path
from typing import TYPE_CHECKING

from calibration.errors import UnsupportedError
from targets.device.errors import BundleError, DeviceError
from targets.device.fresh import load_ms

if TYPE_CHECKING:
    from pipeline.recipe import Device
    from targets.target import CompiledModel, ModelPackage, Target


def compiled(package: "ModelPackage", target: "Target", device: "Device", out: Path) -> "CompiledModel":
    """The artifact in `out`, loaded in a process of its own: a runtime that dies on it must not take the build with it.

    Raises UnsupportedError where the target cannot take the model, or the runtime does not load what came of it.
    """
    made = target.compile(package, device.profile, device.threads, out)
    if target.capabilities(device.profile).answers_here:
        try:
            load_ms(made.runner, made.folder, made.files, made.options)
        except DeviceError as error:
            raise refused_by_runtime(error) from error
    return made


def refused_by_runtime(error: DeviceError) -> UnsupportedError:
    """What this machine's runtime said of an artifact, as a reason not to ship it."""
    # On a device a bundle that does not load is broken, and is to be built again; here it is just being built.
    return UnsupportedError(error.message, "" if isinstance(error, BundleError) else error.next_step)
