from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st

from calibration.errors import InputError
from pipeline.data import Table, sample_ids
from pipeline.sources.tables import as_column
from pipeline.tasks.image_classification import ImageClassification
from pipeline.tasks.text_classification import TextClassification

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "buy", "cheap", "##er", "hello", "now", "you"]
TEXTS = ["Buy cheaper now", "hello", "", "hello you " * 20, "ünknöwn Buy"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import BertTokenizerFast

    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def table(label, **columns) -> Table:
    label = label if isinstance(label, np.ndarray) else as_column(label)
    return Table({**columns, "label": label}, "d.csv", lambda i: f"d.csv:{i + 2}", Path(), {})


def texts(values) -> Table:
    return table([0] * len(values), text=as_column(values))


def test_tokens_are_those_of_transformers(tokenizer):
    from transformers import AutoTokenizer

    task = TextClassification(max_length=8)
    ours = task.encode(texts(TEXTS), tokenizer)
    theirs = AutoTokenizer.from_pretrained(tokenizer)(
        TEXTS, truncation=True, max_length=8, padding="max_length", return_tensors="np"
    )
    for name in ("input_ids", "attention_mask"):
        assert ours[name].dtype == np.int64
        assert (ours[name] == theirs[name]).all()


def test_the_tokenizer_that_ships_gives_the_models_input(tokenizer):
    task = TextClassification(max_length=8)
    shipped = tokenizers.Tokenizer.from_str(task.assets(tokenizer)["tokenizer.json"])
    ids = np.array([shipped.encode(t).ids for t in TEXTS])
    assert (ids == task.encode(texts(TEXTS), tokenizer)["input_ids"]).all()


def test_what_is_wrong_with_text_is_named(tokenizer, tmp_path):
    task = TextClassification()
    with pytest.raises(InputError, match=r"d\.csv:3: the text is a int"):
        task.encode(texts(["a", 5]), tokenizer)
    with pytest.raises(InputError, match="teacher has none"):
        task.encode(texts(["a"]), None)
    with pytest.raises(InputError, match=r"there is no .*tokenizer\.json"):
        task.encode(texts(["a"]), tmp_path)
    for content, said in (("{", "cannot be read"), ("{}", "is no tokenizer: Model missing")):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(InputError, match=rf"tokenizer\.json {said}"):
            task.encode(texts(["a"]), tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((tokenizer / "tokenizer.json").read_bytes())
    for content, said in (("{", "cannot be read"), ("[]", "holds no settings")):
        (tmp_path / "tokenizer_config.json").write_text(content)
        with pytest.raises(InputError, match=rf"tokenizer_config\.json {said}"):
            task.encode(texts(["a"]), tmp_path)


@pytest.mark.parametrize(
    ("labels", "names", "values"),
    [
        ([1, 0, 2], ["0", "1", "2"], [1, 0, 2]),
        (["1", "0"], ["0", "1"], [1, 0]),
        (np.array([1.0, 0.0]), ["0", "1"], [1, 0]),
        (["spam", "ham", "spam"], ["ham", "spam"], [1, 0, 1]),
        (np.array(["b", "a"]), ["a", "b"], [1, 0]),
        ([True, False], ["0", "1"], [1, 0]),
    ],
)
def test_labels(labels, names, values):
    task = ImageClassification()
    data = table(labels)
    assert task.label_names(data) == names
    assert task.labels(data, names).tolist() == values


def test_names_of_the_source_or_the_recipe_decide_the_order():
    named = Table({"label": np.array([0, 1])}, "d", str, Path(), {"label": ["dog", "cat"]})
    assert ImageClassification().label_names(named) == ["dog", "cat"]
    task = ImageClassification(classes=("cat", "dog"))
    assert task.label_names(named) == ["cat", "dog"]
    assert task.labels(named, ["cat", "dog"]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 1, 255], r"d\.csv:5: label 255 is out of range: labels of the other training samples run from 0 to 1"),
        ([-1, 0, 1], r"d\.csv:2: label -1 is out of range"),
        ([1, 2], r"d\.csv:2: label 1 is out of range: labels begin with 0"),
        ([0, 0], "one class only, '0'"),
        (["a", "a"], "one class only, 'a'"),
        ([0.5, 1.0], r"d\.csv:2: label 0.5 is not a class"),
        ([0, 10**20], r"d\.csv:3: label 1e\+20 is not a class"),
        ([0, [1]], r"d\.csv:3: a label cannot be of the type list"),
        ([{"a": 0}, 1], r"d\.csv:2: a label cannot be of the type dict"),
        (np.array([0, 1], "datetime64[s]"), r"d\.csv:2: a label cannot be of the type datetime64"),
        (np.array([0, 1j]), r"d\.csv:2: a label cannot be of the type complex128"),
        (["a", "\ud800"], r"d\.csv:3: label '\\ud800' is no text"),
        (np.eye(2), r"labels have the shape \[2, 2\]"),
    ],
)
def test_labels_that_are_no_classes_are_named(labels, message):
    with pytest.raises(InputError, match=message):
        ImageClassification().label_names(table(labels))


