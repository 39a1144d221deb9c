"""Brings in the teacher or the student: from a factory, a Hugging Face folder, ONNX, or the teacher's own layers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from calibration.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipeline.model import ModelRecord
    from pipeline.recipe import ModelSource
    from pipeline.stage import Work
    from pipeline.task import Task


@dataclass(frozen=True)
class Load:
    """Checks that the weights fit and are numbers, and that the model answers a batch of the data with its classes."""

    takes: ClassVar = ("task", "source_model", "data", "teacher")
    gives: ClassVar = "model"
    distributions: ClassVar = ("torch", "transformers", "safetensors", "onnx")
    revision: ClassVar = 1

    def __call__(
        self, work: "Work", *, task: "Task", source_model: "ModelSource", data: Path, teacher: Path | None = None
    ) -> None:
        import numpy as np

        from pipeline.data import label_names, load_split
        from pipeline.samples import Samples

        samples = Samples(load_split(data, "train").take(np.arange(4)), task.preprocessing(data))
        batch = next(samples.batches(4))[1]
        labels = label_names(data)
        if source_model.onnx:
            _take_onnx(work, work.recipe_folder / source_model.onnx, batch, len(labels))
            return
        module, record = _make(work, task, source_model, teacher, len(labels))
        classes = _answer(module, batch, _name(source_model), work.recipe_folder)
        _check_classes(classes, labels, _name(source_model))
        _save(work, module, replace(record, inputs=_shapes(batch), classes=classes))


def _make(
    work: "Work", task: "Task", source: "ModelSource", teacher: Path | None, classes: int
) -> "tuple[nn.Module, ModelRecord]":
    """The module with its weights, and its record as far as it is known before it has run."""
    from pipeline.edits import apply_edit, layers_edit
    from pipeline.hugging_face import load_folder
    from pipeline.model import ModelRecord, copy_config, fresh_model, load_model
    from pipeline.weights import put_weights, read_weights

    if source.factory:
        made_by = {"factory": source.factory}
        module = fresh_model(made_by, work.out, work.recipe_folder)
        if source.weights:
            path = work.recipe_folder / source.weights
            put_weights(module, read_weights(path, allow_pickle=source.allow_pickle), str(path))
        elif teacher is None:
            raise InputError(
                "teacher: its factory gives random weights", "add `weights: FILE.safetensors` beside the factory"
            )
        return module, ModelRecord(made_by, {}, 0, 0, 0, trained=bool(source.weights))
    if source.folder:
        module, made_by = load_folder(
            work.recipe_folder / source.folder, task, source, classes, may_lack_head=teacher is not None
        )
        (work.out / "config").mkdir()
        _write_config(module, work.recipe_folder / source.folder, work.out / "config")
        record = ModelRecord(made_by, {}, 0, 0, 0, trained=True)
    elif teacher is not None:
        record = ModelRecord.load(teacher)
        if "onnx" in record.source:
            raise InputError(
                "student: keep_layers: the teacher exists only as ONNX",
                "give the student a factory or a folder of its own",
            )
        module = load_model(teacher, work.recipe_folder)
        if (teacher / "config").is_dir():
            copy_config(teacher / "config", work.out / "config")
    else:
        raise InputError(
            "teacher: keep_layers is the student's", "give the teacher a factory, a folder or an .onnx file"
        )
    if source.keep_layers is not None:
        edit = layers_edit(module, source.keep_layers)
        apply_edit(module, edit)
        record = replace(record, edits=(*record.edits, edit))
    return module, record


def _write_config(module: "nn.Module", folder: Path, out: Path) -> None:
    """The configuration as it was loaded (with the data's number of classes), and the code it may name."""
    import shutil

    module.config.to_json_file(out / "config.json")  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    for file in sorted(folder.glob("*.py")):
        shutil.copyfile(file, out / file.name)


def _answer(module: "nn.Module", batch: "dict[str, torch.Tensor]", name: str, folder: Path) -> int:
    """Runs the model once; the width of its output."""
    import torch

    from pipeline.model import run_model
    from targets.user_code import Running

    samples = len(next(iter(batch.values())))
    shapes = ", ".join(f"{k} {list(t.shape)}" for k, t in batch.items())
    try:
        with torch.no_grad(), Running(name, (folder / name.rpartition(":")[0]).parent):
            output: Any = run_model(module.eval(), batch)  # of a user's model, so it may be anything
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"{name} does not take {shapes}: {error}", "check the task's settings against the model"
        ) from error
    if (
        not isinstance(output, torch.Tensor)
        or output.ndim != 2
        or len(output) != samples
        or not output.is_floating_point()
    ):
        what = f"{output.dtype} {list(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
        raise InputError(
            f"{name} answers {shapes} with {what}, not with [{samples}, classes] logits", "return logits from it"
        )
    if not output.isfinite().all():
        raise InputError(
            f"{name} answers {shapes} with NaN or infinity", "check its weights and the task's mean and std"
        )
    return output.shape[1]


