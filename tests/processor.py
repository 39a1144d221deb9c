"""What the processor that the tests run on makes of int8: with AVX2 and no VNNI it clips sums of two products."""

from typing import Literal

from targets.int8_kernels import clips_here

CLIPS = clips_here()
# Of weights with which a sound artifact is sound here.
GUARD: Literal["pairs", "none"] = "pairs" if CLIPS else "none"
