"""A Hugging Face encoder through the same stages: load, keep layers, predict, distill, prune, export."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from calibration.errors import InputError
from pipeline.data import Split, load_split, sample_ids
from pipeline.model import ModelRecord, load_model, run_model
from pipeline.recipe import ModelSource
from pipeline.samples import Samples
from pipeline.stages.distill import Distill
from pipeline.stages.export import Export
from pipeline.stages.load import Load
from pipeline.stages.predict import Predict
from pipeline.stages.prune import Prune
from pipeline.tasks.text_classification import TextClassification
from targets.target import ModelPackage

LENGTH = 12
TASK = TextClassification(max_length=LENGTH)
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
CONFIG = BertConfig(vocab_size=40, max_position_embeddings=16, num_labels=2, **SIZES)


@pytest.fixture(scope="module")
def mails(tmp_path_factory):
    """Token ids of two classes: one has the token 7 somewhere."""
    folder = tmp_path_factory.mktemp("mails")
    rng = np.random.default_rng(0)
    for name, n in {"train": 96, "validation": 32, "test": 32}.items():
        ids, labels = rng.integers(8, 40, (n, LENGTH)), rng.integers(0, 2, n)
        mask = (np.arange(LENGTH) < rng.integers(4, LENGTH + 1, (n, 1))).astype(np.int64)
        ids[labels == 1, 2] = 7
        columns = {"input_ids": ids * mask, "attention_mask": mask}
        Split(columns, labels, sample_ids(columns)).save(folder / name)
    (folder / "summary.json").write_text(json.dumps({"schema": 1, "labels": ["ham", "spam"]}))
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def folder(recipe_folder):
    torch.manual_seed(0)
    BertForSequenceClassification(CONFIG).save_pretrained(recipe_folder / "bert")
    return recipe_folder / "bert"


@pytest.fixture
def encoder(make_work, mails, folder):
    work = make_work("teacher")
    Load()(work, task=TASK, source_model=ModelSource(folder="bert"), data=mails)
    return work.out


def answers(module, mails):
    batch = Samples(load_split(mails, "test"), TASK.preprocessing(mails)).batch(torch.arange(9))
    with torch.no_grad():
        return run_model(module.eval(), batch)


def test_a_folder_is_rebuilt_without_its_folder(recipe_folder, encoder, mails, folder):
    expected = answers(BertForSequenceClassification.from_pretrained(folder), mails)
    aside = folder.rename(folder.with_name("moved"))
    try:
        assert torch.equal(answers(load_model(encoder, recipe_folder), mails), expected)
    finally:
        aside.rename(folder)


def test_the_stages_work_on_it(make_work, recipe_folder, encoder, mails):
    student, logits, distilled, pruned, exported = (
        make_work(n) for n in ("load", "predict", "distill", "prune", "export")
    )
    roles = {"task": TASK, "data": mails, "logits": logits.out}
    Load()(student, task=TASK, source_model=ModelSource(keep_layers=(0, 2)), data=mails, teacher=encoder)
    teacher, kept = (load_model(f, recipe_folder) for f in (encoder, student.out))
    assert len(kept.bert.encoder.layer) == kept.config.num_hidden_layers == 2
    assert torch.equal(
        kept.bert.encoder.layer[1].output.dense.weight, teacher.bert.encoder.layer[2].output.dense.weight
    )
    Predict()(logits, task=TASK, data=mails, teacher=encoder)
    Distill(epochs=1, batch_size=16)(distilled, **roles, model=student.out)
    assert ModelRecord.load(distilled.out).history[0]["settings"]["learning_rate"] == 2e-4
    Prune(macs=0.7, epochs=1, batch_size=16)(pruned, **roles, model=distilled.out)
    before, after = ModelRecord.load(student.out), ModelRecord.load(pruned.out)
    assert 0.6 < after.macs / before.macs <= 0.7
    assert [e["kind"] for e in after.edits] == ["keep_layers", "channels"]
    Export()(exported, task=TASK, data=mails, model=pruned.out)
    package = ModelPackage.load(exported.out)
    assert package.architecture == "transformer"
    assert [(i.name, i.dtype, i.shape) for i in package.inputs] == [
        ("input_ids", "int64", ("batch", LENGTH)),
        ("attention_mask", "int64", ("batch", LENGTH)),
    ]
    assert [(o.name, o.shape) for o in package.outputs] == [("logits", ("batch", 2))]
    assert package.assets == ("tokenizer.json",)
    graph = onnx.load(exported.out / "model.onnx")
    assert graph.ir_version <= 10
    assert sum(int(np.prod(t.dims)) for t in graph.graph.initializer) <= 1.1 * after.parameters


def test_a_teacher_without_its_head_is_refused_and_a_student_is_not(make_work, recipe_folder, encoder, mails):
    torch.manual_seed(0)
    BertModel(CONFIG).save_pretrained(recipe_folder / "headless")
    source = ModelSource(folder="headless")
    with pytest.raises(InputError, match=r"2 missing: classifier\.bias, classifier\.weight"):
        Load()(make_work("refused"), task=TASK, source_model=source, data=mails)
    work = make_work("student")
    Load()(work, task=TASK, source_model=source, data=mails, teacher=encoder)
    assert ModelRecord.load(work.out).classes == 2


@pytest.mark.parametrize("damage", ["cut", "pickle", "config", "list", "type", "shape", "nan"])
def test_a_damaged_folder_is_refused_by_name(make_work, recipe_folder, folder, mails, damage):
    bad = recipe_folder / f"bad-{damage}"
    shutil.copytree(folder, bad)
    weights, config = bad / "model.safetensors", bad / "config.json"
    match damage:
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-9])
            said = "bad-cut"
        case "pickle":
            weights.rename(bad / "pytorch_model.bin")
            said = r"no \.safetensors file"
        case "config":
            config.write_text("{}")
            said = "bad-config"
        case "list":
            config.write_text("[]")
            said = "bad-list"
        case "type":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": "wide"}))
            said = "bad-type"
        case "shape":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 96}))
            said = r"of another shape: bert\.encoder\.layer\.0\.intermediate\.dense\.bias"
        case _:
            module = BertForSequenceClassification.from_pretrained(folder)
            module.classifier.weight.data[0, 0] = float("nan")
            module.save_pretrained(bad)
            said = r"NaN or infinity in classifier\.weight"
    with pytest.raises(InputError, match=said):
        Load()(make_work("bad"), task=TASK, source_model=ModelSource(folder=bad.name), data=mails)
