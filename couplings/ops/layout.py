"""Where an operator writes: results laid out in memory as the inputs are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["empty_with", "is_channels_last", "per_sample", "room"]


def room(
    active: Tensor, passive: Tensor | None, active_first: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Where y goes, the passive half already in it, and the part of it that is to be filled."""
    if passive is None:
        out = empty_with(active, active.shape, dtype)
        return out, out
    size, rest = active.shape[1], passive.shape[1]
    out = empty_with(active, (len(active), size + rest, *active.shape[2:]), dtype)
    out.narrow(1, size if active_first else 0, rest).copy_(passive)
    return out, out.narrow(1, 0 if active_first else rest, size)


def empty_with(like: Tensor, shape: Any, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised, in the memory format that `like` has, be it a slice of channels."""
    layout = torch.channels_last if is_channels_last(like) else torch.contiguous_format
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=layout)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether the channels are the innermost in memory, be it a slice of them."""
    return tensor.dim() == 4 and tensor.stride(1) == 1 and tensor.shape[1] > 1


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(B,) to (B, 1, ...), to be broadcast over `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))
