"""Which runtime of a profile a target serves, and the newest ONNX that the oldest version in its range reads."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from calibration.errors import InputError, UnsupportedError
from targets.device.versions import in_range, installed_version
from targets.profile import DeviceProfile, Runtime

# Minor release of ONNX Runtime 1.x -> (newest opset, newest IR version) that it loads, found by loading models made for
# each; between two rows the older one holds. See also onnxruntime.ai/docs/reference/compatibility.html.
ONNXRUNTIME_READS = {
    15: (19, 8),
    16: (19, 9),
    17: (20, 9),
    18: (21, 10),
    21: (22, 10),
    23: (23, 11),
    24: (25, 13),
    25: (26, 13),
}
NEWEST_KNOWN_MINOR = 99
PATCHES = 10


def runtime_of(profile: DeviceProfile, target: str) -> Runtime:
    """The profile's runtime for a target; one that is named as `path/my_target.py:Class` is my-target.

    Raises UnsupportedError where the device has none, naming those it has.
    """
    for runtime in profile.runtimes:
        name = Path(runtime.target.rpartition(":")[0]).stem or runtime.target
        if name.replace("_", "-") == target:
            return runtime
    has = ", ".join(r.target for r in profile.runtimes) or "none"
    raise UnsupportedError(
        f"{profile.name} has no runtime {target!r}; its profile names {has}",
        f"choose one of those, or add {target} with its version range to the profile's runtimes",
    )


def contains(runtime: Runtime, version: str) -> bool:
    """Whether a version is in the runtime's range. Raises InputError where the range is none."""
    try:
        return in_range(version, runtime.version)
    except ValueError as error:
        raise InputError(
            f"runtime {runtime.target}: {runtime.version!r} is not a range of versions", 'write it as ">=1.20,<2"'
        ) from error


@cache
def onnxruntime_reads(runtime: Runtime) -> tuple[int, int]:
    """(opset, IR version) that every ONNX Runtime of the range reads.

    Raises UnsupportedError where the range admits no version from 1.15 up.
    """
    for minor in range(min(ONNXRUNTIME_READS), NEWEST_KNOWN_MINOR):
        if any(contains(runtime, f"1.{minor}.{patch}") for patch in range(PATCHES)):
            return ONNXRUNTIME_READS[max(known for known in ONNXRUNTIME_READS if known <= minor)]
    raise UnsupportedError(
        f"runtime {runtime.target}: {runtime.version!r} admits no version of ONNX Runtime from 1.15 up",
        "widen the range in the profile",
    )


def not_here(runtime: Runtime, distribution: str) -> str:
    """Why the runtime of this machine is not one of the profile's; empty where it is."""
    version = installed_version(distribution)
    if version is None:
        return f"{distribution} is not installed here"
    if not contains(runtime, version):
        return f"{distribution} {version} is here, the device has {runtime.version}"
    return ""


def fingerprint(distributions: Iterable[str]) -> dict[str, str]:
    """Distribution -> installed version, from package metadata. Raises UnsupportedError naming one that is missing."""
    found: dict[str, str] = {}
    for name in distributions:
        version = installed_version(name)
        if version is None:
            raise UnsupportedError(f"{name} is not installed", f"pip install {name}")
        found[name] = version
    return found
