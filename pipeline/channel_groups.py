"""Which channels, heads and hidden units of a model can be cut, and the cut itself.

Coupled channels come from Torch-Pruning's dependency graph (Fang et al. 2023, arXiv:2301.12900). A group of them counts
only where a trial shows that cutting is the same as masking: so whatever an architecture does with its channels
(normalises over them, reshapes them, returns them), a cut never changes more than was meant.
"""

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]

from calibration.errors import InputError
from pipeline.model import run_model

Inputs = Mapping[str, torch.Tensor]
# How attention modules name their number of heads.
HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "heads")
# What torch-pruning, and a model that was cut where it cannot be, raise.
CUT_ERRORS = (RuntimeError, ValueError, IndexError, AttributeError, KeyError, TypeError, AssertionError)


@dataclass(frozen=True)
class Group:
    """Channels that can only be cut together across several layers.

    root: name of the layer whose output channels number them; width: how many there are.
    chunk: how many are cut at a time: a head's width, or the multiple that widths are rounded to.
    attention: the module whose number of heads follows, and `heads` its attribute; else "".
    """

    root: str
    width: int
    chunk: int
    attention: str = ""
    heads: str = ""


@dataclass(frozen=True)
class Member:
    """A layer that a group's channels are part of: `channels` of its inputs, or of its outputs."""

    name: str
    layer: nn.Module
    is_input: bool
    channels: list[int]


class ChannelGraph:
    """The dependency graph of one module: what hangs together when channels go.

    Raises InputError where the module cannot be traced.
    """

    def __init__(self, module: nn.Module, inputs: Inputs) -> None:
        import torch_pruning as tp

        # It reports parameters outside of layers, and recursion, both of which it handles.
        warnings.filterwarnings("ignore", module="torch_pruning")
        self.module = module.eval()
        self._names = {part: name for name, part in module.named_modules()}
        try:
            run: Any = run_model
            self._graph: Any = tp.DependencyGraph().build_dependency(
                module, example_inputs=dict(inputs), forward_fn=run
            )
        except CUT_ERRORS as error:
            raise InputError(f"prune: the model cannot be traced: {error}", "leave prune out") from error

    def all_members(self) -> Iterable[list[Member]]:
        """Every group with all of its channels, its root first. Raises InputError where it cannot be told what hangs
        together, as behind a recurrent layer.
        """
        try:
            return [self._members(group) for group in self._graph.get_all_groups()]
        except CUT_ERRORS as error:
            raise InputError(f"prune: the model's channels cannot be followed: {error}", "leave prune out") from error

    def members(self, root: str, channels: Iterable[int]) -> list[Member]:
        """The layers that some output channels of a layer reach."""
        return self._members(self.group(root, channels))

    def group(self, root: str, channels: Iterable[int]) -> Any:
        """Torch-Pruning's own group of some output channels of a layer."""
        layer = self.module.get_submodule(root)
        prune = self._graph.get_pruner_of_module(layer).prune_out_channels
        return self._graph.get_pruning_group(layer, prune, list(channels))

    def _members(self, group: Any) -> list[Member]:
        found: list[Member] = []
        for dep, channels in group:
            layer = dep.target.module
            if isinstance(layer, nn.Module) and layer in self._names:
                # A depthwise convolution's channels are inputs and outputs at once: they count as outputs.
                is_input = self._graph.is_in_channel_pruning_fn(dep.handler) and not is_depthwise(layer)
                found.append(Member(self._names[layer], layer, is_input, list(channels)))
        return found


def find_groups(module: nn.Module, inputs: Inputs, round_to: int) -> list[Group]:
    """The groups that can be cut soundly. `inputs` hold a few real samples.

    Raises InputError where the model cannot be traced or nothing in it can be cut.
    """
    options = [
        o for members in ChannelGraph(module, inputs).all_members() if (o := _options(module, members, round_to))
    ]
    groups = [o[0] for o in options]
    if groups and not _is_sound(module, inputs, groups):
        sound = [next((g for g in o if _is_sound(module, inputs, [g])), None) for o in options]
        groups = [g for g in sound if g is not None]
    if not groups:
        raise InputError(
            f"prune: nothing in this model can be cut in steps of {round_to} channels without changing its meaning",
            "leave prune out, or lower round_to",
        )
    return groups


def cut(module: nn.Module, inputs: Inputs, groups: Sequence[Group], channels: Mapping[int, Sequence[int]]) -> None:
    """Removes channels (group's position -> their indices) from the module, in place."""
    graph = ChannelGraph(module, inputs)
    for position, indices in channels.items():
        group = groups[position]
        graph.group(group.root, sorted(indices)).prune(record_history=False)
        if group.attention:
            _narrow(module.get_submodule(group.attention), group, len(indices))
    module.zero_grad()


def is_depthwise(layer: nn.Module) -> bool:
    """Whether the layer is a convolution of each channel by itself."""
    return isinstance(layer, _ConvNd) and layer.groups == layer.out_channels > 1


def _options(module: nn.Module, members: list[Member], round_to: int) -> list[Group]:
    """How a group may be cut, the likelier first: by heads, then by single channels."""
    root, width = members[0].name, len(members[0].channels)
    if any(isinstance(m.layer, _ConvNd) and m.layer.groups > 1 and not is_depthwise(m.layer) for m in members):
        return []  # such a convolution needs as many channels in each of its own groups
    options: list[Group] = []
    owners = {m.name.rpartition(".")[0] for m in members if isinstance(m.layer, nn.Linear) and not m.is_input}
    for owner in sorted(filter(None, owners)):
        for attribute in HEADS:
            heads = getattr(module.get_submodule(owner), attribute, None)
            if isinstance(heads, int) and heads > 1 and width % heads == 0:
                options.append(Group(root, width, width // heads, owner, attribute))
    return [*options, Group(root, width, round_to)] if width > round_to else options


def _narrow(attention: nn.Module, group: Group, channels: int) -> None:
    """Lets an attention module know of its fewer heads, and of the width of all of them wherever it keeps it."""
    setattr(attention, group.heads, getattr(attention, group.heads) - channels // group.chunk)
    for name, value in list(vars(attention).items()):
        if name != group.heads and isinstance(value, int) and value == group.width:
            setattr(attention, name, group.width - channels)


def _is_sound(module: nn.Module, inputs: Inputs, groups: Sequence[Group]) -> bool:
    """Whether cutting a chunk of each group gives the answers of the whole model with those channels masked."""
    masked, smaller = copy.deepcopy(module).eval(), copy.deepcopy(module).eval()
    cuts = {i: list(range(g.chunk)) for i, g in enumerate(groups)}
    graph = ChannelGraph(masked, inputs)
    with torch.no_grad():
        for i, group in enumerate(groups):
            for member in graph.members(group.root, cuts[i]):
                if member.is_input and isinstance(member.layer, nn.Linear | _ConvNd):
                    weight = member.layer.weight
                    (weight if getattr(member.layer, "transposed", False) else weight.transpose(0, 1))[
                        member.channels
                    ] = 0
    try:
        cut(smaller, inputs, groups, cuts)
        with torch.no_grad():
            expected, found = run_model(masked, inputs), run_model(smaller, inputs)
    except CUT_ERRORS:
        return False
    return expected.shape == found.shape and torch.allclose(expected, found, atol=1e-4, rtol=1e-3)
