"""Loads, cleans, splits and encodes the data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pipeline.recipe import DataSource
    from pipeline.stage import Work
    from pipeline.task import Task


@dataclass(frozen=True)
class Prepare:
    """Its settings are those of the recipe's `data` and `task`."""

    takes: ClassVar[tuple[str, ...]] = ("task", "source", "tokenizer")
    gives: ClassVar[str] = "data"
    distributions: ClassVar[tuple[str, ...]] = ("numpy",)
    revision: ClassVar[int] = 1

    def __call__(self, work: "Work", *, task: "Task", source: "DataSource", tokenizer: str | None) -> None:
        """Writes <split>/<column>.npy, tokenizer/ and summary.json. Raises InputError where the data is wrong."""
        from pipeline.preparation import prepare

        prepare(work, task, source, work.recipe_folder / tokenizer if tokenizer else None)
