"""What the int8 bench measures: models of every family, and the data each was trained on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import KEPT

if TYPE_CHECKING:
    import numpy as np

    from pipeline.data import Split
    from pipeline.task import Task

FOLDER = KEPT / "models"
# Of every model: samples that set the ranges of a static int8 model, ours and the peers' the same.
CALIBRATION_SAMPLES = 256


@dataclass(frozen=True)
class Data:
    """task, settings: as a recipe names them. source: of a recipe's `data`, with what belongs to it, below FOLDER."""

    name: str
    task: str
    settings: dict[str, Any]
    source: dict[str, Any]

    @property
    def folder(self) -> Path:
        """What prepare makes of it (train/, validation/, test/, summary.json), and calibration.npz: model inputs."""
        return FOLDER / "prepared" / self.name

    def make_task(self) -> "Task":
        from pipeline.tasks.image_classification import ImageClassification
        from pipeline.tasks.text_classification import TextClassification

        kinds = {"image-classification": ImageClassification, "text-classification": TextClassification}
        return kinds[self.task](**self.settings)

    def inputs_of(self, split: "Split", folder: Path | None = None) -> "dict[str, np.ndarray]":
        """Input name -> array, as a model takes them. folder: of the splits, where it is not yet this one."""
        from targets.device.preprocess import preprocess

        return preprocess(self.make_task().preprocessing(folder or self.folder), split.columns)


FASHION = Data(
    "fashion",
    "image-classification",
    {"mean": [0.286], "std": [0.353]},
    {"source": "sources/fashion-mnist", "calibration": "sources/fashion-calibration.npz"},
)
WORDS = Data(
    "words",
    "image-classification",
    {"mean": [0.46], "std": [0.17]},
    {"source": "sources/words", "calibration": "sources/words-calibration.npz"},
)
# The split of recipes/spam.yaml, whose teacher must not have seen the test mails.
MAILS = Data(
    "mails",
    "text-classification",
    {"max_length": 64},
    {"source": "sources/mails.jsonl", "test_share": 0.35, "calibration": "sources/mails-calibration.jsonl"},
)


@dataclass(frozen=True)
class BenchModel:
    """One model of the bench. Below FOLDER / name: recipe.yaml, model.onnx, and its weights.

    family: what kind of network it stands for.
    architecture: "convolutional", "transformer" or "recurrent", which the peers' documentation advises differently for.
    factory: "file.py:function" of its own folder; None for a Hugging Face folder, `teacher`.
    training: what differs from the settings in train_bench_models.py; None where it is trained elsewhere.
    """

    name: str
    family: str
    architecture: str
    data: Data
    factory: str | None
    training: dict[str, Any] | None = field(default_factory=dict[str, Any])

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def onnx(self) -> Path:
        """The fp32 model that every tool gets."""
        return self.folder / "model.onnx"


SLOWLY: dict[str, Any] = {"learning_rate": 1e-3}
# Of layers that were trained before.
TUNED: dict[str, Any] = {"epochs": 5, "learning_rate": 1e-4}

MODELS = (
    BenchModel("resnet", "residual CNN", "convolutional", FASHION, "fashion.py:teacher", None),
    BenchModel("mobilenet", "depthwise CNN", "convolutional", FASHION, "vision.py:mobilenet"),
    BenchModel("convnext", "ConvNeXt", "convolutional", FASHION, "vision.py:convnext", SLOWLY),
    BenchModel("vgg", "plain CNN", "convolutional", FASHION, "vision.py:vgg"),
    BenchModel("vit", "vision transformer", "transformer", FASHION, "vision.py:vit", SLOWLY | {"epochs": 5}),
    BenchModel("minilm", "text transformer", "transformer", MAILS, None, None),
    BenchModel("minilm-2", "text transformer, 2 layers", "transformer", MAILS, None, TUNED),
    BenchModel("words-cnn", "1-D CNN", "convolutional", WORDS, "speech.py:cnn", {"epochs": 8}),
    BenchModel("words-gru", "recurrent", "recurrent", WORDS, "speech.py:gru", {"epochs": 8}),
)
# For what training wins back alone.
SMALL = (BenchModel("mobilenet-tiny", "small depthwise CNN", "convolutional", FASHION, "vision.py:mobilenet_tiny"),)


def named(name: str) -> BenchModel:
    """Exits where there is no such model."""
    models = (*MODELS, *SMALL)
    found = [model for model in models if model.name == name]
    if not found:
        raise SystemExit(f"there is no model {name}: {', '.join(model.name for model in models)}")
    return found[0]
