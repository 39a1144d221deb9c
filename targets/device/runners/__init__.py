"""What executes a model on the device. One file a runtime, named as the target that compiles for it."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from targets.device.errors import BundleError, UnsuitedError, says_out_of_memory
from targets.device.plugins import names

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

# More than any device has: a runtime would start however many it is told to.
MAX_THREADS = 1024


class Runner(Protocol):
    """A loaded model. The class is called Runner in its file and imports the runtime only when it is made.

    module, distribution: of the runtime: what Python imports, and what the package metadata is called.
    """

    module: ClassVar[str]
    distribution: ClassVar[str]

    def __init__(self, folder: Path, files: Sequence[str], options: dict[str, Any]) -> None:
        """Loads folder/files[0]; the rest is what that file refers to.

        Raises BundleError naming the file or option that is wrong, UnsuitedError where this runtime cannot take it.
        """
        ...

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Input name -> array; output name -> array. Raises BundleError where the model does not take the feeds."""
        ...

    def runtime(self) -> dict[str, str]:
        """{"name", "version"} of the runtime, and the settings it reports that decide its numbers."""
        ...


def runner_names() -> list[str]:
    """The runners this version has."""
    return names(__path__)


def runner_class(name: str) -> type[Runner]:
    """The Runner of a file, without its runtime. Raises UnsuitedError where this version has none of that name."""
    if name not in runner_names():
        raise UnsuitedError(
            f"runner: {name!r} is not known here; this version has {', '.join(runner_names())}",
            "validate the bundle on a device with that runtime and a device.pyz that knows it",
        )
    return import_module(f"{__name__}.{name}").Runner


def import_runtime(name: str) -> None:
    """Imports the runner's runtime, nothing more. Raises UnsuitedError where it is not installed or does not start.

    What a runtime would tell its maker is switched off first: whoever runs a bundle has not asked for it.
    """
    runner = runner_class(name)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # OpenVINO reads no variable: it sends where this package can be imported, and does without it where not.
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    import_library(runner.module, runner.distribution)


def import_library(module: str, distribution: str) -> None:
    """Imports a library of the device. Raises UnsuitedError where it is not installed or does not start."""
    if find_spec(module) is None:
        raise UnsuitedError(f"{distribution} is not installed", f"pip install {distribution}")
    try:
        import_module(module)
    # What a missing system library, a processor without the instructions it needs, and half an installation raise.
    except (ImportError, OSError, RuntimeError, AttributeError) as e:
        if says_out_of_memory(str(e)):
            raise MemoryError from e
        raise UnsuitedError(f"{distribution} does not start: {e}", "reinstall it for this Python") from e


def load_runner(name: str, folder: Path, files: Sequence[str], options: dict[str, Any]) -> Runner:
    """The model of folder/files, loaded by the named runner with these session options.

    Raises UnsuitedError where the runner is unknown or its runtime is missing or too old, BundleError where a file or
    an option is wrong.
    """
    import_runtime(name)
    return runner_class(name)(Path(folder), list(files), dict(options))


def check_options(options: dict[str, Any], known: dict[str, type]) -> None:
    """Raises BundleError naming the option that is unknown or of the wrong type: one left out in silence would run
    otherwise than was measured.
    """
    for key, value in options.items():
        if key not in known:
            raise BundleError(f"options.{key}: not an option of this runner", f"it takes {', '.join(sorted(known))}")
        if type(value) is not known[key]:
            raise BundleError(
                f"options.{key}: expected {known[key].__name__}, found {value!r}", "build the bundle again"
            )
    threads = options.get("threads", 1)
    if not 1 <= threads <= MAX_THREADS:
        raise BundleError(f"options.threads: expected 1 to {MAX_THREADS}, found {threads}", "build the bundle again")
