"""Collectives of data-parallel training: the rank's shard of a batch, and means over all ranks.

Rank r of W holds rows r, r + W, r + 2W, … of each batch, minimises a mean over them, and gradients
are averaged over ranks. That is the mean over the whole batch, except where a loss divides by a
count, is not linear in means, or draws random numbers: those places call these functions. Outside
of `as_rank` the world size is 1 and every function returns its argument.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from flowclf.support.errors import UserError, first_line

__all__ = [
    "ProcessLost",
    "Processes",
    "ReportedElsewhere",
    "all_reduce_count",
    "all_reduce_mean",
    "as_rank",
    "empty_for_all_ranks",
    "normal_like",
    "rank_shard",
    "uniform_like",
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


def normal_like(rows: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw N(0, 1) for this rank's rows (B, …), as a single process would for the whole batch."""
    return rank_shard(empty_for_all_ranks(rows).normal_(generator=generator))


def uniform_like(rows: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw U[0, 1) for this rank's rows (B, …), as a single process would for the whole batch."""
    return rank_shard(empty_for_all_ranks(rows).uniform_(generator=generator))


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


class ProcessLost(ConnectionError):
    """End of another process of the training, or of the connection to it."""


class ReportedElsewhere(UserError):
    """Error that the first process reports for all; the others end silently."""


class Processes:
    """All processes that train one model together; a single one communicates with nobody.

    Tensors are exchanged on the device.
    """

    def __init__(self, rank: int, world: int, device: torch.device) -> None:
        self.rank, self.world, self._device = rank, world, device

    @property
    def first(self) -> bool:
        """True if this process writes, evaluates and reports."""
        return self.rank == 0

    def all_reduce_max(self, *values: float) -> tuple[float, ...]:
        """Return the maximum of each value over the processes."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tuple(tensor.tolist())

    def all_reduce_terms(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the 0-dim loss terms of the whole batch, given those of the shards."""
        if self.world == 1:
            return terms
        values = torch.stack([value.double() for value in terms.values()])
        dist.all_reduce(values)
        return dict(zip(terms, values / self.world, strict=True))

    def same(self, number: int) -> bool:
        """Return True if all processes have the same number."""
        highest, minus_lowest = self.all_reduce_max(number, -number)
        return highest == -minus_lowest

    def sharded(self) -> AbstractContextManager[None]:
        """Treat every batch within the block as this process's shard."""
        return as_rank(self.rank, self.world)

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """Make an error of one process within the block an error of all, so that none waits.

        Nothing within may communicate. The first process raises the error itself, the others
        raise `ReportedElsewhere`.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            if self.world == 1:
                raise
            error = caught
        if self.world > 1:
            self._exchange(error)

    def _exchange(self, error: Exception | None) -> None:
        mine = None if error is None else (isinstance(error, UserError), first_line(error))
        found: list[tuple[bool, str] | None] = [None] * self.world
        dist.all_gather_object(found, mine)
        failed = [(rank, *each) for rank, each in enumerate(found) if each is not None]
        if not failed:
            return
        if error is not None and (self.first or not isinstance(error, UserError | OSError)):
            raise error
        rank, mistake, line = failed[0]
        if not self.first:
            raise ReportedElsewhere(line) from error
        raise (UserError if mistake else ProcessLost)(f"process {rank}: {line}")
