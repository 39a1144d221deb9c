"""Weights on disk: safetensors, checked tensor by tensor before a model takes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from calibration.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


def read_weights(path: Path, *, allow_pickle: bool = False) -> "dict[str, torch.Tensor]":
    """Tensor name -> tensor of a weights file.

    Raises InputError where the file is missing, damaged, a pickle that was not allowed, or holds NaN or infinity.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weights file", "check the path; it is relative to the recipe")
    tensors = _read_pickle(path, allow_pickle) if path.suffix in PICKLES else _read_safetensors(path)
    refuse_non_finite(tensors, str(path))
    return tensors


def refuse_non_finite(tensors: "Mapping[str, torch.Tensor]", where: str) -> None:
    """Raises InputError naming each tensor (the first few) with NaN or infinity in it."""
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    if bad:
        raise InputError(
            f"{where}: NaN or infinity in {_some(bad)}", "export the weights again from a training run that converged"
        )


def put_weights(module: "nn.Module", tensors: "Mapping[str, torch.Tensor]", where: str) -> None:
    """Copies tensors into a module that has exactly these names and shapes.

    Raises InputError naming what is missing, what is not the model's, and what has another shape or kind of number.
    """
    wanted = module.state_dict()
    tensors = _with_tied(tensors, wanted)
    problems: list[str] = []
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    misshaped = [
        f"{name} (file {list(tensors[name].shape)}, model {list(t.shape)})"
        for name, t in wanted.items()
        if name in tensors and tensors[name].shape != t.shape
    ]
    # Floats of another width are converted; integers for floats are the parts of a quantized model, scales left out.
    mistyped = [
        f"{name} (file {_dtype(tensors[name])}, model {_dtype(t)})"
        for name, t in wanted.items()
        if name in tensors and tensors[name].is_floating_point() != t.is_floating_point()
    ]
    for names, what in (
        (missing, "missing"),
        (unexpected, "not the model's"),
        (misshaped, "of another shape"),
        (mistyped, "of another type"),
    ):
        if names:
            problems.append(f"{len(names)} {what}: {_some(names)}")
    if problems:
        raise InputError(
            f"{where} does not fit the model: {'; '.join(problems)}",
            "give the weights of this very architecture, or the architecture of these weights",
        )
    module.load_state_dict(tensors, strict=True)


def _with_tied(
    tensors: "Mapping[str, torch.Tensor]", wanted: "Mapping[str, torch.Tensor]"
) -> "dict[str, torch.Tensor]":
    """With each tensor that is the same as another in the model; safetensors.torch.save_model writes one of them."""
    held = {(t.data_ptr(), t.shape, t.stride()): tensors[name] for name, t in wanted.items() if name in tensors}
    tied = {name: held.get((t.data_ptr(), t.shape, t.stride())) for name, t in wanted.items() if t.data_ptr()}
    return {name: t for name, t in tied.items() if t is not None} | dict(tensors)


def write_weights(module: "nn.Module", path: Path) -> None:
    """Every parameter and buffer of a module's state, as safetensors. Tied tensors are written under each name."""
    from safetensors.torch import save_file

    save_file({name: t.detach().clone().contiguous() for name, t in module.state_dict().items()}, path)


def _read_safetensors(path: Path) -> "dict[str, torch.Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as e:
        raise InputError(
            f"{path} is not a whole safetensors file: {e}", "save it again with safetensors.torch.save_file"
        ) from e


def _read_pickle(path: Path, allowed: bool) -> "dict[str, torch.Tensor]":
    import torch

    if not allowed:
        raise InputError(
            f"{path} is a pickle, which can run code when it is read",
            "save it as safetensors, or set allow_pickle: true beside `weights` (it is then read with weights_only)",
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError) as e:
        # What is no pickle at all is read as one, byte by byte, until something does not fit.
        why = next(iter(str(e).splitlines()), "") or "it ends too early"
        raise InputError(f"{path} holds more than tensors, or is damaged: {why}", "save a state_dict of tensors") from e
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(t, torch.Tensor) for t in content.values()):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dict of tensors", "save model.state_dict()")
    return content


def _dtype(tensor: "torch.Tensor") -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
