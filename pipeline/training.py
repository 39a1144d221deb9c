"""The one training loop: distillation, recovery after pruning, and a teacher's own training."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from calibration.errors import InputError
from pipeline.checkpoint import read_checkpoint, write_checkpoint
from pipeline.model import run_model
from pipeline.optimizers import LEARNING_RATES, WEIGHT_DECAYS, make_optimizer, warmup_cosine
from pipeline.samples import Samples, channels_last
from pipeline.task import Task
from pipeline.training_settings import TrainingSettings

Progress = Callable[[float, str], None]


@dataclass
class _State:
    """What a checkpoint holds besides the module and optimizer: where the training stands."""

    epoch: int
    best_epoch: int
    best_score: float
    best: dict[str, torch.Tensor]
    log: list[dict[str, float]]


def train(
    module: nn.Module,
    task: Task,
    samples: Samples,
    validation: Samples,
    settings: TrainingSettings,
    *,
    teacher: Sequence[np.ndarray] = (),
    trained: bool = False,
    scratch: Path | None = None,
    progress: Progress = lambda _fraction, _text: None,
) -> dict[str, Any]:
    """Trains a module in place and leaves the weights of its best epoch in it; returns what was done, for model.json.

    teacher: logits [n, classes] of each augmented view of the samples; without any the labels alone are learnt.
    trained: the weights were trained before, so the default learning rate is a smaller one.
    scratch: holds a checkpoint after each epoch; a later call with the same arguments goes on from it and ends with
        the same weights as a call that was never interrupted.
    Raises InputError where the loss stops being a number.
    """
    if len(samples) == 0 or len(validation) == 0:
        raise InputError("training needs samples in both train and validation", "give more data, or larger shares")
    bfloat16 = computes_in_bfloat16(settings.precision)
    learning_rate = settings.learning_rate or LEARNING_RATES[settings.optimizer][1 if trained else 0]
    decay = WEIGHT_DECAYS[settings.optimizer] if settings.weight_decay is None else settings.weight_decay
    module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = make_optimizer(module, settings.optimizer, learning_rate, decay)
    state = _resume(module, optimizer, scratch) or _State(0, 0, -np.inf, {}, [])
    sign = 1.0 if task.higher_is_better else -1.0
    with torch.random.fork_rng(devices=[]):
        while state.epoch < settings.epochs and not _out_of_patience(state, settings):
            loss = _epoch(module, task, samples, settings, optimizer, teacher, state, learning_rate, bfloat16, progress)
            score = evaluate(module, task, validation)
            state.epoch += 1
            state.log.append({"loss": loss, "validation": score})
            if sign * score > state.best_score:
                state.best_score, state.best_epoch = sign * score, state.epoch
                state.best = {k: v.detach().clone() for k, v in module.state_dict().items()}
            _checkpoint(module, optimizer, state, scratch)
            progress(state.epoch / settings.epochs, f"epoch {state.epoch}/{settings.epochs}, {_standing(state, task)}")
    module.load_state_dict(state.best)
    module.eval()
    return {
        "settings": asdict(settings) | {"learning_rate": learning_rate, "weight_decay": decay},
        "precision": "bfloat16" if bfloat16 else "float32",
        "threads": torch.get_num_threads(),
        "best_epoch": state.best_epoch,
        "epochs": state.log,
    }


def evaluate(module: nn.Module, task: Task, samples: Samples) -> float:
    """The task's metric over the samples, in float32."""
    outputs = predict(module, samples)
    return float(task.score(outputs, samples.labels.numpy()).mean())


def predict(
    module: nn.Module,
    samples: Samples,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = dict,
    progress: Callable[[int], None] = lambda _done: None,
    *,
    bfloat16: bool = False,
) -> np.ndarray:
    """Logits [n, classes] float32 of every sample, after `change` of its inputs. Progress in samples done."""
    module.eval()
    found: list[torch.Tensor] = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        for index, inputs in samples.batches(128):
            found.append(run_model(module, channels_last(change(inputs))).float())
            progress(int(index[-1]) + 1)
    return torch.cat(found).numpy()


