"""One batch on several processes: each has every world-th of its rows, and one part of the loss.

What a process minimises is a mean over its rows, and gradients are averaged over processes. That is
the mean over the whole batch, but where a loss divides by what it counts in the batch, is no linear
function of means, or draws: this is what such places need. Outside of `one_of` a process is alone,
and every function here gives back what it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = [
    "count_over_all",
    "empty_for_all",
    "mean_over_all",
    "one_of",
    "own_rows",
    "world_size",
]


@dataclass
class _Place:
    rank: int = 0
    world: int = 1


# Of the process, not of a thread: backward passes, which may draw again, run in threads of torch's.
_here = _Place()


@contextmanager
def one_of(world: int, rank: int) -> Iterator[None]:
    """Within it the rows of a batch are those of process `rank` of `world`: rank, rank + world …"""
    before = _here.world, _here.rank
    _here.world, _here.rank = world, rank
    try:
        yield
    finally:
        _here.world, _here.rank = before


def world_size() -> int:
    """Number of the processes that share a batch."""
    return _here.world


def own_rows(whole: Tensor) -> Tensor:
    """Those of this process, of a tensor for the whole batch."""
    return whole if _here.world == 1 else whole[_here.rank :: _here.world]


def empty_for_all(rows: Tensor) -> Tensor:
    """Where to draw what goes with rows (B, …) of this process: (world · B, …), uninitialised.

    All processes draw the same there, from generators in the same state; see `own_rows`.
    """
    if _here.world == 1:
        return torch.empty_like(rows, requires_grad=False)
    return rows.new_empty(_here.world * len(rows), *rows.shape[1:])


def mean_over_all(value: Tensor) -> Tensor:
    """Mean over the processes of what each has; so is its gradient. All must call it."""
    if _here.world == 1:
        return value
    mean: Tensor = _Mean.apply(value if value.is_floating_point() else value.double())
    return mean


def count_over_all(count: Tensor) -> Tensor:
    """What a sum over own rows is divided by to be a mean over the `count`, at least 1, of all."""
    return mean_over_all(count).clamp_min(1 / _here.world)


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total / _here.world

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total / _here.world
