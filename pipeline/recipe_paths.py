"""The files that a recipe names: are they there, and are they what their key asks for? None of them is run."""

import ast
from collections.abc import Iterator
from pathlib import Path

from calibration.errors import InputError, near
from pipeline.recipe import DataSource, ModelSource
from targets.plugins import user_file
from targets.user_code import imported_files

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")

Mistake = tuple[tuple[str | int, ...], str]


def mistakes(
    folder: Path, data: DataSource | None, teacher: ModelSource | None, student: ModelSource | None
) -> Iterator[Mistake]:
    """(place in the recipe, what is wrong there). Paths are relative to `folder`, the recipe's."""
    if data is not None:
        yield from _data(folder, data)
    if teacher is not None:
        yield from _model(folder, teacher, "teacher")
        if teacher.keep_layers is not None:
            yield ("teacher", "keep_layers"), "keep_layers is a key of the student: it is made of the teacher's layers"
        if teacher.factory is not None and teacher.weights is None:
            yield ("teacher",), "the teacher is untrained without its weights: add weights: FILE.safetensors"
    if student is not None:
        yield from _model(folder, student, "student")
        if student.keep_layers is not None and teacher is not None and teacher.onnx is not None:
            yield ("student", "keep_layers"), "the teacher comes as ONNX: its layers cannot be taken apart"


def _data(folder: Path, data: DataSource) -> Iterator[Mistake]:
    for key in ("source", "test", "calibration"):
        name = getattr(data, key)
        if name is not None:
            yield from _there(folder, name, ("data", key))
    for i, name in enumerate(data.files):
        yield from _there(folder, name, ("data", "files", i))
    if not 0 <= data.seed < 2**63:
        yield ("data", "seed"), f"seed: {data.seed} is not from 0 to 2^63"
    for key in ("test_share", "validation_share"):
        if not 0 < getattr(data, key) < 1:
            yield ("data", key), f"{key} is a share of the samples: above 0 and below 1"


def _model(folder: Path, model: ModelSource, role: str) -> Iterator[Mistake]:
    origins = [key for key in ("factory", "folder", "onnx", "keep_layers") if getattr(model, key) is not None]
    if len(origins) != 1:
        given = f"not {' and '.join(origins)}" if origins else "and none is given"
        yield (role,), f"a model comes from one of factory, folder, onnx (a student also from keep_layers), {given}"
    for key in ("factory", "weights", "folder", "onnx"):
        name = getattr(model, key)
        if name is not None:
            yield from _there(folder, name, (role, key), code=key == "factory")
    if model.folder is not None:
        path = folder / model.folder
        if path.exists() and not (path / "config.json").is_file():
            yield (role, "folder"), f"{path} holds no config.json: it is not a Hugging Face model folder"
    if model.onnx is not None and Path(model.onnx).suffix != ".onnx":
        yield (role, "onnx"), f"{model.onnx!r} is not an .onnx file"
    if model.weights is not None:
        yield from (((role, "weights"), message) for message in _weights(model, Path(model.weights).suffix))
    for i, name in enumerate(model.files):
        yield from _there(folder, name, (role, "files", i))
    kept = model.keep_layers
    if kept is not None and (not kept or list(kept) != sorted(set(kept)) or kept[0] < 0):
        yield (role, "keep_layers"), "keep_layers must be numbers of layers, counted from 0, ascending, none twice"


def _weights(model: ModelSource, suffix: str) -> Iterator[str]:
    if model.factory is None:
        yield "weights go with a factory; a folder and an ONNX file bring their own"
    elif suffix in PICKLES and not model.allow_pickle:
        yield "a pickle can hold code: give .safetensors, or state allow_pickle: true (only tensors are read from it)"
    elif suffix not in (*PICKLES, ".safetensors"):
        yield f"weights are a .safetensors file (or a pickle: {', '.join(PICKLES)}), not {suffix!r}"


def _there(folder: Path, name: str, at: tuple[str | int, ...], code: bool = False) -> Iterator[Mistake]:
    """Mistakes of a path, or of `file.py:function`, whose text must define the function."""
    split = user_file(name, folder)
    if split is None and (code or name.endswith(".py")):
        yield at, f"{name!r} must name a function of a file, as in model.py:{at[0]}"
    elif split is None:
        path = folder / name
        if not path.exists():
            beside = sorted(p.name for p in path.parent.glob("[!.]*"))[:20]
            yield at, f"there is no file or folder {path}{near(path.name, beside)}"
    else:
        try:
            imported_files(split[0])
        except InputError as error:
            yield at, error.message
            return
        defined = _defined(split[0])
        if defined and split[1] not in defined:
            yield at, f"{split[0]} defines no {split[1]!r}{near(split[1], sorted(defined))}"


def _defined(file: Path) -> set[str]:
    """Names that the top level of a file defines; empty where that cannot be told without running it."""
    found: set[str] = set()
    for node in ast.parse(file.read_bytes()).body:
        match node:
            case ast.FunctionDef() | ast.ClassDef() | ast.AsyncFunctionDef():
                found.add(node.name)
            case ast.Import() | ast.ImportFrom():
                found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            case _:
                found |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
                found |= {n.name for n in ast.walk(node) if isinstance(n, ast.FunctionDef)}
    return set() if "*" in found else found