def _check_classes(classes: int, labels: list[str], name: str) -> None:
    if classes != len(labels):
        raise InputError(
            f"{name} gives {classes} outputs, but the data has {len(labels)} classes: {', '.join(labels[:8])}",
            "give the model as many outputs as there are classes",
        )


def _name(source: "ModelSource") -> str:
    return source.factory or source.folder or f"keep_layers: {list(source.keep_layers or ())}"


def _shapes(batch: "dict[str, torch.Tensor]") -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (str(t.dtype).removeprefix("torch."), tuple(t.shape[1:])) for name, t in batch.items()}


def _save(work: "Work", module: "nn.Module", record: "ModelRecord") -> None:
    from pipeline.model import save_model

    save_model(module, record, work.out, config=None)


def _take_onnx(work: "Work", path: Path, batch: "dict[str, Any]", classes: int) -> None:
    import numpy as np
    import onnx

    from pipeline.model import ModelRecord
    from pipeline.onnx_graph import conform, count_macs, count_parameters, read_graph, run_graph, session
    from targets.onnx_quantized import refuse_quantized

    graph = read_graph(path)
    refuse_quantized(graph, str(path))
    inputs = _shapes(batch)
    fixed = conform(graph, inputs, str(path))
    onnx.save(graph, work.out / "model.onnx")
    _survives(work, path, batch)
    samples = len(next(iter(batch.values())))
    try:
        output = run_graph(
            session(work.out / "model.onnx", where=str(path)), {name: t.numpy() for name, t in batch.items()}
        )
    except InputError as error:
        if fixed is None:
            raise
        raise InputError(
            f"{path} was exported for {fixed} sample{'s' if fixed > 1 else ''} at a time and cannot answer {samples}",
            "export it with a free batch axis: dynamic_shapes or dynamic_axes of torch.onnx.export",
        ) from error
    if output.shape != (samples, classes):
        raise InputError(
            f"{path} answers {samples} samples with {list(output.shape)}; the data has {classes} classes",
            "give a model that fits the data",
        )
    if not np.isfinite(output).all():
        raise InputError(f"{path} answers with NaN or infinity", "check its weights and the task's mean and std")
    record = ModelRecord(
        {"onnx": path.name}, inputs, output.shape[1], count_parameters(graph), count_macs(graph), trained=True
    )
    record.save(work.out)


def _survives(work: "Work", path: Path, batch: "dict[str, Any]") -> None:
    """Raises InputError where the runtime dies of the graph or never ends: that must not take the build with it."""
    import numpy as np

    from targets.device.errors import DeviceError, UnsuitedError
    from targets.device.fresh import fresh_process

    feed = work.scratch / "feed.npz"
    np.savez(feed, **{f"input.{name}": t.numpy() for name, t in batch.items()})
    try:
        fresh_process("onnxruntime_cpu", work.out, ["model.onnx"], {"threads": 1}, feed)
    except UnsuitedError as error:
        said = error.message.removeprefix(f"{(work.out / 'model.onnx').resolve()}: ")
        raise InputError(f"{path}: {said}", "export it again") from error
    except DeviceError:
        # A plain refusal is raised again by the run that follows, in words about the user's own file.
        return
