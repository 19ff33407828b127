"""Batches by position: the whole split on the device, each batch named by its step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flowclf.data import Augmentation, Split
from flowclf.data.streamed import shuffled
from flowclf.objectives import Batch
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for

__all__ = ["Batches"]

Perturb = Callable[[Tensor, torch.Generator], Tensor]


@dataclass
class Batches:
    """Step t to its batch: shuffled anew each epoch, augmented, noisy; last partial batch dropped.

    With `labelled`, a batch is that many samples with a label, which go round in an order of their
    own, and then samples without one, of which an epoch sees each once.

    All draws are for the global batch, of which a process takes its share: the number of processes
    does not change what is learned from.

    Args:
        split: the training split, on the device.
        size: samples in a global batch.
        seed: of order, augmentation and noise.
        augment: on raw batches, or None.
        perturb: the model's noise.
        rank, world: this process and their number.
        labelled: samples with a label in a global batch; None: as they come.
        source: what is augmented instead of split.x, row by row, on the device.

    Raises:
        UserError: a batch that the processes cannot share evenly, or a `labelled` that leaves one
            of the two kinds of samples without a place or a sample.
    """

    split: Split
    size: int
    seed: int
    augment: Augmentation | None
    perturb: Perturb
    rank: int = 0
    world: int = 1
    labelled: int | None = None
    source: Tensor | None = None

    def __post_init__(self) -> None:
        unlabelled = self.split.unlabelled
        if self.labelled is not None:
            self._check_labelled(self.labelled, int(unlabelled.sum()))
        given = self.labelled or 0
        passed = unlabelled if given else torch.ones_like(unlabelled)
        block = getattr(self.split.x, "block", None)
        self._passed = _Rounds(passed.nonzero()[:, 0], self.seed, "order", block)
        known = (~unlabelled).nonzero()[:, 0]
        self._known = _Rounds(known, self.seed, "labelled order", block)
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
        """x (noisy, floating), y and index of this process at a step."""
        rows = self._rows(step)
        x, y = (self.split.x if self.source is None else self.source)[rows], self.split.y[rows]
        if self.augment is not None:
            generator = generator_for(self.seed, "augment", step, device=x.device)
            # Whole grey levels again: what floats would not get is dequantisation.
            x = self.augment(x, generator).to(x.dtype)
        x = self.perturb(x, generator_for(self.seed, "noise", step, device=x.device))
        x, y, rows = (each[self.rank :: self.world] for each in (x, y, rows))
        return Batch(x, y, rows)

    def _rows(self, step: int) -> Tensor:
        """Those of the global batch, the counted labelled ones first."""
        epoch, index = divmod(step, self.per_epoch)
        first = epoch * len(self._passed.rows) + index * self._fresh
        rows, given = self._passed.take(first, self._fresh), self.labelled or 0
        return torch.cat((self._known.take(step * given, given), rows)) if given else rows

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
    """An endless sequence of the rows (N,), in rounds, each `shuffled` anew."""

    rows: Tensor
    seed: int
    stream: str
    block: int | None = None
    _last: tuple[int, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._last = (-1, self.rows)

    def take(self, first: int, count: int) -> Tensor:
        """`count` of them from position `first` on."""
        parts = []
        while count > 0:
            number, start = divmod(first, len(self.rows))
            parts.append(self._round(number)[start : start + count])
            first, count = first + len(parts[-1]), count - len(parts[-1])
        return torch.cat(parts)

    def _round(self, number: int) -> Tensor:
        if self._last[0] != number:
            generator = generator_for(self.seed, self.stream, number)
            order = shuffled(len(self.rows), generator, self.block)
            self._last = (number, self.rows[order.to(self.rows.device)])
        return self._last[1]
