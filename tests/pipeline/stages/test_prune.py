from dataclasses import replace

import pytest
import torch

from calibration.errors import InputError
from pipeline.data import load_split
from pipeline.model import ModelRecord, count_macs, example_inputs, load_model
from pipeline.samples import Samples
from pipeline.stages.prune import Prune
from pipeline.training import evaluate


def test_the_model_is_smaller_in_fact_and_still_right(make_work, task, data, recipe_folder, teacher, logits):
    work = make_work("prune")
    Prune(macs=0.6, round_to=2, epochs=2, batch_size=32)(work, task=task, data=data, logits=logits, model=teacher)
    before, after = ModelRecord.load(teacher), ModelRecord.load(work.out)
    module = load_model(work.out, recipe_folder)
    assert 0.55 < after.macs / before.macs <= 0.6
    assert after.macs == count_macs(module, example_inputs(after))
    assert after.parameters == sum(p.numel() for p in module.parameters()) < before.parameters
    assert (work.out / "weights.safetensors").stat().st_size < (teacher / "weights.safetensors").stat().st_size
    assert after.edits[-1]["kind"] == "channels"
    validation = Samples(load_split(data, "validation"), task.preprocessing(data))
    assert evaluate(module, task, validation) >= evaluate(load_model(teacher, recipe_folder), task, validation) - 0.1


def test_a_pruned_model_can_be_pruned_again(make_work, task, data, recipe_folder, teacher, logits):
    once, twice = make_work("once"), make_work("twice")
    stage = Prune(macs=0.7, round_to=2, epochs=0)
    stage(once, task=task, data=data, logits=logits, model=teacher)
    stage(twice, task=task, data=data, logits=logits, model=once.out)
    record = ModelRecord.load(twice.out)
    assert len(record.edits) == 2
    assert record.history == ()
    assert record.macs <= 0.49 * ModelRecord.load(teacher).macs
    assert load_model(twice.out, recipe_folder)(torch.zeros(2, 1, 12, 12)).shape == (2, 3)


def test_a_run_stopped_in_its_recovery_keeps_its_cut(make_work, task, data, teacher, logits):
    def stop(_fraction, text):
        if text.startswith("epoch 2/"):
            raise KeyboardInterrupt

    stage = Prune(macs=0.6, round_to=4, epochs=3, batch_size=32)
    roles = {"task": task, "data": data, "logits": logits, "model": teacher}
    whole, stopped = make_work("whole"), make_work("stopped", stop)
    stage(whole, **roles)
    with pytest.raises(KeyboardInterrupt):
        stage(stopped, **roles)
    seen: list[str] = []
    resumed = replace(make_work("resumed", lambda _, text: seen.append(text)), scratch=stopped.scratch)
    stage(resumed, **roles)
    assert seen[0].startswith("epoch 2/3")
    weights = "weights.safetensors"
    assert (resumed.out / weights).read_bytes() == (whole.out / weights).read_bytes()


@pytest.mark.parametrize(
    "setting", [{"macs": 0.0}, {"macs": 1.0}, {"round_to": 0}, {"epochs": -1}, {"temperature": 0.0}]
)
def test_settings_that_make_no_sense_are_refused_by_name(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        Prune(**setting)


def test_a_share_that_cannot_be_reached_is_refused(make_work, task, data, teacher, logits):
    with pytest.raises(InputError, match=r"macs: 0.01 cannot be reached; 0.\d\d is the least"):
        Prune(macs=0.01)(make_work("prune"), task=task, data=data, logits=logits, model=teacher)
