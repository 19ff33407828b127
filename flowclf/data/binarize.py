"""Binary images in their 8-bit form: grey levels 0 and levels - 1, and none between."""

from typing import Literal

import torch
from torch import Generator, Tensor

from flowclf.data.augment import Augmentation
from flowclf.data.streamed import Shards
from flowclf.support.errors import UserError

__all__ = ["Binarization", "binarize", "draw_binary", "ending_binary", "threshold"]

Binarization = Literal["none", "threshold", "sampled", "resampled"]


def threshold(x: Tensor, levels: int) -> Tensor:
    """Return white where x is at least levels/2; dtype and shape of x."""
    return (x >= levels / 2).to(x.dtype) * (levels - 1)


def draw_binary(x: Tensor, levels: int, generator: Generator) -> Tensor:
    """Draw white with probability x/(levels - 1) for each pixel; dtype and shape of x."""
    drawn = torch.randint(
        levels - 1, x.shape, generator=generator, device=generator.device, dtype=torch.uint8
    )
    return (drawn.to(x.device) < x).to(x.dtype) * (levels - 1)


def binarize(x: Tensor, kind: Binarization, levels: int | None, generator: Generator) -> Tensor:
    """Binarize grey levels (N, C, H, W), by draws or by threshold; x itself for none.

    Raises:
        UserError: a table.
    """
    if kind == "none":
        return x
    if isinstance(x, Shards):
        raise UserError(f"expected data.binarize=none for data in shards, got {kind}")
    if levels is None:
        raise UserError(
            f"expected images for data.binarize={kind}, got rows of {tuple(x.shape[1:])}; use none"
        )
    return threshold(x, levels) if kind == "threshold" else draw_binary(x, levels, generator)


def ending_binary(
    augment: Augmentation | None, kind: Binarization, levels: int | None
) -> Augmentation | None:
    """Compose `augment` (None: the identity) with binarization.

    `resampled` takes grey levels and draws after it; the others take binary images, which a
    threshold makes binary again.
    """
    if kind == "none" or levels is None or (augment is None and kind != "resampled"):
        return augment

    def changed(x: Tensor, generator: Generator) -> Tensor:
        x = x if augment is None else augment(x, generator)
        return draw_binary(x, levels, generator) if kind == "resampled" else threshold(x, levels)

    return changed
