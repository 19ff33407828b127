"""Batches by position: the whole split on the device, each batch named by its step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowclf.data import Augmentation, Split
from flowclf.errors import UserError
from flowclf.seeding import generator_for

__all__ = ["Batches"]

Perturb = Callable[[Tensor, torch.Generator], Tensor]


@dataclass
class Batches:
    """Step t to its batch: shuffled anew each epoch, augmented, noisy; last partial batch dropped.

    All draws are for the global batch, of which a process takes its share: the number of processes
    does not change what is learned from.

    Args:
        split: the training split, on the device.
        size: samples in a global batch.
        seed: of order, augmentation and noise.
        augment: on raw batches, or None.
        perturb: the model's noise.
        rank, world: this process and their number.
    """

    split: Split
    size: int
    seed: int
    augment: Augmentation | None
    perturb: Perturb
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        self.size = min(self.size, len(self.split))
        if self.size % self.world:
            raise UserError(
                f"expected a batch size divisible by the {self.world} processes, got {self.size}"
            )
        self._order: tuple[int, Tensor] | None = None

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch."""
        return len(self.split) // self.size

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """x (noisy, floating) and y of this process at a step."""
        epoch, index = divmod(step, self.per_epoch)
        rows = self._epoch_order(epoch)[index * self.size : (index + 1) * self.size]
        x, y = self.split.x[rows], self.split.y[rows]
        if self.augment is not None:
            generator = generator_for(self.seed, "augment", step, device=x.device)
            # Whole grey levels again: what floats would not get is dequantisation.
            x = self.augment(x, generator).to(x.dtype)
        x = self.perturb(x, generator_for(self.seed, "noise", step, device=x.device))
        return x[self.rank :: self.world], y[self.rank :: self.world]

    def _epoch_order(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            generator = generator_for(self.seed, "order", epoch)
            order = torch.randperm(len(self.split), generator=generator)
            self._order = (epoch, order.to(self.split.y.device))
        return self._order[1]
