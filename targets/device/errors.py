"""What can be wrong with a call, a bundle or a device. `__main__.py` exits with the code; no traceback is shown."""

from __future__ import annotations

from typing import ClassVar


class DeviceError(Exception):
    """What is wrong (naming the file, key or tensor) and what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step


class CallError(DeviceError):
    """The call is wrong: no such bundle, arrays that do not fit the settings."""

    exit_code = 2


class BundleError(DeviceError):
    """The bundle is not what it claims."""

    exit_code = 4


class UnsuitedError(DeviceError):
    """This device, instruction set, system or runtime is not one that can run the bundle."""

    exit_code = 5


KINDS = (DeviceError, CallError, BundleError, UnsuitedError)
BY_EXIT_CODE: dict[int, type[DeviceError]] = {kind.exit_code: kind for kind in KINDS}
# What a process says that ends for want of memory: Python, C++ and what they pass on as text, OpenBLAS, the loader.
OUT_OF_MEMORY = (
    "MemoryError",
    "bad_alloc",
    "ailed to allocate memory",
    "Memory allocation still failed",
    "annot allocate memory",
    "failed to map segment",
)


def says_out_of_memory(text: str) -> bool:
    """Does an error, or what a process left on stderr, say that there was no memory?"""
    return any(words in text for words in OUT_OF_MEMORY)
