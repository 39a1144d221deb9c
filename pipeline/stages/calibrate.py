"""Chooses the samples that set the ranges of a quantized model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from calibration.errors import InputError

if TYPE_CHECKING:
    from pipeline.recipe import DataSource
    from pipeline.stage import Work
    from pipeline.task import Task


@dataclass(frozen=True)
class Calibrate:
    """Takes `samples` of the training split, or of data.calibration where the recipe names one, all classes alike.

    Writes calibration.npz and calibration.json (CalibrationSet), and audit.json with what the audit found worth saying.
    """

    samples: int = 256
    seed: int = 0

    takes: ClassVar = ("task", "data", "calibration_source", "tokenizer")
    gives: ClassVar = "calibration"
    distributions: ClassVar = ("numpy",)
    revision: ClassVar = 1

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
        from calibration.audit import audit
        from calibration.dataset import CalibrationSet, choose_balanced
        from pipeline.data import label_names, load_split
        from pipeline.loading import load_calibration
        from targets.device.preprocess import preprocess

        names = label_names(data)
        split = load_split(data, "train")
        if calibration_source is not None:
            folder = work.recipe_folder / tokenizer if tokenizer else None
            split = load_calibration(task, calibration_source, split, names, work.recipe_folder, folder)
        chosen = split.take(choose_balanced(split.labels, self.samples, self.seed))
        inputs = preprocess(task.preprocessing(data), chosen.columns)
        calibration = CalibrationSet(inputs, tuple(chosen.ids.astype(str)), chosen.labels, self.seed)
        notes = audit(calibration, names, load_split(data, "test").ids.astype(str).tolist())
        if len(chosen) < self.samples:
            notes.append(f"there are {len(chosen)} samples, {self.samples} were asked for")
        calibration.save(work.out)
        (work.out / "audit.json").write_text(
            json.dumps({"schema": 1, "notes": notes}, indent=1, ensure_ascii=False), "utf-8"
        )
        work.progress(1.0, "; ".join([f"{len(chosen)} samples", *notes]))
