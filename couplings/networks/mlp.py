"""The default network for tables: two-sided dense couplings and rotations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from couplings import (
    MLP,
    Chain,
    Conditioner,
    Flatten,
    Invertible,
    Rotation,
    SoftClamp,
    two_sided_coupling,
)
from couplings.core import Shape
from couplings.univariate import Affine, Univariate

__all__ = ["mlp_network"]


def mlp_network(
    shape: Shape,
    generator: torch.Generator,
    *,
    blocks: int = 4,
    hidden: Sequence[int] = (64,),
    dropout: float = 0.0,
    batch_norm: bool = False,
    univariate: Univariate | None = None,
    context_features: int = 0,
) -> Chain:
    """`blocks` x [rotation, two-sided dense coupling] on the flattened input.

    Args:
        shape: any; a single number gets an affine map.
        generator: where weights and rotations come from.
        blocks: number of two-sided couplings.
        hidden: hidden widths of their networks.
        dropout, batch_norm: in these networks.
        univariate: the map of each number; default: affine, log-scales within ±1.
        context_features: width of the conditional input.
    """
    mix: Callable[[Shape], Invertible] = partial(Rotation, generator=generator)
    if torch.Size(shape).numel() == 1:
        # A single number cannot be coupled to another: what is left is an affine map.
        return Chain.grow(shape, [Flatten, mix])
    dense: Conditioner = partial(
        MLP, generator=generator, hidden=hidden, dropout=dropout, batch_norm=batch_norm
    )
    coupling: Callable[[Shape], Invertible] = partial(
        two_sided_coupling,
        conditioner=dense,
        univariate=univariate or Affine(SoftClamp(limit=1.0, gain=1.0)),
        context_features=context_features,
    )
    return Chain.grow(shape, [Flatten, *[mix, coupling] * blocks])
