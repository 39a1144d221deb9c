"""The processors that QEMU emulates, by what they have for a neural network."""

from collections.abc import Iterable

from calibration.errors import UnsupportedError
from targets.device.probe import RELEVANT

# Architecture -> QEMU's name -> the relevant flags that Linux shows on such a processor; the oldest first. QEMU's own
# translation has no AVX-512, whatever processor it is asked for.
ARMV8_2 = ("asimd", "asimdhp", "asimddp")
PROCESSORS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "Nehalem": ("sse4_2",),
        "SandyBridge": ("sse4_2", "avx"),
        "Haswell": ("sse4_2", "avx", "f16c", "fma", "avx2"),
    },
    "aarch64": {
        "cortex-a53": ("asimd",),
        "cortex-a76": ARMV8_2,
        "neoverse-v1": (*ARMV8_2, "sve", "i8mm", "bf16"),
        "cortex-a710": (*ARMV8_2, "sve", "i8mm", "bf16", "sve2"),
    },
}


def matching(architecture: str, isa: Iterable[str]) -> str:
    """The oldest processor that has all those of the flags that decide which kernels a neural network gets.

    So a runtime is given no newer instructions than the device has. Raises UnsupportedError where QEMU emulates none.
    """
    needed = set(isa) & set(RELEVANT)
    for cpu, flags in PROCESSORS[architecture].items():
        if needed <= set(flags):
            return cpu
    newest, flags = list(PROCESSORS[architecture].items())[-1]
    raise UnsupportedError(
        f"qemu: it emulates no {architecture} processor with {', '.join(sorted(needed - set(flags)))}",
        f"validate on the device; --on qemu:{newest} shows what a processor without them answers",
    )
