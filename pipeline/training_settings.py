"""How to train: the keys that all stages share that do, and the values that make sense."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from calibration.errors import InputError

# Of whole numbers: no training is longer, and every library's seed takes it.
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class TrainingSettings:
    """temperature: softens the teacher's answers. label_weight: the labels' share of the loss, from 0 to 1.

    learning_rate, weight_decay: None takes the optimizer's default (pipeline/optimizers.py). warmup_share: of all
    steps. patience: epochs without a better validation score before it stops; the best epoch's weights are kept in any
    case.
    precision: "auto" computes in bfloat16 where the CPU has instructions for it, else in float32.
    Raises InputError naming the first field whose value makes no sense.
    """

    epochs: int = 3
    temperature: float = 4.0
    label_weight: float = 0.1
    optimizer: Literal["adamw", "sgd", "lamb"] = "adamw"
    learning_rate: float | None = None
    weight_decay: float | None = None
    batch_size: int = 128
    warmup_share: float = 0.1
    clip_norm: float = 1.0
    patience: int | None = None
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    least_epochs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        least = {"epochs": self.least_epochs, "batch_size": 1, "patience": 1, "seed": 0, "weight_decay": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise InputError(f"{name}: {value} is less than {lowest}", "correct the stage's settings")
            if value is not None and value > LARGEST:
                raise InputError(f"{name}: {value} is more than {LARGEST}", "correct the stage's settings")
        for name in ("temperature", "learning_rate", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name}: {value} is not above 0", "correct the stage's settings")
        for name in ("label_weight", "warmup_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InputError(f"{name}: {value} is not between 0 and 1", "correct the stage's settings")
