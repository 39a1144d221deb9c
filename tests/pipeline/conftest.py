"""A small world for the stages that train: images with a pattern that can be learnt, and models in a user's file."""

import json
import sys
from collections.abc import Callable, Generator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import Split, sample_ids
from pipeline.recipe import ModelSource
from pipeline.stage import Work
from pipeline.stages.load import Load
from pipeline.stages.predict import Predict
from pipeline.tasks.image_classification import ImageClassification

NETS = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(c, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(16, c, 3, 1, 1, bias=False), nn.BatchNorm2d(c))

    def forward(self, x):
        return torch.relu(x + self.b(self.a(x)))


class Net(nn.Module):
    def __init__(self, width, blocks, classes=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def teacher():
    return Net(24, 2)


def student():
    return Net(16, 1)


def four():
    return Net(16, 1, classes=4)


class Branching(Net):
    def forward(self, x):
        return super().forward(x) if x.mean() > 0 else super().forward(-x)


def branching():
    return Branching(16, 1)


def two():
    return Net(16, 1, classes=2)


def colour():
    return nn.Conv2d(3, 3, 3)


def number():
    return 5


def batch_bound():
    class Bound(Net):
        def forward(self, x):
            return super().forward(x - x.mean(0, keepdim=True))

    return Bound(16, 1)


def undefined():
    net = Net(16, 1)
    net.head.bias.data[0] = float("nan")
    return net
"""


def images(n: int, seed: int) -> Split:
    """12 x 12 grey images of three classes: a bright bar on the left, on the right, or across, under noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    pixels = rng.normal(100, 30, (n, 12, 12, 1))
    for place, label in enumerate(labels):
        at = (slice(None), slice(0, 4)) if label == 0 else (slice(None), slice(8, 12)) if label == 1 else (slice(4, 8),)
        pixels[(place, *at)] += 60
    columns = {"image": pixels.clip(0, 255).astype(np.uint8)}
    return Split(columns, labels.astype(np.int64), sample_ids(columns))


@pytest.fixture(scope="module", autouse=True)
def _forgotten_projects() -> Generator[None]:
    """A process holds one project: what users' files are found by, and became, goes with each file of tests."""
    places, modules = list(sys.path), set(sys.modules)
    yield
    added = [place for place in sys.path if place not in places]
    sys.path[:] = places
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and any(Path(file).is_relative_to(place) for place in added):
            del sys.modules[name]


@pytest.fixture(scope="session")
def task() -> ImageClassification:
    return ImageClassification()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, n) in enumerate({"train": 256, "validation": 64, "test": 64}.items()):
        images(n, seed).save(folder / name)
    (folder / "summary.json").write_text(json.dumps({"schema": 1, "labels": ["left", "right", "across"]}))
    return folder


@pytest.fixture(scope="session")
def recipe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "nets.py").write_text(NETS)
    return folder


@pytest.fixture
def make_work(tmp_path: Path, recipe_folder: Path) -> Callable[[str], Work]:
    """A Work for each name; the same name has the same scratch."""

    def make(name: str, progress: Callable[[float, str], None] = lambda _fraction, _text: None) -> Work:
        out, scratch = tmp_path / f"out-{name}", tmp_path / f"scratch-{name}"
        out.mkdir()
        scratch.mkdir(exist_ok=True)
        return Work(out, scratch, recipe_folder, nullcontext, progress)

    return make


@pytest.fixture(scope="session")
def teacher(
    tmp_path_factory: pytest.TempPathFactory, recipe_folder: Path, task: ImageClassification, data: Path
) -> Path:
    """A teacher artifact, trained for an epoch on the labels."""
    import torch

    from pipeline.data import load_split
    from pipeline.model import fresh_model
    from pipeline.samples import Samples
    from pipeline.stages.distill import Distill
    from pipeline.training import train
    from pipeline.weights import write_weights

    torch.set_num_threads(1)
    module = fresh_model({"factory": "nets.py:teacher"}, recipe_folder, recipe_folder)
    settings = task.preprocessing(data)
    train(
        module,
        task,
        Samples(load_split(data, "train"), settings),
        Samples(load_split(data, "validation"), settings),
        Distill(epochs=2, batch_size=32),
    )
    write_weights(module, recipe_folder / "teacher.safetensors")
    out = tmp_path_factory.mktemp("teacher")
    source = ModelSource(factory="nets.py:teacher", weights="teacher.safetensors")
    work = Work(out, out, recipe_folder, nullcontext, lambda _fraction, _text: None)
    Load()(work, task=task, source_model=source, data=data, teacher=None)
    return out


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory, recipe_folder: Path, task, data: Path, teacher: Path) -> Path:
    out = tmp_path_factory.mktemp("student")
    work = Work(out, out, recipe_folder, nullcontext, lambda _fraction, _text: None)
    Load()(work, task=task, source_model=ModelSource(factory="nets.py:student"), data=data, teacher=teacher)
    return out


@pytest.fixture(scope="session")
def logits(tmp_path_factory: pytest.TempPathFactory, recipe_folder: Path, task, data: Path, teacher: Path) -> Path:
    out = tmp_path_factory.mktemp("logits")
    work = Work(out, out, recipe_folder, nullcontext, lambda _fraction, _text: None)
    Predict(views=2, precision="float32")(work, task=task, data=data, teacher=teacher)
    return out
