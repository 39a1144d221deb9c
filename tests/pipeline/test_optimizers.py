import pytest
import torch
from torch import nn

from calibration.errors import InputError
from pipeline.optimizers import LEARNING_RATES, Lamb, make_optimizer, warmup_cosine


def test_lambs_first_step_is_the_paper_s():
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = Lamb([weight], lr=0.1, weight_decay=0.0)
    optimizer.param_groups[0]["weight_decay"] = 0.5
    weight.grad = torch.tensor([1.0, -2.0])
    optimizer.step()
    # Bias-corrected Adam's first step is the gradient's sign; |weight| is 5.
    update = torch.tensor([1.0, -1.0]) + 0.5 * torch.tensor([3.0, 4.0])
    assert torch.allclose(weight.data, torch.tensor([3.0, 4.0]) - 0.1 * 5 / update.norm() * update, atol=1e-4)


def test_lamb_without_decay_is_adam():
    torch.manual_seed(0)
    a, b = nn.Parameter(torch.randn(7)), nn.Parameter(torch.zeros(7))
    b.data.copy_(a.data)
    lamb, adam = Lamb([a], lr=0.01, weight_decay=0.0), torch.optim.Adam([b], lr=0.01, eps=1e-6)
    for _ in range(5):
        a.grad = torch.randn(7)
        b.grad = a.grad.clone()
        lamb.step()
        adam.step()
    assert torch.allclose(a, b, atol=1e-6)


def test_lamb_s_step_does_not_depend_on_the_gradient_s_size():
    moved = []
    for size in (1.0, 1000.0):
        weight = nn.Parameter(torch.arange(1.0, 5.0))
        optimizer = Lamb([weight], lr=0.1, weight_decay=0.01)
        weight.grad = size * torch.tensor([1.0, 2.0, -1.0, 0.5])
        optimizer.step()
        moved.append(weight.detach().clone())
    assert torch.allclose(*moved, atol=1e-4)


@pytest.mark.parametrize("name", LEARNING_RATES)
def test_every_optimizer_finds_the_minimum(name):
    torch.manual_seed(0)
    module = nn.Linear(4, 3)
    x, target = torch.randn(64, 4), torch.randn(3, 4)
    optimizer = make_optimizer(module, name, {"adamw": 0.05, "sgd": 0.1, "lamb": 0.05}[name], 0.0)
    loss = torch.tensor(torch.inf)
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = group["initial"] = group.get("initial", group["lr"])
            group["lr"] *= warmup_cosine(step, 200, 0.1)
        loss = (module(x) - x @ target.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


def test_biases_and_norms_do_not_decay():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    decayed, kept = make_optimizer(module, "adamw", 0.1, 0.3).param_groups
    assert [p.ndim for p in decayed["params"]] == [4]
    assert len(kept["params"]) == 3
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)


def test_an_optimizer_that_is_not_known_is_refused():
    with pytest.raises(InputError, match="'adam'"):
        make_optimizer(nn.Linear(1, 1), "adam", 0.1, 0.0)


def test_the_learning_rate_rises_then_falls_to_nothing():
    rates = [warmup_cosine(step, 100, 0.1) for step in range(101)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == 1.0 == rates[9]
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.0)
    assert all(0 <= rate <= 1 for rate in rates)
