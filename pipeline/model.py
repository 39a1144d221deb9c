"""A model as a folder: what makes it, the edits to its structure, and its weights. Rebuilt by replaying, not by pickle.

model.json        ModelRecord
weights.safetensors
config/           of a Hugging Face model: config.json, so that it is rebuilt without its original folder
model.onnx        instead of the two above where the model came as ONNX
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.errors import InputError
from pipeline.edits import Edit, apply_edit
from pipeline.weights import put_weights, read_weights, write_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

SEED = 0  # Of the weights of a model that nothing was trained into yet.


@dataclass(frozen=True)
class ModelRecord:
    """model.json.

    source: {"factory": "file.py:name"}, {"hugging_face": auto class, "trust_remote_code": bool} or {"onnx": file name}.
    edits: in the order they were made.
    inputs: name -> [dtype, shape of one sample]; classes: width of the output.
    trained: False while the weights are the random ones of a fresh model.
    history: one entry per training: settings, threads, precision, accuracies.
    """

    source: Mapping[str, Any]
    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    classes: int
    parameters: int
    macs: int
    trained: bool
    edits: tuple[Edit, ...] = ()
    history: tuple[Mapping[str, Any], ...] = field(default=())

    def save(self, folder: Path) -> None:
        # The order of the inputs is that of the module's arguments, so the keys stay as they are.
        (folder / "model.json").write_text(json.dumps({"schema": 1} | asdict(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> "ModelRecord":
        r = json.loads((folder / "model.json").read_text())
        return cls(
            source=r["source"],
            inputs={name: (dtype, tuple(shape)) for name, (dtype, shape) in r["inputs"].items()},
            classes=r["classes"],
            parameters=r["parameters"],
            macs=r["macs"],
            trained=r["trained"],
            edits=tuple(r["edits"]),
            history=tuple(r["history"]),
        )


def load_model(folder: Path, recipe_folder: Path) -> "nn.Module":
    """The model of an artifact, in eval mode: made fresh, edits replayed, weights put in strictly.

    Raises InputError where the model exists only as ONNX.
    """
    record = ModelRecord.load(folder)
    module = fresh_model(record.source, folder / "config", recipe_folder)
    for edit in record.edits:
        apply_edit(module, edit)
    path = folder / "weights.safetensors"
    put_weights(module, read_weights(path), str(path))
    return module.eval()


def save_model(module: "nn.Module", record: ModelRecord, folder: Path, config: Path | None) -> ModelRecord:
    """Writes a model artifact; parameters and MACs are counted anew. `config`: the folder config/ is copied from."""
    record = replace(
        record,
        parameters=count_parameters(module),
        macs=count_macs(module, example_inputs(record)),
    )
    folder.mkdir(exist_ok=True)
    if "hugging_face" in record.source and config is not None:
        copy_config(config, folder / "config")
    write_weights(module, folder / "weights.safetensors")
    record.save(folder)
    return record


def copy_config(source: Path, target: Path) -> None:
    """The configuration of a Hugging Face folder, with the Python files that `trust_remote_code` would run."""
    target.mkdir()
    for file in [source / "config.json", *sorted(source.glob("*.py"))]:
        shutil.copyfile(file, target / file.name)


def fresh_model(source: Mapping[str, Any], config: Path, recipe_folder: Path) -> "nn.Module":
    """The architecture with its initial weights, the same ones each time.

    Raises InputError where the factory or the configuration cannot give a model, or where there is only a .onnx file.
    """
    import torch

    if "onnx" in source:
        raise InputError(
            f"{source['onnx']}: the model exists only as ONNX, so it cannot be trained, distilled into or pruned",
            "give it as a factory with weights or as a Hugging Face folder, or leave these stages out",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        if "factory" in source:
            return _from_factory(source["factory"], recipe_folder)
        return _from_config(source, config)


def _from_factory(spec: str, recipe_folder: Path) -> "nn.Module":
    from torch import nn

    from targets.user_code import call

    module = call(spec, recipe_folder)
    if not isinstance(module, nn.Module):
        raise InputError(f"{spec} gave a {type(module).__name__}, not a torch.nn.Module", "return the model from it")
    return module


def _from_config(source: Mapping[str, Any], config: Path) -> "nn.Module":
    import transformers

    trust = bool(source.get("trust_remote_code"))
    loaded = transformers.AutoConfig.from_pretrained(config, local_files_only=True, trust_remote_code=trust)
    auto_class = getattr(transformers, source["hugging_face"])
    return auto_class.from_config(loaded, trust_remote_code=trust)


def run_model(module: "nn.Module", inputs: "Mapping[str, torch.Tensor]") -> "torch.Tensor":
    """Logits [N, classes]. Hugging Face models take their inputs by name, others in the order of the mapping."""
    if is_hugging_face(module):
        return module(**inputs).logits
    output = module(*inputs.values())
    return output.logits if hasattr(output, "logits") else output


def is_hugging_face(module: "nn.Module") -> bool:
    """Whether the module is a transformers model, without importing transformers."""
    return any(c.__name__ == "PreTrainedModel" for c in type(module).__mro__)


def count_parameters(module: "nn.Module") -> int:
    """Of all parameters, tied ones once."""
    return sum(p.numel() for p in module.parameters())


def count_macs(module: "nn.Module", inputs: "Mapping[str, torch.Tensor]") -> int:
    """Multiply-accumulates of convolutions and matrix products for one sample; `inputs` hold one."""
    return sum(macs_by_module(module, inputs).get("", {}).values())


def macs_by_module(module: "nn.Module", inputs: "Mapping[str, torch.Tensor]") -> dict[str, dict[str, int]]:
    """Module name -> operator -> multiply-accumulates in it and below; "" is the whole model."""
    import torch
    from torch import nn
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter, recurrent = FlopCounterMode(display=False), dict[str, int]()
    hooks = [
        layer.register_forward_hook(partial(_count_steps, recurrent, name))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.RNNBase)
    ]
    # The fused attention kernels of the CPU are not counted; the plain one is made of matrix products.
    # The counter follows gradients of whatever wants some, and views of parameters made without them have none.
    frozen = [p.requires_grad_(False) for p in module.parameters() if p.requires_grad]
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            run_model(module.eval(), inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)
    counts = counter.get_flop_counts()
    total = {str(op): flops // 2 for op, flops in counts["Global"].items()}
    prefix = type(module).__name__
    found = {
        name.removeprefix(prefix).removeprefix("."): {str(op): flops // 2 for op, flops in by_op.items()}
        for name, by_op in counts.items()
        if name.startswith(prefix)
    } | {"": total}
    for name, macs in recurrent.items():
        if found.get(name):
            continue  # made of products that the counter has seen
        parts = name.split(".")
        for outer in ("", *(".".join(parts[:end]) for end in range(1, 1 + len(parts)))):
            there = found.setdefault(outer, {})
            there["recurrent"] = there.get("recurrent", 0) + macs
    return found


def _count_steps(found: dict[str, int], name: str, layer: "nn.Module", given: Any, _: Any) -> None:
    """Multiply-accumulates of a recurrent layer: at each step all its weights, of every direction and depth."""
    steps = given[0].data.numel() // given[0].data.shape[-1]
    weights = sum(p.numel() for part, p in layer.named_parameters() if part.startswith("weight"))
    found[name] = found.get(name, 0) + steps * weights


def example_inputs(record: ModelRecord, samples: int = 1) -> "dict[str, torch.Tensor]":
    """Inputs of the right shapes and dtypes: ones for integers (a valid token, nothing masked), noise for floats."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    return {
        name: torch.randn((samples, *shape), generator=generator)
        if dtype.startswith("float")
        else torch.ones((samples, *shape), dtype=getattr(torch, dtype))
        for name, (dtype, shape) in record.inputs.items()
    }