def test_labels_outside_of_the_classes_are_named():
    task = ImageClassification()
    with pytest.raises(InputError, match=r"d\.csv:4: label 2 is out of range: there are 2 classes, 0 to 1 \(1 such"):
        task.labels(table([0, 1, 2]), ["a", "b"])
    with pytest.raises(InputError, match=r"d\.csv:3: label 'c' is none of a, b"):
        task.labels(table(["a", "c"]), ["a", "b"])


def test_views_are_the_same_for_a_sample_in_any_batch():
    ids = torch.randint(5, 30000, (6, 16), generator=torch.Generator().manual_seed(0))
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    image = {"pixel_values": torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))}
    order = torch.tensor([3, 1, 5])
    for task, inputs in ((TextClassification(), text), (ImageClassification(), image)):
        assert all((task.augment(inputs, 0)[k] == v).all() for k, v in inputs.items())
        for view in range(1, 6):
            whole = task.augment(inputs, view)
            part = task.augment({k: v[order] for k, v in inputs.items()}, view)
            assert all((whole[k][order] == part[k]).all() for k in inputs)
            assert any((whole[k] != v).any() for k, v in inputs.items())
            assert all(whole[k].shape == v.shape for k, v in inputs.items())


def test_a_text_keeps_its_first_token_and_most_others():
    ids = torch.randint(5, 30000, (50, 64), generator=torch.Generator().manual_seed(0))
    mask = TextClassification().augment({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 1)["attention_mask"]
    assert (mask[:, 0] == 1).all()
    assert 0.85 < mask.float().mean() < 0.95


@given(st.floats(0.5, 20), st.integers(0, 10))
def test_distillation_loss_is_zero_for_equal_answers_and_has_the_gradient_of_hinton(temperature, seed):
    task = ImageClassification()
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    assert task.distillation_loss(teacher, teacher, temperature).abs() < 1e-9
    task.distillation_loss(student, teacher, temperature).backward()
    expected = temperature * ((student / temperature).softmax(1) - (teacher / temperature).softmax(1)) / len(student)
    assert student.grad is not None
    assert torch.allclose(student.grad, expected)


def test_scores_and_slices():
    task = ImageClassification()
    labels = np.array([0, 1, 1])
    assert task.score(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]]), labels).tolist() == [1.0, 1.0, 0.0]
    assert {k: m.tolist() for k, m in task.slices(labels, ["a", "b"]).items()} == {
        "a": [True, False, False],
        "b": [False, True, True],
    }


@pytest.mark.parametrize(
    "settings",
    [{"channels": 2}, {"size": (0, 4)}, {"mean": (0.1, 0.2)}, {"std": (0.0,)}, {"channels": 1, "mean": (0.1,) * 3}],
)
def test_image_settings_that_do_not_fit_are_refused(settings):
    with pytest.raises(InputError):
        ImageClassification(**settings)


@given(st.integers(0, 255), st.integers(0, 8))
def test_ids_tell_samples_apart_by_any_byte(value, position):
    array = np.zeros((2, 3, 3), dtype=np.uint8)
    array[1].ravel()[position] = value
    first, second = sample_ids({"image": array})
    assert (first == second) == (value == 0)
