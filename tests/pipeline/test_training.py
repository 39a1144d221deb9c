from dataclasses import replace

import numpy as np
import pytest
import torch

from calibration.errors import InputError
from pipeline.data import load_split
from pipeline.model import fresh_model
from pipeline.samples import Samples
from pipeline.stages.distill import Distill
from pipeline.training import batch_loss, computes_in_bfloat16, evaluate, predict, train

SETTINGS = Distill(epochs=2, batch_size=32, precision="float32")


@pytest.fixture(scope="module")
def splits(task, data):
    settings = task.preprocessing(data)
    return [Samples(load_split(data, name), settings) for name in ("train", "validation")]


@pytest.fixture
def module(recipe_folder):
    return fresh_model({"factory": "nets.py:student"}, recipe_folder, recipe_folder)


def state(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_it_learns_what_the_labels_say(task, splits, module):
    before = evaluate(module, task, splits[1])
    report = train(module, task, *splits, replace(SETTINGS, epochs=4))
    assert evaluate(module, task, splits[1]) > max(0.9, before)
    assert report["epochs"][-1]["loss"] < report["epochs"][0]["loss"]
    assert report["threads"] == torch.get_num_threads()
    assert report["precision"] == "float32"


def test_it_learns_the_teachers_answers_without_labels(task, splits, module, recipe_folder, teacher):
    from pipeline.model import load_model

    answers = predict(load_model(teacher, recipe_folder), splits[0])
    train(module, task, *splits, replace(SETTINGS, epochs=4, label_weight=0.0), teacher=[answers])
    agreement = (predict(module, splits[0]).argmax(1) == answers.argmax(1)).mean()
    assert agreement > 0.9


def test_the_same_settings_give_the_same_weights_and_another_seed_others(task, splits, recipe_folder):
    states = []
    for seed in (0, 0, 1):
        module = fresh_model({"factory": "nets.py:student"}, recipe_folder, recipe_folder)
        train(module, task, *splits, replace(SETTINGS, epochs=1, seed=seed))
        states.append(state(module))
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def test_a_run_that_stopped_goes_on_as_if_it_had_not(task, splits, recipe_folder, tmp_path):
    def run(scratch, stop_after=None):
        module = fresh_model({"factory": "nets.py:student"}, recipe_folder, recipe_folder)
        seen = []

        def progress(fraction, text):
            seen.append(text)
            if stop_after and text.startswith(f"epoch {stop_after + 1}/") and (scratch / "epoch.pt").exists():
                raise KeyboardInterrupt

        scratch.mkdir(exist_ok=True)
        train(module, task, *splits, replace(SETTINGS, epochs=3), scratch=scratch, progress=progress)
        return state(module), seen

    whole, _ = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop_after=1)
    resumed, seen = run(tmp_path / "stopped")
    assert same(whole, resumed)
    assert not any(text.startswith("epoch 1/") for text in seen)


def test_the_best_epoch_is_kept_and_patience_ends_it(task, splits, module):
    settings = replace(SETTINGS, epochs=12, patience=2)
    report = train(module, task, *splits, settings)
    scores = [epoch["validation"] for epoch in report["epochs"]]
    assert report["best_epoch"] == int(np.argmax(scores)) + 1
    assert len(scores) == min(12, report["best_epoch"] + 2)
    assert evaluate(module, task, splits[1]) == max(scores)


def test_each_view_is_met_with_its_own_answer(task, splits, module):
    """The loss of teachers whose answers are the module's own is 0 only if views and answers go together."""
    module.head.weight.data *= 30
    views = [predict(module, splits[0], lambda x, v=v: task.augment(x, v)) for v in range(3)]
    settings = replace(SETTINGS, label_weight=0.0)
    index = torch.randperm(len(splits[0]))[:20]
    for epoch in range(3):
        loss = batch_loss(module.eval(), task, splits[0], settings, views, index, epoch, False)
        assert loss.item() == pytest.approx(0.0, abs=1e-4)
    wrong = batch_loss(module, task, splits[0], settings, views[::-1], index, 0, False)
    assert wrong.item() > 1e-3


def test_a_loss_that_is_no_number_is_refused(task, splits, module):
    with pytest.raises(InputError, match="training diverged") as error:
        train(module, task, *splits, replace(SETTINGS, optimizer="sgd", learning_rate=1e30, clip_norm=1e30))
    assert "1e+30" in error.value.next_step


def test_the_caller_s_random_numbers_stay_as_they_were(task, splits, module):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(module, task, *splits, replace(SETTINGS, epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_inputs_are_the_same_held_or_not(task, data):
    split, settings = load_split(data, "train"), task.preprocessing(data)
    index = torch.tensor([5, 0, 200])
    held, unheld = Samples(split, settings).batch(index), Samples(split, settings, held_bytes=0).batch(index)
    assert torch.equal(held["pixel_values"], unheld["pixel_values"])
    assert [len(i) for i, _ in Samples(split, settings).batches(100)] == [100, 100, 56]


def test_a_precision_that_is_none_is_refused():
    assert not computes_in_bfloat16("float32")
    assert computes_in_bfloat16("bfloat16")
    with pytest.raises(InputError, match="'half'"):
        computes_in_bfloat16("half")
