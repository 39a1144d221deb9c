"""How to train, as stages state it: the fields they share and the values that make sense."""

from dataclasses import dataclass, fields
from typing import Any

from calibration.errors import InputError

# Of whole numbers: no training is longer, and every library's seed takes it.
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; the fields of the stages that do.

    learning_rate, weight_decay: None takes the optimizer's default (pipeline/optimizers.py).
    patience: epochs without a better validation score before it stops; None trains all epochs.
    precision: "auto" computes in bfloat16 where the CPU has instructions for it, else in float32.
    """

    epochs: int
    temperature: float
    label_weight: float
    optimizer: str
    learning_rate: float | None
    weight_decay: float | None
    batch_size: int
    warmup_share: float
    clip_norm: float
    patience: int | None
    seed: int
    precision: str


def settings_of(stage: Any) -> TrainingSettings:
    """The training settings among a stage's fields."""
    return TrainingSettings(**{f.name: getattr(stage, f.name) for f in fields(TrainingSettings)})


def check(stage: Any, least_epochs: int = 1) -> None:
    """Raises InputError naming the first field whose value makes no sense."""
    above_zero = ("temperature", "learning_rate", "clip_norm")
    for name, least in (("epochs", least_epochs), ("batch_size", 1), ("patience", 1), ("seed", 0), ("weight_decay", 0)):
        value = getattr(stage, name)
        if value is not None and value < least:
            raise InputError(f"{name}: {value} is less than {least}", "correct the stage's settings")
        if value is not None and value > LARGEST:
            raise InputError(f"{name}: {value} is more than {LARGEST}", "correct the stage's settings")
    for name in above_zero:
        value = getattr(stage, name)
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"{name}: {value} is not above 0", "correct the stage's settings")
    for name in ("label_weight", "warmup_share"):
        if not 0 <= getattr(stage, name) <= 1:
            raise InputError(f"{name}: {getattr(stage, name)} is not between 0 and 1", "correct the stage's settings")
