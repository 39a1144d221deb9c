"""Trains the models of the int8 bench, as far as they are not there yet: some 30 minutes the first time.

Each learns from the labels or from the answers of a larger one, in the project's own training loop, is exported by its
own exporter, and kept in ~/.cache/edgewright-bench/models. Test samples serve the accuracy that is printed, and nothing
else.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from bench_models.catalogue import CALIBRATION_SAMPLES, FASHION, FOLDER, MAILS, MODELS, WORDS, BenchModel, Data, named
from benchmark import ROOT

sys.path.insert(0, str(ROOT))
from calibration.dataset import choose_balanced
from pipeline import edits, exporters, hugging_face, model, onnx_graph, training
from pipeline.data import Split, load_split
from pipeline.loading import Record, complete, encode, read_tables
from pipeline.recipe import DataSource, ModelSource
from pipeline.samples import Samples
from pipeline.stage import Work
from pipeline.stages.prepare import Prepare
from pipeline.training_settings import TrainingSettings
from pipeline.weights import put_weights, read_weights, write_weights

if TYPE_CHECKING:
    from pipeline.task import Task

SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "temperature": 4.0,
    "label_weight": 0.3,
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "weight_decay": None,
    "batch_size": 128,
    "warmup_share": 0.1,
    "clip_norm": 1.0,
    "patience": None,
    "seed": 0,
    "precision": "auto",
}
# Variants of each training sample that the teacher answers; the first is the sample itself.
VIEWS = {"fashion": 1, "mails": 2}


def take_sources() -> None:
    """The data below FOLDER / sources, as it was fetched or made."""
    sources = FOLDER / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    if not (sources / "mails.jsonl").is_file() or not (sources / "fashion-mnist").is_dir():
        subprocess.run([sys.executable, ROOT / "scripts/fetch-data", "fashion-mnist", "spam", "minilm"], check=True)
        shutil.copyfile(ROOT / "recipes/spam/mails.jsonl", sources / "mails.jsonl")
        shutil.copytree(ROOT / "recipes/fashion-mnist", sources / "fashion-mnist", dirs_exist_ok=True)
    if not (sources / "words").is_dir():
        from bench_models import spoken_words

        print("synthesising spoken words", flush=True)
        spoken_words.make(sources / "words")


def prepare(data: Data) -> None:
    """The splits that a build makes of it, and calibration samples: in the form a recipe takes, and as model inputs."""
    if data.folder.is_dir():
        return
    new = data.folder.with_name(f".{data.name}")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    task, source = data.make_task(), DataSource(**data.source)
    tokenizer = str(ROOT / "recipes/spam/minilm") if data is MAILS else None
    Prepare()(
        Work(new, new, FOLDER, nullcontext, lambda _, text: print(f"{data.name}: {text}", flush=True)),
        task=task,
        source=source,
        tokenizer=tokenizer,
    )
    train = load_split(new, "train")
    chosen = train.take(choose_balanced(train.labels, CALIBRATION_SAMPLES, seed=0))
    inputs: dict[str, Any] = dict(data.inputs_of(chosen, new))
    np.savez(new / "calibration.npz", **inputs)
    out = FOLDER / data.source["calibration"]
    if data is MAILS:
        out.write_text("".join(f"{line}\n" for line in lines_of(chosen, task, source, tokenizer)))
    else:
        np.savez(out, image=chosen.columns["image"], label=chosen.labels)
    new.rename(data.folder)


def lines_of(chosen: Split, task: "Task", source: DataSource, tokenizer: str | None) -> list[str]:
    """The lines of the file of mails that give these samples."""
    table = complete(read_tables(source, FOLDER)["all"], task, "refuse", Record())
    samples = encode(task, table, task.label_names(table), None if tokenizer is None else Path(tokenizer))
    row = {sample: i for i, sample in enumerate(samples.ids.tolist())}
    lines = (FOLDER / source.source).read_text().splitlines()
    return [lines[row[sample]] for sample in chosen.ids.tolist()]


def train(bench_model: BenchModel, module: torch.nn.Module, teacher: torch.nn.Module | None) -> None:
    """In place, from the labels and, where there is one, the answers of a teacher."""
    data = bench_model.data
    task = data.make_task()
    splits = [
        Samples(load_split(data.folder, name), task.preprocessing(data.folder)) for name in ("train", "validation")
    ]
    answers = teachers_answers(data, task, splits[0], teacher) if teacher else []
    settings = TrainingSettings(**SETTINGS | (bench_model.training or {}))
    start, last = time.monotonic(), [0.0]

    def progress(_fraction: float, text: str) -> None:
        if time.monotonic() - last[0] > 20:
            last[0] = time.monotonic()
            print(f"{bench_model.name}: {text}, {last[0] - start:.0f} s", flush=True)

    training.train(module, task, splits[0], splits[1], settings, teacher=answers, progress=progress)


def teachers_answers(data: Data, task: "Task", samples: Samples, teacher: torch.nn.Module) -> list[np.ndarray]:
    """Logits [samples, classes] of each variant of the training samples; computed once for all that learn from them."""
    file = data.folder / "answers.npy"
    if not file.is_file():
        views = [
            training.predict(
                teacher,
                samples,
                lambda inputs, v=view: task.augment(inputs, v),
                bfloat16=training.computes_in_bfloat16("auto"),
            )
            for view in range(VIEWS[data.name])
        ]
        unfinished = file.with_suffix(".unfinished.npy")
        np.save(unfinished, np.stack(views))
        unfinished.replace(file)
    return list(np.load(file))


def make_module(bench_model: BenchModel, folder: Path) -> torch.nn.Module:
    """The trained model, its files written into the folder: weights and factory, or a Hugging Face folder."""
    if bench_model.factory is None:
        return make_transformer(bench_model, folder)
    file = bench_model.factory.partition(":")[0]
    from_recipes = ROOT / "recipes" / file
    shutil.copyfile(from_recipes if from_recipes.is_file() else ROOT / "scripts/bench_models" / file, folder / file)
    module = model.fresh_model({"factory": bench_model.factory}, folder, folder)
    if bench_model.training is None:
        weights = read_weights(ROOT / "recipes/teacher.safetensors")
        put_weights(module, weights, "recipes/teacher.safetensors")
    else:
        teacher = load_module(MODELS[0]) if bench_model.data is FASHION else None
        train(bench_model, module, teacher)
    write_weights(module, folder / "weights.safetensors")
    return module.eval()


def make_transformer(bench_model: BenchModel, folder: Path) -> torch.nn.Module:
    """The teacher of recipes/spam.yaml, or its first two layers, trained on its answers."""
    source = ROOT / "recipes/spam/teacher"
    if not source.is_dir():
        subprocess.run([sys.executable, ROOT / "scripts/train_spam.py"], check=True)
    module = load_transformer(source)
    if bench_model.training is not None:
        edits.apply_edit(module, edits.layers_edit(module, [0, 1]))
        module.config.num_hidden_layers = 2  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        train(bench_model, module, load_transformer(source))
    module.save_pretrained(folder / "teacher")  # pyright: ignore[reportCallIssue]
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(source / name, folder / "teacher" / name)
    return module


def load_transformer(folder: Path) -> torch.nn.Module:
    source = ModelSource(folder=str(folder))
    return hugging_face.load_folder(folder, MAILS.make_task(), source, 2, may_lack_head=False)[0]


def load_module(bench_model: BenchModel) -> torch.nn.Module:
    """A model that was made before."""
    if bench_model.factory is None:
        return load_transformer(bench_model.folder / "teacher")
    module = model.fresh_model({"factory": bench_model.factory}, bench_model.folder, bench_model.folder)
    path = bench_model.folder / "weights.safetensors"
    put_weights(module, read_weights(path), str(path))
    return module.eval()


def export(bench_model: BenchModel, module: torch.nn.Module, path: Path) -> None:
    """As the export stage does it."""
    data = bench_model.data
    task = data.make_task()
    samples = Samples(load_split(data.folder, "validation"), task.preprocessing(data.folder))
    two = samples.batch(torch.arange(2))
    inputs = {name: (str(t.dtype).removeprefix("torch."), tuple(t.shape[1:])) for name, t in two.items()}
    if bench_model.factory is None:
        source = {"hugging_face": "AutoModelForSequenceClassification", "trust_remote_code": False}
        record = model.ModelRecord(source, inputs, 2, 0, 0, trained=True)
        exporters.export_hugging_face(module, record, task, path)
    else:
        exporters.export_module(module, two, path)
    graph = onnx_graph.read_graph(path)
    onnx_graph.conform(graph, inputs, str(path))
    import onnx

    onnx.save(graph, path)


def write_recipe(bench_model: BenchModel, folder: Path) -> None:
    """All of a recipe but its stages and devices; its paths are relative to the model's folder."""
    data = bench_model.data
    source = {key: f"../{value}" if isinstance(value, str) else value for key, value in data.source.items()}
    teacher = (
        {"folder": "teacher"}
        if bench_model.factory is None
        else {"factory": bench_model.factory, "weights": "weights.safetensors"}
    )
    recipe = {"name": bench_model.name, "task": {data.task: data.settings}, "data": source, "teacher": teacher}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))


