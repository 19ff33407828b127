"""Batches by step number, drawn from a split that lies on the device."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flowclf.data import Augmentation, Split
from flowclf.objectives import Batch
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for

__all__ = ["Batches"]

Perturb = Callable[[Tensor, torch.Generator], Tensor]


@dataclass
class Batches:
    """Batches by step: shuffled every epoch, augmented, dequantised; the partial last is dropped.

    With `labelled`, a batch has that many labelled samples, which cycle in an order of their own,
    followed by unlabelled samples, each of which an epoch visits once.

    All draws are for the global batch, of which each rank takes its shard: the number of processes
    does not change the training data.

    Raises:
        UserError: a batch that cannot be sharded evenly, or a `labelled` that leaves no room for
            unlabelled samples or lacks samples of either kind.
    """

    split: Split  # on the device
    size: int  # samples in a global batch
    seed: int  # of order, augmentation and noise
    augment: Augmentation | None  # of raw batches
    perturb: Perturb  # the model's noise
    rank: int = 0
    world: int = 1  # number of processes
    labelled: int | None = None  # labelled samples in a global batch; None: as they come
    source: Tensor | None = None  # augmented instead of split.x, row by row, on the device
    balanced: bool = False  # whether an epoch draws each class equally often
    guessing: bool = False  # a second view of samples without a label comes with each batch
    augment_guess: Augmentation | None = None  # of that view's raw batches

    def __post_init__(self) -> None:
        unlabelled = self.split.unlabelled
        if self.labelled is not None:
            self._check_labelled(self.labelled, int(unlabelled.sum()))
        given = self.labelled or 0
        passed = unlabelled if given else torch.ones_like(unlabelled)
        block = getattr(self.split.x, "block", None)
        rows = passed.nonzero()[:, 0], (~unlabelled).nonzero()[:, 0]
        shares = [self._shares(r) for r in rows]
        self._passed = _Rounds(rows[0], self.seed, "order", block, shares[0])
        self._known = _Rounds(rows[1], self.seed, "labelled order", block, shares[1])
        self._fresh = min(self.size - given, len(self._passed.rows))
        self.size = given + self._fresh
        if self.size % self.world or given % self.world:
            raise UserError(
                f"expected a batch size divisible by the {self.world} processes, got {self.size}"
                + (f" with {given} labelled" if given else "")
            )

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch."""
        return len(self._passed.rows) // self._fresh

    def at(self, step: int) -> Batch:
        """Return x (noisy, floating), y and index of this rank at a step."""
        rows = self._rows(step)
        raw, y = (self.split.x if self.source is None else self.source)[rows], self.split.y[rows]
        x = self._view(raw, self.augment, step, "")
        view = None
        if self.guessing and bool((y < 0).any()):
            view = self._view(raw[y < 0], self.augment_guess, step, "second ")
        x, y, rows = (each[self.rank :: self.world] for each in (x, y, rows))
        view = None if view is None else view[self.rank :: self.world]
        return Batch(x, y, rows, view=view)

    def _view(self, x: Tensor, augment: Augmentation | None, step: int, stream: str) -> Tensor:
        """Return x (B, *shape) augmented and with noise."""
        if augment is not None:
            generator = generator_for(self.seed, f"{stream}augment", step, device=x.device)
            # Back to whole grey levels: floats would not be dequantised.
            x = augment(x, generator).to(x.dtype)
        return self.perturb(x, generator_for(self.seed, f"{stream}noise", step, device=x.device))

    def _rows(self, step: int) -> Tensor:
        """Return the rows of the global batch, the `labelled` ones first."""
        epoch, index = divmod(step, self.per_epoch)
        first = epoch * len(self._passed.rows) + index * self._fresh
        rows, given = self._passed.take(first, self._fresh), self.labelled or 0
        return torch.cat((self._known.take(step * given, given), rows)) if given else rows

    def _shares(self, rows: Tensor) -> Tensor | None:
        """Return how often each of the rows (N,) is drawn in an epoch, as shares; None: once."""
        weight = self.split.weight
        own = None if weight is None else weight[rows.cpu()]
        return row_shares(self.split.y[rows], own, self.balanced)

    def _check_labelled(self, labelled: int, unlabelled: int) -> None:
        known = len(self.split) - unlabelled
        if not (known and unlabelled):
            raise UserError(
                f"expected training samples with and without a label for train.labelled={labelled},"
                f" got {known} and {unlabelled}; set data.labels, or leave it out"
            )
        if labelled >= self.size:
            raise UserError(
                f"expected train.labelled below the batch size of {self.size}, which has samples "
                f"without a label too, got {labelled}; lower it"
            )


@dataclass
class _Rounds:
    """Endless sequence of the rows (N,), in rounds that are each shuffled anew."""

    rows: Tensor
    seed: int
    stream: str
    block: int | None = None
    shares: Tensor | None = None  # of the rows in a round (N,), float64 with the sum 1; None: equal
    _last: tuple[int, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._last = (-1, self.rows)

    def take(self, first: int, count: int) -> Tensor:
        """Return `count` rows from position `first` on."""
        parts = []
        while count > 0:
            number, start = divmod(first, len(self.rows))
            parts.append(self._round(number)[start : start + count])
            first, count = first + len(parts[-1]), count - len(parts[-1])
        return torch.cat(parts)

    def _round(self, number: int) -> Tensor:
        if self._last[0] != number:
            generator, count = generator_for(self.seed, self.stream, number), len(self.rows)
            if self.shares is not None:
                # Systematic: a row of the share s comes ⌊sN⌋ or ⌈sN⌉ times.
                start = torch.rand((), generator=generator, dtype=torch.float64)
                points = (torch.arange(count) + start) / count
                drawn = torch.searchsorted(self.shares.cumsum(0), points).clamp_max(count - 1)
                order = drawn[torch.randperm(count, generator=generator)]
            elif self.block is None:
                order = torch.randperm(count, generator=generator)
            else:
                from flowclf.data.streamed import shuffled

                order = shuffled(count, generator, self.block)
            self._last = (number, self.rows[order.to(self.rows.device)])
        return self._last[1]


def row_shares(y: Tensor, weight: Tensor | None, balanced: bool) -> Tensor | None:
    """Return the shares (N,) by which rows are drawn, float64 with the sum 1; None: equal ones."""
    if balanced:
        return balanced_shares(y, weight)
    return None if weight is None else weight / weight.sum()


def balanced_shares(y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the share of each row (N,) for which all classes together have equal ones.

    Within a class rows share by their weights, if there are any. Rows without a label, -1, keep
    theirs: 1/N, or that of their weight.
    """
    y = y.cpu()
    weight = torch.ones(len(y), dtype=torch.float64) if weight is None else weight
    classes, numbers = y.unique(return_inverse=True)
    total = torch.zeros(len(classes), dtype=torch.float64).index_add_(0, numbers, weight)
    own, labelled = total.clone(), classes >= 0
    own[labelled] = own[labelled].sum() / labelled.sum()
    return (own / total)[numbers] * weight / weight.sum()
