"""Structure edits: what was done to an architecture, replayable on a fresh model.

An edit is a JSON object with a "kind". The weights are not in it: they come from the safetensors file afterwards.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from calibration.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from torch import nn

Edit = Mapping[str, Any]
# Module name -> its integer attributes (and tuples of them), and the shapes of its own tensors.
Structure = dict[str, dict[str, dict[str, Any]]]


def structure(module: "nn.Module") -> Structure:
    """The widths of every module, as its attributes and its tensors state them."""
    found: Structure = {}
    for name, part in module.named_modules():
        own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        found[name] = {
            "attributes": {key: value for key, value in vars(part).items() if _is_width(value)},
            "tensors": {key: list(tensor.shape) for key, tensor in own},
        }
    return found


def channels_edit(before: Structure, after: Structure) -> dict[str, Any]:
    """The edit that turns the one structure into the other: {"kind": "channels", "modules": {name: what changed}}."""
    modules: Structure = {}
    for name, new in after.items():
        changed = {
            part: {key: value for key, value in new[part].items() if before[name][part].get(key) != value}
            for part in ("attributes", "tensors")
        }
        if any(changed.values()):
            modules[name] = changed
    return {"kind": "channels", "modules": modules}


def layers_edit(module: "nn.Module", layers: Sequence[int]) -> dict[str, Any]:
    """The edit that keeps only these of a model's repeated layers: {"kind": "keep_layers", "stack": name, ...}.

    Raises InputError where the model has no stack of equal layers, or not so many.
    """
    name, count = _largest_stack(module)
    wrong = [i for i in layers if not 0 <= i < count]
    if wrong or not layers or sorted(set(layers)) != list(layers):
        raise InputError(
            f"keep_layers: {list(layers)} does not fit the model, whose {name} has {count} layers",
            f"list layers from 0 to {count - 1}, in rising order, each once",
        )
    return {"kind": "keep_layers", "stack": name, "layers": list(layers)}


def apply_edit(module: "nn.Module", edit: Edit) -> None:
    """Replays an edit in place. New tensors hold zeros until weights are put in.

    Raises IntegrityError for an edit this version does not know.
    """
    if edit["kind"] == "keep_layers":
        _keep_layers(module, edit["stack"], edit["layers"])
    elif edit["kind"] == "channels":
        for name, changed in edit["modules"].items():
            _set_widths(module.get_submodule(name), changed)
    else:
        raise IntegrityError(f"model.json: unknown edit {edit['kind']!r}", "build it again with this version")


def _keep_layers(module: "nn.Module", stack: str, layers: Sequence[int]) -> None:
    from torch import nn

    parent_name, _, attribute = stack.rpartition(".")
    parent = module.get_submodule(parent_name)
    old = parent.get_submodule(attribute)
    every = list(old.children())
    count, kept = len(every), [every[i] for i in layers]
    setattr(parent, attribute, nn.ModuleList(kept) if isinstance(old, nn.ModuleList) else nn.Sequential(*kept))
    config = getattr(module, "config", None)
    for key in ("num_hidden_layers", "n_layers", "num_layers", "n_layer"):
        if getattr(config, key, None) == count:
            setattr(config, key, len(layers))


def _set_widths(part: "nn.Module", changed: Mapping[str, Mapping[str, Any]]) -> None:
    import torch
    from torch import nn

    for key, value in changed["attributes"].items():
        setattr(part, key, tuple(value) if isinstance(value, list) else value)
    for key, shape in changed["tensors"].items():
        old = getattr(part, key)
        fresh = torch.zeros(shape, dtype=old.dtype)
        setattr(part, key, nn.Parameter(fresh, old.requires_grad) if isinstance(old, nn.Parameter) else fresh)


def _largest_stack(module: "nn.Module") -> tuple[str, int]:
    """Name and length of the longest list of layers of one class and equal tensor shapes."""
    from torch import nn

    best = ("", 0)
    for name, part in module.named_modules():
        if isinstance(part, nn.ModuleList | nn.Sequential) and len(part) > max(1, best[1]):
            shapes = [(type(layer), [(k, t.shape) for k, t in layer.state_dict().items()]) for layer in part]
            if shapes[0][1] and all(s == shapes[0] for s in shapes):
                best = (name, len(part))
    if not best[1]:
        raise InputError(
            "keep_layers: the teacher has no list of equal layers to keep some of",
            "give the student a factory of its own: student: {factory: file.py:function}",
        )
    return best


def _is_width(value: object) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(_is_width(v) for v in value)
    return isinstance(value, int) and not isinstance(value, bool)
