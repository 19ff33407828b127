"""Default networks: convolutional couplings for images, dense ones for tables."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import Any, Literal

import torch

from couplings import (
    DCT,
    MLP,
    Affine,
    Chain,
    ChannelMixing,
    Checkerboard,
    Conditioner,
    ConvNet,
    Coupling,
    Flatten,
    Inverse,
    Invertible,
    Permutation,
    Rotation,
    SoftClamp,
    SpaceToDepth,
    Split,
    TokenNet,
    Univariate,
    Whitening,
    two_sided_coupling,
)
from couplings.conditioners import Activation
from couplings.core import Shape, ShapeError

__all__ = ["Mixing", "conv_network", "mlp_network", "squeeze_factor"]

Factory = Callable[[Shape], Invertible]
Mixing = Literal["rotation", "plu", "permutation"]
MIXING = {"rotation": Rotation, "plu": ChannelMixing, "permutation": Permutation}
AFFINE = Affine(SoftClamp(limit=1.0, gain=1.0))


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
    whiten: float = 0.0,
    activation: Activation = "relu",
    mixing: Mixing = "rotation",
    split: bool = False,
    conditioner: Literal["conv", "attention", "mixer"] = "conv",
    token_blocks: int = 1,
    spatial: int = 0,
) -> Chain:
    """Build per level a squeeze and `blocks` x [conv coupling, rotation]; then dense couplings.

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
        whiten: above 0 a level begins with a `Whitening` of this power, to be fitted to data, and
            its couplings change the two halves in turn, with no rotation in between.
        activation: in the convolutional networks.
        mixing: of the channels after a coupling: a fixed random rotation, a learned matrix, or a
            fixed random permutation; behind a `Whitening` no rotation, the others after every two.
        split: end each level but the last by a `Split`: half of its channels do not go on.
        conditioner: a `ConvNet`, or a `TokenNet` of attention or of MLPs across the positions.
        token_blocks: blocks of a `TokenNet`.
        spatial: after so many couplings of channels one of the black and the white fields of a
            checkerboard, black and white in turn, where the width is even; 0: there is none.

    Raises:
        ShapeError: not an image shape, or another number of widths than of levels.
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
    map_, features = univariate or AFFINE, context_features
    settings: dict[str, Any] = {"univariate": map_, "context_features": features}
    mix: Factory = partial(MIXING[mixing], generator=generator)
    dense = partial(MLP, generator=generator, hidden=dense_hidden, dropout=dropout)
    ending: list[Factory] = [DCT, partial(Flatten, channels_last=True)] if dct else [Flatten]
    permutation: Factory = partial(Permutation, generator=generator)
    two_sided: Factory = partial(two_sided_coupling, conditioner=dense, **settings)
    ending += [permutation, two_sided] * dense_blocks

    def network(width: int) -> Conditioner:
        if conditioner == "conv":
            options: dict[str, Any] = {"batch_norm": batch_norm, "activation": activation}
            return partial(ConvNet, generator=generator, width=width, **options)
        kind: Any = "mlp" if conditioner == "mixer" else "attention"
        return partial(TokenNet, generator=generator, width=width, blocks=token_blocks, mixing=kind)

    def stages(shape: Shape, level: int) -> list[Factory]:
        """List what is left from this level on."""
        if level == len(blocks):
            return ending
        made: list[Factory] = []
        if (factor := squeeze_factor(shape)) != (1, 1):
            made.append(partial(SpaceToDepth, factor=factor))
            shape = SpaceToDepth(shape, factor).out_shape
        net, count = network(widths[level]), blocks[level]
        coupling = partial(Coupling, conditioner=net, **settings)
        turns = ("second", "first")
        colours, halves = cycle(turns), cycle(turns if whiten else turns[:1])
        if whiten:
            made.append(partial(Whitening, power=whiten))
        for number in range(1, count + 1):
            made.append(partial(coupling, active=next(halves)))
            if not whiten or (mixing != "rotation" and number % 2 == 0 and number < count):
                made.append(mix)
            if spatial and number % spatial == 0 and shape[2] % 2 == 0:
                made.append(partial(_across, coupling=partial(coupling, active=next(colours))))
        if not split or level + 1 == len(blocks):
            return made + stages(shape, level + 1)
        return [
            *made,
            partial(
                Split,
                conditioner=net,
                inner=lambda kept: Chain.grow(kept, stages(kept, level + 1)),
                **settings,
            ),
        ]

    return Chain.grow(shape, stages(tuple(shape), 0))


def _across(shape: Shape, coupling: Factory) -> Chain:
    """Couple the fields of a checkerboard."""
    board = Checkerboard(shape)
    return Chain([board, coupling(board.out_shape), Inverse(Checkerboard(shape))])


def squeeze_factor(shape: Shape) -> tuple[int, int]:
    """Return the factors by which a level squeezes (H, W).

    2 or 3 a side where they divide it; else 1, but for a lone channel a whole side.
    """
    channels, height, width = shape
    small = [next((p for p in (2, 3) if n % p == 0 and n > p), 1) for n in (height, width)]
    if small == [1, 1] and channels == 1:
        return (height, 1)
    return small[0], small[1]


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
    whiten: float = 0.0,
) -> Chain:
    """Build `blocks` x [rotation, two-sided dense coupling] on the flattened input of any shape.

    A single number gets an affine map. `hidden`, `dropout` and `batch_norm` are those of the
    couplings' networks; with `whiten` above 0 a `Whitening` of this power, to be fitted to data,
    comes first; the other arguments are as for `conv_network`.
    """
    rotation: Factory = partial(Rotation, generator=generator)
    if torch.Size(shape).numel() == 1:
        # A single number cannot be coupled to another: what is left is an affine map.
        return Chain.grow(shape, [Flatten, rotation])
    dense = partial(MLP, generator=generator, hidden=hidden, dropout=dropout, batch_norm=batch_norm)
    coupling: Factory = partial(
        two_sided_coupling,
        conditioner=dense,
        univariate=univariate or AFFINE,
        context_features=context_features,
    )
    first: list[Factory] = [partial(Whitening, power=whiten)] if whiten else []
    return Chain.grow(shape, [Flatten, *first, *[rotation, coupling] * blocks])
