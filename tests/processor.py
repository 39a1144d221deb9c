"""What the processor that the tests run on makes of int8: with AVX2 and no VNNI it clips sums of two products."""

from typing import Literal

from targets.device.probe import architecture, isa
from targets.int8_kernels import int8_kernels

CLIPS = int8_kernels(architecture(), isa()) == "saturating"
# Of weights with which a sound artifact is sound here.
GUARD: Literal["pairs", "none"] = "pairs" if CLIPS else "none"
