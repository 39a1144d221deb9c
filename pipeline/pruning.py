"""Structured pruning: which groups of channels to cut, so that a share of the multiply-accumulates stays."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]

from calibration.errors import InputError
from pipeline.channel_groups import ChannelGraph, Group, Inputs, Member
from pipeline.model import macs_by_module

# Of each group at least this share stays: a layer cut to almost nothing does not recover.
SMALLEST_SHARE = 0.2
# How far below the share that was asked for is near enough.
CLOSE = 0.02


@dataclass(frozen=True)
class Chunk:
    """Channels of a group (its position) that go together; importance: the estimated rise of the loss without them."""

    group: int
    channels: tuple[int, ...]
    importance: float


def choose(costs: "Costs", importance: Sequence[torch.Tensor], kept: float) -> dict[int, list[int]]:
    """What to cut (group's position -> channels) so that at most the share `kept` of the multiply-accumulates stays.

    importance: per group, [width]. Chunks go in order of importance per multiply-accumulate saved; then the most
    important that still fit come back, and where the share is missed by far, one comes back for another that goes.
    Raises InputError where so few cannot be reached.
    """
    waiting = [_chunks(i, g, importance[i]) for i, g in enumerate(costs.groups)]
    gone: list[list[Chunk]] = [[] for _ in costs.groups]
    limit = kept * costs.total(gone)
    while (now := costs.total(gone)) > limit:
        firsts = [chunks[0] for chunks in waiting if chunks]
        if not firsts:
            raise InputError(
                f"prune: macs: {kept:g} cannot be reached; {now * kept / limit:.2f} is the least that is left",
                "raise macs, or lower round_to",
            )
        chunk = min(firsts, key=lambda c: c.importance / max(1.0, now - costs.total(_with(gone, c))))
        gone[chunk.group].append(waiting[chunk.group].pop(0))
    while back := [c for c in _lasts(gone) if costs.total(_without(gone, c)) <= limit]:
        gone = _without(gone, max(back, key=lambda c: c.importance))
    while (now := costs.total(gone)) < (1 - CLOSE) * limit:
        nexts = [
            next((c for c in _chunks(i, g, importance[i]) if c not in gone[i]), None)
            for i, g in enumerate(costs.groups)
        ]
        swaps = [
            _with(_without(gone, c), n) for c in _lasts(gone) for n in nexts if n is not None and n.group != c.group
        ]
        closer = [s for s in swaps if now < costs.total(s) <= limit]
        if not closer:
            break
        gone = max(closer, key=costs.total)
    return {i: [c for chunk in chunks for c in chunk.channels] for i, chunks in enumerate(gone) if chunks}


def taylor_importance(
    module: nn.Module, inputs: Inputs, groups: Sequence[Group], losses: Iterable[Callable[[], torch.Tensor]]
) -> list[torch.Tensor]:
    """Per group, [width]: the first-order Taylor estimate of the loss without each channel (Molchanov et al. 2019,
    arXiv:1906.10771), summed over the layers of the group and over the batches, whose losses the callables compute.
    """
    from torch_pruning.pruner.importance import GroupTaylorImportance

    score: Any = GroupTaylorImportance("sum", normalizer=None, multivariable=True)  # pyright: ignore[reportArgumentType]
    graph = ChannelGraph(module, inputs)
    members = [graph.group(g.root, range(g.width)) for g in groups]
    found = [torch.zeros(g.width) for g in groups]
    for loss in losses:
        module.zero_grad()
        loss().backward()
        for i, group in enumerate(members):
            found[i] += score(group)
    module.zero_grad()
    return found


class Costs:
    """Multiply-accumulates of a model for one sample as a function of which channels are gone."""

    def __init__(self, module: nn.Module, inputs: Inputs, groups: Sequence[Group]) -> None:
        self.groups = groups
        one = {name: t[:1] for name, t in inputs.items()}
        macs = {name: sum(ops.values()) for name, ops in macs_by_module(module, one).items()}
        graph = ChannelGraph(module, inputs)
        members = [graph.members(g.root, range(g.width)) for g in groups]
        leaves = {
            m.name: m.layer for ms in members for m in ms if m.name in macs and isinstance(m.layer, nn.Linear | _ConvNd)
        }
        # (macs, shares of its inputs, shares of its outputs), a share being (group, part of the layer that it is).
        self._parts = [(macs[name], _shares(name, True, members), _shares(name, False, members)) for name in leaves]
        for i, group in enumerate(groups):
            if group.attention:
                children = module.get_submodule(group.attention).named_children()
                products = macs[group.attention] - sum(macs.get(f"{group.attention}.{name}", 0) for name, _ in children)
                self._parts.append((products, [], [(i, 1.0)]))
        self._rest = macs[""] - sum(part[0] for part in self._parts)

    def total(self, gone: Sequence[Sequence[Chunk]]) -> float:
        """With these chunks of each group gone."""
        lost = [sum(len(c.channels) for c in chunks) / g.width for chunks, g in zip(gone, self.groups, strict=True)]

        def left(shares: Sequence[tuple[int, float]]) -> float:
            return 1 - sum(part * lost[group] for group, part in shares)

        return self._rest + sum(macs * left(inputs) * left(outputs) for macs, inputs, outputs in self._parts)


def _shares(name: str, of_inputs: bool, members: Sequence[Sequence[Member]]) -> list[tuple[int, float]]:
    shares: dict[int, float] = {}
    for position, group in enumerate(members):
        for m in group:
            if m.name == name and m.is_input == of_inputs:
                shares[position] = len(set(m.channels)) / _channels(m)
    return list(shares.items())


def _channels(member: Member) -> int:
    names = ("in_features", "in_channels") if member.is_input else ("out_features", "out_channels")
    return next(getattr(member.layer, n) for n in names if hasattr(member.layer, n))


def _chunks(position: int, group: Group, importance: torch.Tensor) -> list[Chunk]:
    """A group's channels in chunks, those to be cut first in front; what must stay is left out."""
    pieces: list[list[int]]
    if group.attention:
        heads = importance.view(-1, group.chunk).sum(1).argsort().tolist()
        pieces = [list(range(h * group.chunk, (h + 1) * group.chunk)) for h in heads]
    else:
        order = importance.argsort().tolist()
        first = group.width % group.chunk  # when these are gone, what is left is a multiple
        ends = [*([first] if first else []), *range(first + group.chunk, group.width + 1, group.chunk)]
        pieces = [order[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    least = max(group.chunk, SMALLEST_SHARE * group.width)
    chunks: list[Chunk] = []
    left = group.width
    for piece in pieces:
        left -= len(piece)
        if left < least:
            break
        chunks.append(Chunk(position, tuple(piece), float(importance[piece].sum())))
    return chunks


def _lasts(gone: Sequence[Sequence[Chunk]]) -> list[Chunk]:
    """The chunk of each group that went last."""
    return [chunks[-1] for chunks in gone if chunks]


def _with(gone: Sequence[Sequence[Chunk]], chunk: Chunk) -> list[list[Chunk]]:
    return [[*chunks, chunk] if i == chunk.group else [*chunks] for i, chunks in enumerate(gone)]


def _without(gone: Sequence[Sequence[Chunk]], chunk: Chunk) -> list[list[Chunk]]:
    return [[c for c in chunks if c is not chunk] for chunks in gone]
