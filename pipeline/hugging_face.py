"""Hugging Face folders: from disk alone, complete, and in float32."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.errors import InputError
from pipeline.weights import refuse_non_finite

if TYPE_CHECKING:
    from torch import nn

    from pipeline.recipe import ModelSource
    from pipeline.task import Task

# What transformers raises from the depths of a model whose config.json has values of a wrong type or size.
MISCONFIGURED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
)


def task_name(task: "Task") -> str:
    """The task's name as Hugging Face writes it: TextClassification -> "text-classification"."""
    from optimum.exporters.tasks import TasksManager

    for kind in type(task).__mro__:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()
        if name in TasksManager.get_all_tasks():
            return name
    raise InputError(
        f"task: {type(task).__name__} is no task that Hugging Face models are made for", "give the model as a factory"
    )


def load_folder(
    folder: Path, task: "Task", source: "ModelSource", classes: int, *, may_lack_head: bool
) -> "tuple[nn.Module, dict[str, Any]]":
    """The model of a folder, and what its record says of where it comes from.

    may_lack_head: a student may be an encoder whose classification head is still random.
    Raises InputError naming the file or tensors that are missing, of another shape, or not numbers.
    """
    import safetensors
    import transformers
    from optimum.exporters.tasks import TasksManager

    quiet()
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json", "give a folder that save_pretrained wrote")
    if not list(folder.glob("*.safetensors")) and not source.allow_pickle:
        raise InputError(
            f"{folder} has no .safetensors file",
            "save it again with save_pretrained(safe_serialization=True), or set allow_pickle: true beside `folder`",
        )
    auto_class = TasksManager.get_model_class_for_task(task_name(task), framework="pt")
    trust = source.trust_remote_code
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)
        if may_lack_head and config.num_labels < classes:
            config.num_labels = classes
        module, found = auto_class.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=trust,
            use_safetensors=not source.allow_pickle or None,
            dtype="float32",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (*MISCONFIGURED, safetensors.SafetensorError) as error:
        raise InputError(
            f"{folder}: {' '.join(str(error).splitlines()[:1]) or type(error).__name__}",
            "give a folder that save_pretrained wrote",
        ) from error
    _check_complete(folder, module, found, may_lack_head)
    refuse_non_finite(module.state_dict(), str(folder))
    return module.eval(), {"hugging_face": auto_class.__name__, "trust_remote_code": trust}


def quiet() -> None:
    """Keeps transformers from writing to the terminal."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _check_complete(folder: Path, module: "nn.Module", found: dict[str, Any], may_lack_head: bool) -> None:
    # transformers gives names, or before 4.56 (name, shape, shape).
    misshaped = [m if isinstance(m, str) else m[0] for m in found["mismatched_keys"]]
    problems: list[str] = []
    for names, what in ((found["missing_keys"], "missing"), (misshaped, "of another shape")):
        needed = sorted(n for n in names if not may_lack_head or n.startswith(f"{module.base_model_prefix}."))
        if needed:
            problems.append(f"{len(needed)} {what}: {', '.join(needed[:4])}")
    if problems:
        raise InputError(
            f"{folder} does not fit {type(module).__name__}: {'; '.join(problems)}",
            "train the head and save the whole model with save_pretrained",
        )
