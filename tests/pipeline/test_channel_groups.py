"""Laws: a cut model runs, its outputs keep their shape, it is smaller in fact, and its edits and weights rebuild it."""

import copy
import warnings

import pytest
import torch
from torch import nn

from calibration.errors import InputError
from pipeline.channel_groups import cut, find_groups
from pipeline.edits import apply_edit, channels_edit, structure
from pipeline.model import count_macs, count_parameters, run_model
from pipeline.pruning import Costs, choose, taylor_importance


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.inner = nn.Sequential(nn.Conv2d(32, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.Conv2d(48, 32, 1))
        self.down = nn.Conv2d(32, 64, 3, 2)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.down(torch.relu(x + self.inner(x)))).mean((2, 3)))


def depthwise():
    def block(a, b):
        return [
            nn.Conv2d(a, a, 3, 1, 1, groups=a),
            nn.BatchNorm2d(a),
            nn.ReLU6(),
            nn.Conv2d(a, b, 1),
            nn.BatchNorm2d(b),
        ]

    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1),
        *block(32, 48),
        *block(48, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 5),
    )


def plain():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Linear(32 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 5),
    )


class Dense(nn.Module):
    """Concatenates what its layers give, with a tail that returns channels as they are."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 32, 3, padding=1)
        self.b = nn.Conv2d(32, 32, 3, padding=1)
        self.c = nn.Conv2d(64, 5, 1)

    def forward(self, x):
        a = torch.relu(self.a(x))
        return self.c(torch.cat([a, torch.relu(self.b(a))], 1)).mean((2, 3))


class Fused(nn.Module):
    """Attention in a user's own code: one projection for queries, keys and values, heads by reshaping."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 64, 4, 4)
        self.norm = nn.LayerNorm(64)
        self.qkv = nn.Linear(64, 192)
        self.out = nn.Linear(64, 64)
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        n, length, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, length, 3, 4, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, -1))
        x = x + self.down(nn.functional.gelu(self.up(x)))
        return self.head(x.mean(1))


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return BertForSequenceClassification(BertConfig(vocab_size=50, max_position_embeddings=16, num_labels=5, **sizes))


def distilbert():
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    sizes = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}
    config = DistilBertConfig(vocab_size=50, max_position_embeddings=16, num_labels=5, **sizes)
    return DistilBertForSequenceClassification(config)


def vit():
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, num_labels=5, **sizes))


PIXELS = {"pixel_values": torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
TOKENS = {
    "input_ids": torch.randint(1, 50, (4, 12), generator=torch.Generator().manual_seed(0)),
    "attention_mask": torch.ones(4, 12, dtype=torch.int64),
}
MODELS = {
    "residual": (Residual, PIXELS, 0.06),
    "depthwise": (depthwise, PIXELS, 0.06),
    "plain": (plain, PIXELS, 0.06),
    "dense": (Dense, PIXELS, 0.06),
    "fused": (Fused, PIXELS, 0.06),
    "bert": (bert, TOKENS, 0.06),
    "distilbert": (distilbert, TOKENS, 0.06),
    "vit": (vit, PIXELS, 0.06),
}


def made(name):
    torch.manual_seed(1)
    make, inputs, slack = MODELS[name]
    module = make().train()
    if inputs is PIXELS:  # norms whose statistics are not those of a fresh model
        with torch.no_grad():
            for _ in range(3):
                run_model(module, {k: v * 2 + 1 for k, v in inputs.items()})
    return module.eval(), inputs, slack


def pruned(module, inputs, kept, round_to=8):
    groups = find_groups(module, inputs, round_to)

    def loss():
        return run_model(module, inputs).square().mean()

    cuts = choose(Costs(module, inputs, groups), taylor_importance(module, inputs, groups, [loss]), kept)
    before = structure(module)
    cut(module, inputs, groups, cuts)
    return channels_edit(before, structure(module))


def one(inputs):
    return {k: v[:1] for k, v in inputs.items()}


@pytest.mark.parametrize(("name", "kept"), [*((name, 0.6) for name in MODELS), ("residual", 0.9), ("fused", 0.75)])
def test_a_pruned_model_has_the_share_that_was_asked_for_and_is_rebuilt(name, kept):
    module, inputs, slack = made(name)
    fresh, macs, parameters = copy.deepcopy(module), count_macs(module, one(inputs)), count_parameters(module)
    if name == "fused" and kept == 0.6:
        with pytest.raises(InputError, match="is the least that is left"):  # half of it is in attention of its own
            pruned(module, inputs, kept)
        return
    edit = pruned(module, inputs, kept, round_to=4)
    share = count_macs(module, one(inputs)) / macs
    assert kept - slack <= share <= kept
    assert count_parameters(module) < parameters
    apply_edit(fresh, edit)
    fresh.load_state_dict(module.state_dict())
    with torch.no_grad():
        assert torch.equal(run_model(fresh, inputs), run_model(module, inputs))
        assert run_model(fresh, inputs).shape == (4, 5)


@pytest.mark.parametrize("name", ["bert", "distilbert", "vit"])
def test_whole_heads_go_and_the_width_of_the_stream_stays(name):
    module, inputs, _ = made(name)
    groups = find_groups(module, inputs, 8)
    assert {g.chunk for g in groups if g.attention} == {16}
    assert len([g for g in groups if g.attention]) == 2
    before = structure(module)
    cut(module, inputs, groups, {i: range(32) for i, g in enumerate(groups) if g.attention})
    assert {tuple(n.weight.shape) for n in module.modules() if isinstance(n, nn.LayerNorm)} == {(64,)}
    edit = channels_edit(before, structure(module))
    assert all(module.get_submodule(g.attention).__dict__[g.heads] == 2 for g in groups if g.attention)
    assert all(g.attention in edit["modules"] for g in groups if g.attention)


def test_channels_that_are_normalised_over_or_returned_are_not_cut():
    module = nn.Sequential(nn.Conv2d(3, 32, 3), nn.GroupNorm(1, 32), nn.ReLU(), nn.Conv2d(32, 16, 3), nn.Flatten())
    with pytest.raises(InputError, match="nothing in this model can be cut"):
        find_groups(module, PIXELS, 8)


def test_widths_are_multiples():
    module, inputs, _ = made("plain")
    pruned(module, inputs, 0.6, round_to=4)
    assert all(layer.out_channels % 4 == 0 for layer in module if isinstance(layer, nn.Conv2d))


def test_unimportant_channels_go_first():
    module, inputs, _ = made("plain")
    dead = [1, 5, 9, 13, 17, 21, 25, 29]
    with torch.no_grad():
        module[3].weight[:, dead] = 0
        expected = module(inputs["pixel_values"])
    groups = [g for g in find_groups(module, inputs, 8) if g.root == "0"]
    importance = taylor_importance(module, inputs, groups, [lambda: module(inputs["pixel_values"]).square().mean()])
    cuts = choose(Costs(module, inputs, groups), importance, 0.99)
    assert sorted(cuts[0]) == dead
    cut(module, inputs, groups, cuts)
    with torch.no_grad(), warnings.catch_warnings():
        assert torch.allclose(module(inputs["pixel_values"]), expected, atol=1e-5)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(8, 32, 3)
        self.cells = nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        return self.head(self.cells(self.stem(x).transpose(1, 2))[0][:, -1])


def test_a_recurrent_model_is_refused():
    with pytest.raises(InputError, match="the model's channels cannot be followed"):
        find_groups(Recurrent(), {"x": torch.randn(2, 8, 20)}, 8)
