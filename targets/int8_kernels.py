"""How a processor multiplies int8: what decides which quantization scheme is right and fast there."""

from collections.abc import Iterable
from typing import Literal

from targets.device.probe import architecture, isa
from targets.profile import DeviceProfile

Kernels = Literal["vnni", "saturating", "dot_product", "widening"]

VNNI = ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8")
DOT_PRODUCT = ("asimddp", "i8mm")
CLIPPED = "sums of two int8 products are clipped to 16 bits"
NOT_CLIPPED = "sums of two int8 products are not clipped to 16 bits, as they are on this machine"


def int8_kernels(architecture: str, isa: Iterable[str]) -> Kernels:
    """The kind of int8 kernel that runtimes choose by these flags of /proc/cpuinfo.

    vnni: u8 x s8 products are summed in 32 bits (x86-64).
    saturating: pairs of u8 x s8 products are summed in 16 bits and clipped (x86-64 with AVX2: vpmaddubsw): weights that
        use all 8 bits give wrong answers.
    dot_product: s8 x s8 and u8 x u8 in 32 bits (aarch64 with dot products or matrix multiplication).
    widening: exact, at about the speed of fp32 (aarch64 without them).
    """
    flags = set(isa)
    if architecture == "x86_64":
        return "vnni" if flags & set(VNNI) else "saturating"
    return "dot_product" if flags & set(DOT_PRODUCT) else "widening"


def flags_needed(profile: DeviceProfile) -> list[str]:
    """The flags without which an int8 artifact for this profile would give other answers: at most one."""
    if profile.architecture != "x86_64":
        return []
    return [flag for flag in VNNI if flag in profile.isa][:1]


def clips(profile: DeviceProfile) -> bool:
    """Whether the profile's processor clips sums of two int8 products."""
    return int8_kernels(profile.architecture, profile.isa) == "saturating"


def clips_here() -> bool:
    """The same of this machine's."""
    return int8_kernels(architecture(), isa()) == "saturating"


def imitated(profile: DeviceProfile) -> str:
    """What of the profile's int8 arithmetic this machine's processor does otherwise; empty where nothing."""
    if clips(profile) == clips_here():
        return ""
    return CLIPPED if clips(profile) else NOT_CLIPPED


def unlike_here(profile: DeviceProfile) -> str:
    """Why int8 timed on this machine says nothing of the profile's processor; empty where it does."""
    here = architecture()
    if here != profile.architecture:
        return f"this machine is {here}, the device {profile.architecture}"
    ours, theirs = int8_kernels(here, isa()), int8_kernels(profile.architecture, profile.isa)
    return "" if ours == theirs else f"this machine's int8 kernels are {ours}, the device's {theirs}"