def make(bench_model: BenchModel) -> None:
    """Writes the model's folder whole or not at all, and says how good it is."""
    if bench_model.onnx.is_file():
        return
    start = time.monotonic()
    new = bench_model.folder.with_name(f".{bench_model.name}")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    module = make_module(bench_model, new)
    export(bench_model, module, new / "model.onnx")
    write_recipe(bench_model, new)
    accuracy = test_accuracy(bench_model, new / "model.onnx")
    (new / "about.json").write_text(json.dumps({"family": bench_model.family, "test_accuracy": accuracy}))
    new.rename(bench_model.folder)
    print(f"{bench_model.name}: test accuracy {accuracy:.4f}, {time.monotonic() - start:.0f} s", flush=True)


def test_accuracy(bench_model: BenchModel, path: Path) -> float:
    """Of the exported graph."""
    split = load_split(bench_model.data.folder, "test")
    session = onnx_graph.session(path, torch.get_num_threads())
    inputs = bench_model.data.inputs_of(split)
    answers = [
        onnx_graph.run_graph(session, {name: array[i : i + 256] for name, array in inputs.items()})
        for i in range(0, len(split), 256)
    ]
    return float((np.concatenate(answers).argmax(1) == split.labels).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="only these of them")
    parser.add_argument("--threads", type=int, default=2)
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(parsed.threads)
    take_sources()
    for data in (FASHION, WORDS, MAILS):
        prepare(data)
    make(MODELS[0])  # the others learn from it
    for bench_model in [named(name) for name in parsed.models] or MODELS:
        make(bench_model)


if __name__ == "__main__":
    main()
