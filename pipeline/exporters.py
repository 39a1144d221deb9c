"""Torch module -> ONNX file, without a word on the terminal."""

import contextlib
import io
import logging
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from calibration.errors import InputError
from pipeline.onnx_graph import OPSET

if TYPE_CHECKING:
    import torch
    import transformers
    from torch import nn

    from pipeline.model import ModelRecord
    from pipeline.task import Task


def export_module(module: "nn.Module", inputs: "dict[str, torch.Tensor]", path: Path) -> None:
    """Writes a module by torch.onnx.export, through torch.export. `inputs`: two samples, in the module's order.

    Raises InputError naming what the exporter cannot take.
    """
    import torch
    from torch.onnx import errors

    batch = torch.export.Dim("batch", min=1, max=256)
    try:
        with quietly():
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=["logits"],
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            if program is not None:  # it is None only where a file was named in the call
                program.save(path)
    except errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise InputError(
            f"export: torch.onnx cannot export {type(module).__name__}: {reason}",
            "keep Python control flow that depends on tensor values, and fixed batch sizes, out of forward()",
        ) from error


def export_hugging_face(module: "nn.Module", record: "ModelRecord", task: "Task", path: Path) -> None:
    """Writes a transformers model through Optimum, its structure edits included, with the record's inputs alone.

    Raises InputError where Optimum does not know the architecture.
    """
    import importlib

    from optimum.exporters.onnx.convert import export_pytorch
    from optimum.exporters.tasks import TasksManager

    from pipeline.hugging_face import quiet, task_name

    quiet()
    importlib.import_module("optimum.exporters.onnx.model_configs")  # it registers the architectures that it knows
    kind, model = task_name(task), cast("transformers.PreTrainedModel", module)
    try:
        make = TasksManager.get_exporter_config_constructor(
            exporter="onnx", model=model, task=kind, library_name="transformers"
        )
        known = make(model.config)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"export: Optimum cannot export {type(module).__name__} for {kind}", "give the model as a factory"
        ) from error
    axes = {name: {0: "batch"} for name in record.inputs}
    ports = {"inputs": property(lambda _: axes), "outputs": property(lambda _: {"logits": {0: "batch"}})}
    narrowed: Any = type("Narrowed", (type(known),), ports)
    shapes = _dummy_shapes(record)
    with quietly():
        export_pytorch(model.eval(), narrowed(model.config, task=kind), OPSET_OF_TRACING, path, input_shapes=shapes)


# What torch's tracing exporter, which Optimum calls, writes best.
OPSET_OF_TRACING = 18


def _dummy_shapes(record: "ModelRecord") -> dict[str, int]:
    shapes = {"batch_size": 2}
    for _, shape in record.inputs.values():
        if len(shape) == 1:
            shapes["sequence_length"] = shape[0]
        elif len(shape) == 3:
            shapes |= {"num_channels": shape[0], "height": shape[1], "width": shape[2]}
    return shapes


@contextlib.contextmanager
def quietly() -> Generator[None]:
    """What the exporters print, log and warn of is for their developers: an export that failed raises."""
    names = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir", "optimum")
    before = {name: logging.getLogger(name).level for name in names}
    unheard = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(unheard), contextlib.redirect_stderr(unheard):
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)
