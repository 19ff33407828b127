"""IB-INN's networks as the authors' code has them (Ardizzone et al. 2020, Sec. 7 and code).

CIFAR: 8 blocks, downsampling, 24, downsampling, 24, DCT, permutation, one two-sided dense coupling:
11.16 M parameters. MNIST: Haar, 24, downsampling, 24, DCT, permutation, dense coupling.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import pi

import torch

from couplings import (
    DCT,
    MLP,
    Affine,
    Chain,
    ConvNet,
    Coupling,
    DownsamplingCoupling,
    Flatten,
    Haar,
    Invertible,
    Permutation,
    Rotation,
    SoftClamp,
    two_sided_coupling,
)
from couplings.core import Shape, ShapeError
from couplings.univariate import Univariate

__all__ = ["paper_network"]

CONV = Affine(SoftClamp(limit=0.7, gain=0.1, form="tanh"))
DOWN = Affine(SoftClamp(limit=0.7, gain=0.2, form="tanh"))
# FrEIA's clamp of 2, with its 2/π rounded to 0.636.
DENSE = Affine(SoftClamp(limit=2 * 0.636 * pi / 2, gain=1 / 2, form="atan"))
DCT_SCALE = 0.5
# Couplings a level, as the authors have them.
BLOCKS = {"cifar": (8, 24, 24), "mnist": (24, 24)}
SCALES = {"cifar": 0.75, "mnist": 0.80}  # of all channels after a rotation, at the start

Factory = Callable[[Shape], Invertible]


def paper_network(
    shape: Shape,
    generator: torch.Generator,
    *,
    variant: str,
    actnorm: str = "learned",
    blocks: Sequence[int] | None = None,
    univariate: Univariate | None = None,
    start: str = "authors",
) -> Chain:
    """Build the network of `paper-cifar10`, `paper-cifar100` (variant "cifar") or `paper-mnist`.

    Args:
        shape: (3, 32, 32) or (1, 28, 28); other sizes with H, W divisible by 4 work too.
        generator: where weights, rotations and the permutation come from.
        variant: "cifar" or "mnist".
        actnorm: "learned" scale and offset after each rotation (code of the published version), or
            "fixed" scale and no offset (the draft).
        blocks: couplings a level; default: the authors', (8, 24, 24) or for MNIST (24, 24).
        univariate: the map of all couplings; default: the authors' affine ones.
        start: "authors", whose couplings expand and whose scales shrink, so that the inverse
            amplifies rounding; or "identity": zeros in the last convolutions, scales of 1.

    Raises:
        ShapeError: another number of levels than the variant has.
    """
    authors = BLOCKS[variant]
    levels = authors if blocks is None else blocks
    if len(levels) != len(authors):
        raise ShapeError(
            f"paper_network: expected blocks at {len(authors)} levels, got {len(levels)}"
        )
    identity = start == "identity"
    scale = 1.0 if identity else SCALES[variant]
    conv = partial(
        ConvNet, generator=generator, norm_eps=1e-4, norm_momentum=0.999, zero_last=identity
    )
    mixed = partial(
        _mixed_couplings,
        conv=conv,
        univariate=univariate or CONV,
        rotation=partial(Rotation, generator=generator, scale=scale),
    )
    dense = partial(
        MLP, generator=generator, hidden=(1024,), dropout=0.5, gain=0.1, zero_last=False
    )
    first: list[Factory] = [Haar]
    if variant == "cifar":
        # The very first network sees its input unrectified.
        first = [
            *mixed(min(levels[0], 1), 16, 0.0, leading_relu=False),
            *mixed(levels[0] - 1, 16, 0.0),
            _downsampling(32, conv, univariate),
        ]
    stages: list[Factory] = [
        *first,
        *mixed(levels[-2], 32, 0.0),
        _downsampling(64, conv, univariate),
        *mixed(levels[-1], 64, 0.25),
        partial(DCT, scale=DCT_SCALE),
        partial(Flatten, channels_last=True),
        partial(Permutation, generator=generator),
        partial(two_sided_coupling, conditioner=dense, univariate=univariate or DENSE),
    ]
    chain = Chain.grow(shape, stages)
    for stage in chain if actnorm == "fixed" else ():
        if isinstance(stage, Rotation):
            stage.requires_grad_(False)
    return chain


def _mixed_couplings(
    count: int,
    width: int,
    dropout: float,
    leading_relu: bool = True,
    *,
    conv: Callable[..., ConvNet],
    univariate: Univariate,
    rotation: Factory,
) -> list[Factory]:
    """Repeat a coupling and a rotation `count` times."""
    net = partial(conv, width=width, dropout=dropout, leading_relu=leading_relu)
    return [partial(Coupling, conditioner=net, univariate=univariate), rotation] * count


def _downsampling(
    width: int, conv: Callable[..., ConvNet], univariate: Univariate | None
) -> Factory:
    return partial(
        DownsamplingCoupling,
        strided=partial(conv, width=width, stride=2),
        conditioner=partial(conv, width=width),
        univariate=univariate or DOWN,
    )
