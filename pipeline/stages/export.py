"""A model as an ONNX package, proven to answer real samples as the model itself does."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from calibration.errors import InputError
from pipeline.store import RECORD

if TYPE_CHECKING:
    import numpy as np

    from pipeline.model import ModelRecord
    from pipeline.samples import Samples
    from pipeline.stage import Work
    from pipeline.task import Task

# Largest difference between ONNX Runtime and torch, as a share of the largest logit: float32 sums in another order.
TOLERANCE = 1e-3
SAMPLES = 16


@dataclass(frozen=True)
class Export:
    """torch.onnx for modules, Optimum for Hugging Face models; a model that came as ONNX is checked and passed on."""

    takes: ClassVar = ("task", "data", "model")
    gives: ClassVar = "package"
    distributions: ClassVar = ("torch", "transformers", "optimum", "optimum-onnx", "onnx", "onnxscript", "onnxruntime")
    revision: ClassVar = 6

    def __call__(self, work: "Work", *, task: "Task", data: Path, model: Path) -> None:
        import numpy as np
        import onnx

        from pipeline.data import load_split
        from pipeline.model import ModelRecord
        from pipeline.onnx_graph import architecture_of, conform, read_graph, specs
        from pipeline.onnx_shapes import BATCHES, settled
        from pipeline.samples import Samples
        from targets.target import ModelPackage

        record = ModelRecord.load(model)
        preprocessing = task.preprocessing(data)
        stored = load_split(data, "validation")
        samples = Samples(stored.take(np.arange(min(SAMPLES, len(stored)))), preprocessing)
        path = work.out / "model.onnx"
        expected = _write(work, task, model, record, samples, path)
        graph = read_graph(path)
        conform(graph, record.inputs, str(path))
        graph = settled(graph, [_first(samples, size) for size in BATCHES])
        onnx.save(graph, path)
        _compare(path, samples, expected, record)
        ModelPackage(
            folder=work.out,
            graphs={"model": path.name},
            inputs=specs(graph.graph.input),
            outputs=specs(graph.graph.output),
            dims=task.dims(),
            preprocessing=preprocessing,
            precision="fp32",
            architecture=architecture_of(graph),
            macs=record.macs,
            parameters=record.parameters,
            assets=_copy_assets(data, work.out),
            torch_description=_copy_description(model, record, work.out),
        ).save()


def _first(samples: "Samples", size: int) -> "dict[str, np.ndarray]":
    """The inputs of so many samples; of fewer that there are, again from the first."""
    import torch

    return {name: tensor.numpy() for name, tensor in samples.batch(torch.arange(size) % len(samples)).items()}


def _write(
    work: "Work", task: "Task", model: Path, record: "ModelRecord", samples: "Samples", path: Path
) -> "np.ndarray | None":
    """Writes the graph; the model's own answers to the samples, or None where it has none but the graph's."""
    import torch

    from pipeline.exporters import export_hugging_face, export_module
    from pipeline.model import is_hugging_face, load_model
    from pipeline.training import predict

    if "onnx" in record.source:
        shutil.copyfile(model / "model.onnx", path)
        return None
    module = load_model(model, work.recipe_folder)
    expected = predict(module, samples)
    # Of one sample the exporters would take the batch for a constant.
    two = samples.batch(torch.arange(2) % len(samples))
    if is_hugging_face(module):
        export_hugging_face(module, record, task, path)
    else:
        export_module(module, two, path)
    return expected


def _compare(path: Path, samples: "Samples", expected: "np.ndarray | None", record: "ModelRecord") -> None:
    """Raises InputError where the graph's answers are not the model's, or depend on the batch they come in."""
    import numpy as np

    from pipeline.onnx_graph import run_graph, session

    opened = session(path)
    together, alone = (
        np.concatenate([run_graph(opened, {k: t.numpy() for k, t in x.items()}) for _, x in samples.batches(size)])
        for size in (SAMPLES, 1)
    )
    origin = record.source.get("onnx") or record.source.get("factory") or record.source.get("hugging_face")
    for answers, what in ((alone, "one sample at a time"), (expected, "torch")):
        if answers is None:
            continue
        difference, largest = float(np.abs(together - answers).max()), float(np.abs(answers).max())
        if not difference <= TOLERANCE * max(1.0, largest):
            raise InputError(
                f"export: output logits of {origin} differs by {difference:.2g} between ONNX Runtime and {what}",
                "look for operations that depend on the batch, or on randomness, in the model's forward()",
            )


def _copy_assets(data: Path, out: Path) -> tuple[str, ...]:
    """The tokenizer's files, into the package."""
    names = sorted(f.name for f in (data / "tokenizer").glob("*")) if (data / "tokenizer").is_dir() else []
    for name in names:
        shutil.copyfile(data / "tokenizer" / name, out / name)
    return tuple(names)


def _copy_description(model: Path, record: "ModelRecord", out: Path) -> str | None:
    """The replayable model, for targets that take torch; None where it exists only as ONNX."""
    if "onnx" in record.source:
        return None
    # Without the store's record, which says how long the making took: the same model gives the same package.
    shutil.copytree(model, out / "torch", ignore=lambda folder, _: [RECORD] if Path(folder) == model else [])
    return "torch/model.json"
