"""What stages are handed besides artifacts, and what the digest covers of it."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.errors import InputError
from pipeline.recipe import DataSource, Device, ModelSource, Recipe
from targets.device.probe import cpu_model
from targets.user_code import imported_files

if TYPE_CHECKING:
    from pipeline.files import FileHashes
    from targets.target import Target

# The roles that stand for the folder of an artifact; where the recipe has no stage that gives one, it is None.
ARTIFACTS = frozenset(
    (
        *("data", "teacher", "model", "logits", "calibration", "package", "baseline"),
        *("compiled", "compiled_baseline", "compiled_float", "validation"),
    )
)
# Facts of a machine that a probe measures and that no artifact depends on.
NOT_IN_DIGEST = ("description", "memory_mb", "storage_mb")


def role_value(role: str, recipe: Recipe, device: Device, target: "Target") -> Any:
    """What a stage is handed for a role that is no artifact. Raises InputError for a role that does not exist."""
    calibration = recipe.data.calibration
    answers_here = role == "machine" and target.capabilities(device.profile).answers_here
    values = {
        "task": recipe.task,
        "source": replace(recipe.data, calibration=None),
        "calibration_source": recipe.data if calibration else None,
        "tokenizer": recipe.teacher.folder,
        "budget": device.budget,
        "device": device,
        "route": device,
        "machine": {"cpu": cpu_model()} if answers_here else {},
        "identity": {"name": recipe.name, "version": recipe.version, "expires": recipe.expires},
    }
    if role not in values:
        known = ", ".join(sorted({*ARTIFACTS, *values}))
        raise InputError(f"a stage takes {role!r}, which is no role", f"the roles are {known}")
    return values[role]


def role_key(role: str, value: Any, recipe: Recipe, target: "Target", hashes: "FileHashes") -> dict[str, str]:
    """What the digest covers of a value: its fields, and the contents of the files it names.

    "device" is covered whole but for what a probe measures; "route" as far as the target decides by it.
    """
    match role:
        case "route":
            fields = {"target": value.target, "threads": value.threads} | target.decides_by(value.profile)
        case "device":
            profile = {k: v for k, v in asdict(value.profile).items() if k not in NOT_IN_DIGEST}
            fields = {"profile": profile, "target": value.target, "threads": value.threads}
        case "task":
            fields = {"name": type(value).__name__, **asdict(value)}
        case "source" | "calibration_source" | "source_model" | "budget":
            fields = None if value is None else asdict(value)
        case _:
            fields = value
    return flatten(role, fields) | file_keys(role, _files(role, value, recipe.folder), recipe.folder, hashes)


def file_keys(role: str, paths: Iterable[Path], recipe_folder: Path, hashes: "FileHashes") -> dict[str, str]:
    """The contents of files and folders, each under its path as seen from the recipe: the same in every clone."""
    root = recipe_folder.resolve()
    return {f"{role}.file.{os.path.relpath(path, root)}": hashes.tree(path) for path in paths}


def flatten(prefix: str, value: Any) -> dict[str, str]:
    """A tree of JSON values as flat keys: {"a": {"b": 1}} -> {"prefix.a.b": "1"}."""
    if isinstance(value, Mapping):
        flat: dict[str, str] = {}
        for name, part in value.items():
            flat |= flatten(f"{prefix}.{name}", part)
        return flat
    return {prefix: json.dumps(value, sort_keys=True, default=str)}


def _files(role: str, value: Any, recipe_folder: Path) -> Iterable[Path]:
    """The files and folders whose contents a value stands for."""
    match value:
        case DataSource() if role == "calibration_source":
            named = [value.calibration]
        case DataSource():
            named = [value.source, value.test, *value.files]
        case ModelSource():
            named = [value.factory, value.weights, value.folder, value.onnx, *value.files]
        case str() if role == "tokenizer":
            names = (f"{value}/tokenizer.json", f"{value}/tokenizer_config.json")
            named = [name for name in names if (recipe_folder / name).exists()]
        case _:
            named = []
    for name in filter(None, named):
        path = recipe_folder.resolve() / name.partition(":")[0]
        yield from imported_files(path) if path.suffix == ".py" else (path,)