def computes_in_bfloat16(precision: str) -> bool:
    """Whether "auto" means bfloat16 here. Raises InputError for a word that is no precision."""
    if precision not in ("auto", "float32", "bfloat16"):
        raise InputError(f"precision: {precision!r} is not known", "use auto, float32 or bfloat16")
    has = torch.cpu.get_capabilities()
    return precision == "bfloat16" or (precision == "auto" and bool(has.get("avx512_bf16") or has.get("amx_bf16")))


def _epoch(
    module: nn.Module,
    task: Task,
    samples: Samples,
    settings: TrainingSettings,
    optimizer: torch.optim.Optimizer,
    teacher: Sequence[np.ndarray],
    state: _State,
    learning_rate: float,
    bfloat16: bool,
    progress: Progress,
) -> float:
    """One pass over the samples in an order that seed and epoch alone decide; returns the mean loss."""
    batch = min(settings.batch_size, len(samples))
    steps = len(samples) // batch
    torch.manual_seed(settings.seed * 1_000_003 + state.epoch)
    order = torch.randperm(len(samples))
    total = 0.0
    module.train()
    for step in range(steps):
        done = state.epoch * steps + step
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * warmup_cosine(done, settings.epochs * steps, settings.warmup_share)
        index = order[step * batch : (step + 1) * batch]
        loss = batch_loss(module, task, samples, settings, teacher, index, state.epoch, bfloat16)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), settings.clip_norm)
        optimizer.step()
        total += loss.item()
        if not np.isfinite(total):
            raise InputError(
                f"training diverged: the loss is {loss.item()} in epoch {state.epoch + 1}, step {step + 1}",
                f"lower learning_rate (it was {learning_rate:g})",
            )
        if step % 20 == 0:
            text = f"epoch {state.epoch + 1}/{settings.epochs}, loss {total / (step + 1):.3f}"
            progress(done / (settings.epochs * steps), ", ".join(filter(None, [text, _standing(state, task)])))
    return total / steps


def batch_loss(
    module: nn.Module,
    task: Task,
    samples: Samples,
    settings: TrainingSettings,
    teacher: Sequence[np.ndarray],
    index: torch.Tensor,
    epoch: int,
    bfloat16: bool,
) -> torch.Tensor:
    """Of one batch. Each sample shows another of its views each epoch, and meets the teacher's answer to that view."""
    views = max(1, len(teacher))
    view_of = (index + epoch) % views
    parts = [(view, index[view_of == view]) for view in range(views)]
    parts = [(view, part) for view, part in parts if len(part)]
    changed = [task.augment(samples.batch(part), view) for view, part in parts]
    inputs = channels_last({name: torch.cat([c[name] for c in changed]) for name in changed[0]})
    labels = torch.cat([samples.labels[part] for _, part in parts])
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        outputs = run_model(module, inputs)
    outputs = outputs.float()
    if not teacher:
        return task.loss(outputs, labels)
    answers = torch.cat([torch.from_numpy(teacher[view][part.numpy()]) for view, part in parts])
    loss = (1 - settings.label_weight) * task.distillation_loss(outputs, answers, settings.temperature)
    return loss + settings.label_weight * task.loss(outputs, labels) if settings.label_weight else loss


def _standing(state: _State, task: Task) -> str:
    if not state.log:
        return ""
    return f"validation {task.metric} {state.log[-1]['validation']:.4f}"


def _out_of_patience(state: _State, settings: TrainingSettings) -> bool:
    return settings.patience is not None and state.epoch - state.best_epoch >= settings.patience > 0


def _checkpoint(module: nn.Module, optimizer: torch.optim.Optimizer, state: _State, scratch: Path | None) -> None:
    if scratch is not None:
        weights = {"module": module.state_dict(), "optimizer": optimizer.state_dict()}
        write_checkpoint(scratch, weights | asdict(state))


def _resume(module: nn.Module, optimizer: torch.optim.Optimizer, scratch: Path | None) -> _State | None:
    saved = None if scratch is None else read_checkpoint(scratch)
    if saved is None:
        return None
    module.load_state_dict(saved.pop("module"))
    optimizer.load_state_dict(saved.pop("optimizer"))
    return _State(**saved)
