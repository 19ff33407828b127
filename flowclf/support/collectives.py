"""Collectives of data-parallel training: the rank's shard of a batch, and means over all ranks.

Rank r of W holds rows r, r + W, r + 2W, … of each batch, minimises a mean over them, and gradients
are averaged over ranks. That is the mean over the whole batch, except where a loss divides by a
count, is not linear in means, or draws random numbers: those places call these functions. Outside
of `as_rank` the world size is 1 and every function returns its argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = [
    "all_reduce_count",
    "all_reduce_mean",
    "as_rank",
    "empty_for_all_ranks",
    "rank_shard",
    "world_size",
]

# Per process, not per thread: torch runs backward passes, which may draw again, in its own threads.
_rank, _world = 0, 1


@contextmanager
def as_rank(rank: int, world: int) -> Iterator[None]:
    """Treat every batch within the block as the shard of `rank` of `world` processes."""
    global _rank, _world
    before = _rank, _world
    _rank, _world = rank, world
    try:
        yield
    finally:
        _rank, _world = before


def world_size() -> int:
    """Return the number of ranks that share a batch."""
    return _world


def rank_shard(batch: Tensor) -> Tensor:
    """Return this rank's rows of a tensor (W · B, …) for the whole batch: (B, …)."""
    return batch if _world == 1 else batch[_rank::_world]


def empty_for_all_ranks(rows: Tensor) -> Tensor:
    """Return an uninitialised tensor (W · B, …) for draws that go with this rank's rows (B, …).

    All ranks fill it with the same numbers, from generators in one state; see `rank_shard`.
    """
    if _world == 1:
        return torch.empty_like(rows, requires_grad=False)
    return rows.new_empty(_world * len(rows), *rows.shape[1:])


def all_reduce_mean(value: Tensor) -> Tensor:
    """Return the mean of `value` over ranks, and average its gradient; all ranks must call it."""
    if _world == 1:
        return value
    mean: Tensor = _Mean.apply(value if value.is_floating_point() else value.double())
    return mean


def all_reduce_count(count: Tensor) -> Tensor:
    """Return the divisor that turns a rank's sum into its part of a mean over all ranks' counts.

    It is the mean count of the ranks, at least 1/W: a total of at least 1.
    """
    return all_reduce_mean(count).clamp_min(1 / _world)


def _mean_over_ranks(value: Tensor) -> Tensor:
    total = value.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / _world


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _mean_over_ranks(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _mean_over_ranks(grads[0])
