"""Does the artifact answer here as it answered where it was built?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from targets.device.arrays import read_arrays
from targets.device.drivers import load_driver
from targets.device.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

    from targets.device.manifest import Manifest
    from targets.device.runners import Runner

FILE = "golden.npz"
# What an exact answer counts as: far above what float32 arithmetic in another order leaves (about 140 dB).
EXACT_DB = 300.0


@dataclass(frozen=True)
class Golden:
    """inputs, outputs: name -> array, sample first; all of the same number of samples."""

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    def feeds(self) -> list[dict[str, np.ndarray]]:
        """Each sample as a batch of one, which is how a device answers, and how ranges of dynamic int8 are taken."""
        samples = len(next(iter(self.inputs.values())))
        return [{k: np.ascontiguousarray(v[i : i + 1]) for k, v in self.inputs.items()} for i in range(samples)]


@dataclass(frozen=True)
class Agreement:
    """sqnr_db: of the worst output. argmax_agreement: of the worst output, a share; 1 where none has classes."""

    sqnr_db: float
    argmax_agreement: float
    samples: int


def read_golden(payload: Path, manifest: Manifest) -> Golden:
    """golden.npz: arrays input.<name> and output.<name>. Raises BundleError where they do not fit the manifest."""
    arrays = read_arrays(payload / FILE)
    sides = {
        side: {name[len(side) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{side}.")}
        for side in ("input", "output")
    }
    for side, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            array = sides[side].get(spec.name)
            if array is None:
                raise BundleError(f"{FILE}: no array {side}.{spec.name}", "build the bundle again")
            fits = array.ndim == len(spec.shape) and all(
                isinstance(want, str) or want == have for want, have in zip(spec.shape[1:], array.shape[1:])
            )
            if array.dtype.name != spec.dtype or not fits:
                found = f"{array.dtype} {list(array.shape)}, not {spec.dtype} {list(spec.shape)}"
                raise BundleError(f"{FILE}: {side}.{spec.name} is {found}", "build the bundle again")
        extra = sorted(sides[side].keys() - {spec.name for spec in specs})
        if extra or not specs:
            raise BundleError(f"{FILE}: {side}s {extra} do not fit the manifest's", "build the bundle again")
    samples = {len(array) for group in sides.values() for array in group.values()}
    if samples != {manifest.golden.samples if manifest.golden else len(arrays)}:
        raise BundleError(
            f"{FILE}: holds {sorted(samples)} samples, not those of the manifest", "build the bundle again"
        )
    return Golden(sides["input"], sides["output"])


def compare_golden(golden: Golden, manifest: Manifest, runner: Runner) -> Agreement:
    """Runs every sample and compares. Raises BundleError where the model lacks an output or gives another shape."""
    drive = load_driver(manifest.driver)
    answers = [drive(runner, feed) for feed in golden.feeds()]
    decibels, shares = [], []
    for name, expected in golden.outputs.items():
        if any(name not in answer for answer in answers):
            raise BundleError(f"the model has no output {name!r}", "build the bundle again")
        found = np.concatenate([answer[name] for answer in answers])
        if found.shape != expected.shape:
            raise BundleError(
                f"output {name!r} is {list(found.shape)}, not {list(expected.shape)}", "build the bundle again"
            )
        decibels.append(sqnr_db(expected, found))
        if expected.shape[-1] > 1 and expected.ndim > 1:
            shares.append(float(np.mean(expected.argmax(-1) == found.argmax(-1))))
    return Agreement(min(decibels), min(shares, default=1.0), len(answers))


def sqnr_db(expected: np.ndarray, found: np.ndarray) -> float:
    """Signal to quantization noise ratio, 10 log10(sum x^2 / sum (x - y)^2); EXACT_DB at most, -EXACT_DB where an
    answer is not finite or there is noise without a signal.
    """
    if np.array_equal(expected, found):
        return EXACT_DB
    if not np.isfinite(found).all():
        return -EXACT_DB
    x = expected.astype(np.float64)
    signal, noise = float(np.sum(x**2)), float(np.sum((x - found.astype(np.float64)) ** 2))
    if signal == 0 or not np.isfinite(noise):
        return -EXACT_DB
    return float(np.clip(10 * np.log10(signal / noise), -EXACT_DB, EXACT_DB)) if noise > 0 else EXACT_DB
