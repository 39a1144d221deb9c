import numpy as np
import pytest

from calibration.errors import InputError
from pipeline.data import load_split
from pipeline.model import load_model
from pipeline.recipe import ModelSource
from pipeline.samples import Samples
from pipeline.stages.export import Export
from pipeline.stages.load import Load
from pipeline.stages.predict import Predict
from pipeline.training import predict


def test_every_view_of_every_sample_is_answered(task, data, recipe_folder, teacher, logits):
    module = load_model(teacher, recipe_folder)
    train, validation = (Samples(load_split(data, n), task.preprocessing(data)) for n in ("train", "validation"))
    assert sorted(f.name for f in logits.iterdir()) == ["train.0.npy", "train.1.npy", "validation.npy"]
    assert np.array_equal(np.load(logits / "train.0.npy"), predict(module, train))
    mirrored = predict(module, train, lambda inputs: task.augment(inputs, 1))
    assert np.array_equal(np.load(logits / "train.1.npy"), mirrored)
    assert np.array_equal(np.load(logits / "validation.npy"), predict(module, validation))
    assert np.load(logits / "train.0.npy").dtype == np.float32


def test_a_teacher_that_is_onnx_answers_alike(make_work, task, data, recipe_folder, teacher, logits):
    export = make_work("export")
    Export()(export, task=task, data=data, model=teacher)
    (recipe_folder / "answers.onnx").write_bytes((export.out / "model.onnx").read_bytes())
    load, work = make_work("load"), make_work("predict")
    Load()(load, task=task, source_model=ModelSource(onnx="answers.onnx"), data=data)
    Predict(views=2)(work, task=task, data=data, teacher=load.out)
    for name in ("train.0.npy", "train.1.npy", "validation.npy"):
        assert np.allclose(np.load(work.out / name), np.load(logits / name), atol=1e-4)


def test_bfloat16_answers_nearly_alike(make_work, task, data, teacher, logits):
    work = make_work("predict")
    Predict(precision="bfloat16")(work, task=task, data=data, teacher=teacher)
    exact, rough = (np.load(folder / "train.0.npy") for folder in (logits, work.out))
    assert not np.array_equal(exact, rough)
    assert np.abs(exact - rough).max() < 0.05 * np.abs(exact).max()


def test_progress_ends_at_one(make_work, task, data, teacher):
    seen: list[float] = []
    work = make_work("predict", lambda fraction, _: seen.append(fraction))
    Predict()(work, task=task, data=data, teacher=teacher)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_no_views_are_refused():
    with pytest.raises(InputError, match="views: 0"):
        Predict(views=0)
