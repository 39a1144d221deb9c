"""The teacher's answers to every training and validation sample, computed once for all trainings that follow."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from calibration.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from pipeline.samples import Samples
    from pipeline.stage import Work
    from pipeline.task import Task


@dataclass(frozen=True)
class Predict:
    """views: variants of each training sample (`task.augment`), the first being the sample itself.

    precision: "auto" computes in bfloat16 where the CPU has instructions for it: the answers are a training's targets,
    and differ less from float32's than those of one teacher differ from another's. An ONNX teacher answers in its own.
    Writes train.<view>.npy and validation.npy, float32 [n, classes] logits.
    """

    views: int = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    takes: ClassVar = ("task", "data", "teacher")
    gives: ClassVar = "logits"
    distributions: ClassVar = ("torch", "transformers", "onnxruntime")
    revision: ClassVar = 1

    def __post_init__(self) -> None:
        if self.views < 1:
            raise InputError(f"views: {self.views} is less than 1", "give 1 for the samples as they are")

    def __call__(self, work: "Work", *, task: "Task", data: Path, teacher: Path) -> None:
        import numpy as np

        from pipeline.data import load_split
        from pipeline.samples import Samples

        settings = task.preprocessing(data)
        answer = _answerer(teacher, work.recipe_folder, task, self.precision)
        train, validation = (Samples(load_split(data, name), settings) for name in ("train", "validation"))
        total = len(train) * self.views + len(validation)
        done = 0
        for name, samples, view in [
            ("validation", validation, 0),
            *((f"train.{v}", train, v) for v in range(self.views)),
        ]:

            def progress(n: int, before: int = done, what: str = name) -> None:
                work.progress((before + n) / total, f"{what}: {before + n} of {total} samples")

            logits = answer(samples, view, progress)
            bad = ~np.isfinite(logits).all(axis=1)
            if bad.any():
                raise InputError(
                    f"the teacher answers {bad.sum()} samples of {name} with NaN or infinity, first {bad.argmax()}",
                    "check its weights and the task's mean and std",
                )
            np.save(work.out / f"{name}.npy", logits)
            done += len(samples)


def _answerer(
    teacher: Path, recipe_folder: Path, task: "Task", precision: str
) -> "Callable[[Samples, int, Callable[[int], None]], np.ndarray]":
    """(samples, view, progress) -> logits, by torch or, for a teacher that is ONNX, by ONNX Runtime."""
    import numpy as np
    import torch

    from pipeline.model import ModelRecord, load_model
    from pipeline.onnx_graph import run_graph, session
    from pipeline.training import computes_in_bfloat16, predict

    if "onnx" in ModelRecord.load(teacher).source:
        opened = session(teacher / "model.onnx", torch.get_num_threads())

        def by_onnx(samples: "Samples", view: int, progress: Callable[[int], None]) -> "np.ndarray":
            found: list[np.ndarray] = []
            for index, inputs in samples.batches(64):
                found.append(run_graph(opened, {k: t.numpy() for k, t in task.augment(inputs, view).items()}))
                progress(int(index[-1]) + 1)
            return np.concatenate(found).astype(np.float32)

        return by_onnx
    module = load_model(teacher, recipe_folder).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    bfloat16 = computes_in_bfloat16(precision)

    def by_torch(samples: "Samples", view: int, progress: Callable[[int], None]) -> "np.ndarray":
        return predict(module, samples, lambda inputs: task.augment(inputs, view), progress, bfloat16=bfloat16)

    return by_torch
