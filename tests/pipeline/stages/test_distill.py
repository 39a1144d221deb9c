import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calibration.errors import InputError
from pipeline.model import ModelRecord
from pipeline.stages.distill import Distill

STAGE = Distill(epochs=4, batch_size=32)


def test_the_student_is_trained_and_its_record_says_how(make_work, task, data, teacher, logits, student):
    seen: list[tuple[float, str]] = []
    work = make_work("distill", lambda fraction, text: seen.append((fraction, text)))
    STAGE(work, task=task, data=data, logits=logits, model=student)
    record = ModelRecord.load(work.out)
    assert record.trained
    assert (record.macs, record.parameters) == (ModelRecord.load(student).macs, ModelRecord.load(student).parameters)
    (history,) = record.history
    assert history["stage"] == "distill"
    assert history["settings"]["learning_rate"] == 3e-3
    assert max(e["validation"] for e in history["epochs"]) > 0.85
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert "loss" in seen[0][1]
    assert "accuracy" in seen[-1][1]


@pytest.mark.parametrize("optimizer", ["sgd", "lamb"])
def test_the_other_optimizers_learn_too(make_work, task, data, teacher, logits, student, optimizer):
    work = make_work("distill")
    stage = Distill(epochs=6, batch_size=16, optimizer=optimizer)
    stage(work, task=task, data=data, logits=logits, model=student)
    assert max(e["validation"] for e in ModelRecord.load(work.out).history[0]["epochs"]) > 0.85


CHILD = """
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from pipeline.stage import Work
from pipeline.stages.distill import Distill
from pipeline.tasks.image_classification import ImageClassification

torch.set_num_threads(1)
out, scratch, recipe, data, teacher, logits, student = map(Path, sys.argv[1:])
work = Work(out, scratch, recipe, nullcontext, lambda fraction, text: print(text, flush=True))
Distill(epochs=4, batch_size=32)(
    work, task=ImageClassification(), data=data, logits=logits, model=student
)
"""


def run(tmp_path: Path, name: str, folders: list[Path], repository: Path, kill_at: str = "") -> list[str]:
    """The lines of a distillation in a process of its own, killed as soon as one begins with `kill_at`."""
    out, scratch = tmp_path / f"{name}-{time.monotonic_ns()}", tmp_path / f"{name}-scratch"
    out.mkdir()
    scratch.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(repository)}
    arguments = [sys.executable, "-c", CHILD, str(out), str(scratch), *map(str, folders)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as child:
        lines: list[str] = []
        for line in child.stdout or ():
            lines.append(line)
            if kill_at and line.startswith(kill_at):
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == (-signal.SIGKILL if kill_at else 0)
    if not kill_at:
        (tmp_path / f"{name}.weights").write_bytes((out / "weights.safetensors").read_bytes())
    return lines


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(
    tmp_path, repository, recipe_folder, data, teacher, logits, student
):
    folders = [recipe_folder, data, teacher, logits, student]
    run(tmp_path, "whole", folders, repository)
    run(tmp_path, "killed", folders, repository, kill_at="epoch 3/4, loss")
    lines = run(tmp_path, "killed", folders, repository)
    assert lines[0].startswith("epoch 3/4")
    assert (tmp_path / "killed.weights").read_bytes() == (tmp_path / "whole.weights").read_bytes()


@pytest.mark.parametrize(
    "setting",
    [
        {"epochs": 0},
        {"temperature": 0.0},
        {"label_weight": 1.5},
        {"learning_rate": -1.0},
        {"batch_size": 0},
        {"warmup_share": -0.1},
        {"patience": 0},
        {"clip_norm": float("inf")},
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        Distill(**setting)
