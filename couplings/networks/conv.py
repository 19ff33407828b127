"""The default image network: convolutional couplings on shrinking resolutions, then dense ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from couplings import (
    DCT,
    MLP,
    Chain,
    Conditioner,
    ConvNet,
    Coupling,
    Flatten,
    Invertible,
    Permutation,
    Rotation,
    SoftClamp,
    SpaceToDepth,
    two_sided_coupling,
)
from couplings.core import Shape, ShapeError
from couplings.univariate import Affine, Univariate

__all__ = ["conv_network", "squeeze_factor"]

Factory = Callable[[Shape], Invertible]


def conv_network(
    shape: Shape,
    generator: torch.Generator,
    *,
    blocks: Sequence[int] = (4, 4),
    width: Sequence[int] | int = 32,
    dense_blocks: int = 1,
    dense_hidden: Sequence[int] = (256,),
    dropout: float = 0.0,
    batch_norm: bool = True,
    univariate: Univariate | None = None,
    context_features: int = 0,
    dct: bool = False,
) -> Chain:
    """Per level: squeeze, then `blocks` x [convolutional coupling, rotation]; then dense couplings.

    Any image with H, W >= 2 works: a level squeezes each side by its smallest prime factor where
    that is 2 or 3, and the first level folds a whole side where both are larger primes.

    Args:
        shape: (C, H, W).
        generator: where weights, rotations and permutations come from.
        blocks: number of convolutional couplings a level.
        width: hidden channels, one number or one a level.
        dense_blocks: number of two-sided dense couplings at the end.
        dense_hidden: hidden widths of their networks.
        dropout: in the dense networks.
        batch_norm: in the convolutional networks.
        univariate: the map of each number; default: affine, log-scales within ±1.
        context_features: width of the conditional input.
        dct: a cosine transform of the last level, so that where no dense coupling follows the
            latent begins with the C averages of its channels.
    """
    if len(shape) != 3:
        raise ShapeError(
            f"a conv network takes images (C, H, W), got shape {shape}; use network.kind=mlp"
        )
    widths = [width] if isinstance(width, int) else list(width)
    if len(widths) == 1:
        widths *= len(blocks)
    if len(widths) != len(blocks):
        raise ShapeError(
            f"expected one width, or one a level as blocks has, got {len(widths)} widths and "
            f"blocks at {len(blocks)} levels"
        )
    univariate = univariate or Affine(SoftClamp(limit=1.0, gain=1.0))
    factories: list[Factory] = []
    current: Shape = tuple(shape)
    for count, hidden in zip(blocks, widths, strict=True):
        factor = squeeze_factor(current)
        if factor != (1, 1):
            factories.append(partial(SpaceToDepth, factor=factor))
            current = SpaceToDepth(current, factor).out_shape
        conv: Conditioner = partial(
            ConvNet, generator=generator, width=hidden, batch_norm=batch_norm
        )
        factories += _mixed_couplings(count, conv, univariate, generator, context_features)
    dense: Conditioner = partial(MLP, generator=generator, hidden=dense_hidden, dropout=dropout)
    factories += [DCT, partial(Flatten, channels_last=True)] if dct else [Flatten]
    for _ in range(dense_blocks):
        factories.append(partial(Permutation, generator=generator))
        factories.append(
            partial(
                two_sided_coupling,
                conditioner=dense,
                univariate=univariate,
                context_features=context_features,
            )
        )
    return Chain.grow(shape, factories)


def squeeze_factor(shape: Shape) -> tuple[int, int]:
    """What a level squeezes (H, W) by: 2 or 3 a side; a lone channel with neither: a whole side."""
    channels, height, width = shape
    factor = (_small_prime(height), _small_prime(width))
    if factor == (1, 1) and channels == 1:
        return (height, 1)
    return factor


def _small_prime(size: int) -> int:
    return next((p for p in (2, 3) if size % p == 0 and size > p), 1)


def _mixed_couplings(
    count: int,
    conditioner: Conditioner,
    univariate: Univariate,
    generator: torch.Generator,
    context_features: int,
) -> list[Factory]:
    coupling = partial(
        Coupling,
        conditioner=conditioner,
        univariate=univariate,
        context_features=context_features,
    )
    return [coupling, partial(Rotation, generator=generator)] * count
