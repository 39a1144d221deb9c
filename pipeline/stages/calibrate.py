"""Chooses the samples that set the ranges of a quantized model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from calibration.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np

    from pipeline.data import Split
    from pipeline.recipe import DataSource
    from pipeline.stage import Work
    from pipeline.task import Task

# Of each split that the samples are held against.
COMPARED = 512
# Kept for each sample that is wanted: those which cover a model's ranges are chosen once the model is known.
POOL = 4
LARGEST_POOL = 2048
POOL_BYTES = 1 << 30


@dataclass(frozen=True)
class Calibrate:
    """Takes a pool for `samples` of the training split, or of data.calibration where the recipe names one, all classes
    alike; the quantize stage narrows it to `samples` by what the model makes of them (targets/onnx_coverage.py).

    Writes a CalibrationSet (calibration.json and an .npy file for each input), and audit.json with what the audit found
    worth saying.
    """

    samples: int = 256
    seed: int = 0

    takes: ClassVar = ("task", "data", "calibration_source", "tokenizer")
    gives: ClassVar = "calibration"
    distributions: ClassVar = ("numpy",)
    revision: ClassVar = 3

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed: {self.seed} is not from 0 to 2^63", "correct calibrate.seed")
        if self.samples < 2:
            raise InputError(
                f"calibrate.samples is {self.samples}: ranges need at least two",
                "give a few hundred; 256 is the default",
            )

    def __call__(
        self,
        work: "Work",
        *,
        task: "Task",
        data: Path,
        calibration_source: "DataSource | None",
        tokenizer: str | None,
    ) -> None:
        """Raises InputError where the samples are not fit to set ranges by (calibration/audit.py)."""
        import numpy as np

        from calibration.audit import Reference, audit
        from calibration.dataset import CalibrationSet, choose_balanced
        from pipeline.data import label_names, load_split
        from pipeline.loading import load_calibration

        names = label_names(data)
        split = load_split(data, "train")
        if calibration_source is not None:
            folder = work.recipe_folder / tokenizer if tokenizer else None
            split = load_calibration(task, calibration_source, split, names, work.recipe_folder, folder)
        settings = task.preprocessing(data)
        one = sum(array.nbytes for block in _inputs(split, np.arange(1), settings) for array in block.values())
        pool = max(self.samples, min(POOL * self.samples, LARGEST_POOL, POOL_BYTES // one))
        chosen = choose_balanced(split.labels, pool, self.seed)
        ids = tuple(sample.decode() for sample in split.ids[chosen])
        calibration = CalibrationSet({}, ids, split.labels[chosen], self.seed, settings, min(self.samples, len(chosen)))
        calibration = calibration.save(work.out, _inputs(split, chosen, settings))
        references: list[Reference] = []
        for name in ("validation", "test"):
            other = load_split(data, name)
            rows = choose_balanced(other.labels, COMPARED, self.seed)
            references.append(Reference(name, _inputs(other, rows, settings), other.labels[rows]))
        test_ids = [sample.decode() for sample in load_split(data, "test").ids]
        notes = audit(calibration, names, test_ids, references)
        if len(chosen) < self.samples:
            found = f"there are {len(chosen)} samples, {self.samples} were asked for"
            notes.append(f"{found}: what none of them reaches may be clipped")
        (work.out / "audit.json").write_text(
            json.dumps({"schema": 1, "notes": notes}, indent=1, ensure_ascii=False), "utf-8"
        )
        said = f"{calibration.wanted} samples" + (f" of {len(chosen)}" if len(chosen) > calibration.wanted else "")
        work.progress(1.0, "; ".join([said, *notes]))


def _inputs(split: "Split", index: "np.ndarray", settings: "Mapping[str, Any]") -> "Iterable[dict[str, np.ndarray]]":
    """Model inputs of the samples at these positions, in blocks: stored samples are many, and on disk."""
    from calibration import mapped
    from calibration.dataset import BLOCK
    from targets.device.preprocess import preprocess

    for start in range(0, len(index), BLOCK):
        part = index[start : start + BLOCK]
        yield preprocess(settings, {name: mapped.rows(array, part) for name, array in split.columns.items()})
