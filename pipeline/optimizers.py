"""Optimizers and the learning-rate schedule of every training."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from calibration.errors import InputError

# From random weights, and for weights that were trained before; batches of about 128.
LEARNING_RATES: dict[str, tuple[float, float]] = {"adamw": (3e-3, 2e-4), "sgd": (0.1, 0.01), "lamb": (1e-2, 1e-3)}
WEIGHT_DECAYS: dict[str, float] = {"adamw": 0.05, "sgd": 5e-4, "lamb": 0.01}


class Lamb(torch.optim.Optimizer):
    """Layer-wise adaptive moments: Adam whose step is scaled by |weights| / |step| for each tensor.

    You et al. 2020, arXiv:1904.00962, algorithm 2, with bias correction. Tensors without weight decay (biases,
    norms) take the plain Adam step, as in the paper's reference code.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step_one(p, p.grad, group)
        return loss

    def _step_one(self, p: torch.Tensor, grad: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"] = torch.zeros_like(p)
            state["square"] = torch.zeros_like(p)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        n = int(state["step"].item())
        state["mean"].lerp_(grad, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        mean = state["mean"] / (1 - beta1**n)
        square = state["square"] / (1 - beta2**n)
        update = mean / (square.sqrt() + group["eps"])
        trust = 1.0
        if group["weight_decay"]:
            update = update + group["weight_decay"] * p
            weight_norm, update_norm = float(p.norm()), float(update.norm())
            if weight_norm > 0 and update_norm > 0:
                trust = weight_norm / update_norm
        p.add_(update, alpha=-group["lr"] * trust)


def make_optimizer(module: nn.Module, name: str, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimizer over all parameters that train; biases and normalisation weights (one axis) do not decay."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    match name:
        case "adamw":
            return torch.optim.AdamW(groups, lr=learning_rate, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True, fused=True)
        case "lamb":
            return Lamb(groups, lr=learning_rate)
        case _:
            raise InputError(f"optimizer: {name!r} is not known", f"use one of {', '.join(LEARNING_RATES)}")


def warmup_cosine(step: int, steps: int, warmup_share: float) -> float:
    """Share of the full learning rate at a step: a line up over the warm-up, then half a cosine down to 0."""
    warmup = max(1, round(steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))
