"""Feed-forward counterparts of the invertible networks, the baselines of IB-INN.

Ardizzone et al. (NeurIPS 2020, Sec. 4 and code): each subnetwork of the invertible network becomes
the body of a residual block over all channels, LeakyReLU(x + subnet(x)).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from couplings import MLP, ConvNet, SpaceToDepth
from couplings.conditioners import kaiming_conv
from couplings.core import Shape
from couplings.networks.conv import squeeze_factor
from couplings.networks.paper import BLOCKS
from flowclf.nn.layers import ChannelsLast, need_image
from flowclf.settings import Depths, Fraction, Section, Widths
from flowclf.support.errors import UserError

__all__ = [
    "PaperResidualSettings",
    "ResidualSettings",
    "paper_residual_network",
    "residual_network",
]

PAPER_WIDTHS, PAPER_DROPOUT = (16, 32, 64), (0.0, 0.0, 0.25)


class ResidualSettings(Section):
    """The feed-forward counterpart of the invertible `conv` network, field by field."""

    kind: Literal["residual"] = "residual"
    blocks: Depths = (6,)
    width: Widths = (32,)
    dense_blocks: Annotated[int, Field(ge=0, le=1000)] = 1
    dense_hidden: Widths = (256,)
    dropout: Fraction = 0.0
    batch_norm: bool = True


class PaperResidualSettings(Section):
    """The feed-forward network of IB-INN's authors, counterpart of the invertible `paper`."""

    kind: Literal["paper"] = "paper"
    variant: Literal["cifar", "mnist"] = "cifar"


class LeakyResidual(nn.Module):
    """Residual block LeakyReLU(skip(x) + body(x)), slope 0.01."""

    def __init__(self, body: nn.Module, skip: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.skip = body, skip or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H/stride, W/stride), or (B, D) to (B, D)."""
        out: Tensor = self.skip(x) + self.body(x)
        return nn.functional.leaky_relu(out)


class Squeeze(nn.Module):
    """Space to depth, also of an empty batch, which torch's PixelUnshuffle does not reshape."""

    def __init__(self, shape: Shape, factor: int) -> None:
        super().__init__()
        self.map = SpaceToDepth(shape, factor)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C·factor², H/factor, W/factor)."""
        squeezed: Tensor = self.map(x)[0]
        return squeezed


def residual_network(
    shape: Shape,
    generator: torch.Generator,
    *,
    blocks: Sequence[int] = (4, 4),
    width: Sequence[int] = (32,),
    dense_blocks: int = 1,
    dense_hidden: Sequence[int] = (256,),
    dropout: float = 0.0,
    batch_norm: bool = True,
) -> nn.Sequential:
    """Return the counterpart of `couplings.networks.conv_network`, argument by argument.

    Per level: space to depth and `blocks` residual blocks; then average-pooling and dense residual
    blocks. D is the final number of channels.
    """
    need_image("residual", shape)
    widths = list(width) * len(blocks) if len(width) == 1 else list(width)
    if len(widths) != len(blocks):
        raise UserError(
            f"expected one network.width, or one per level of network.blocks, got {len(widths)} "
            f"widths and blocks at {len(blocks)} levels"
        )
    conv = partial(ConvNet, generator=generator, batch_norm=batch_norm)
    layers: list[nn.Module] = [ChannelsLast()]
    for count, hidden in zip(blocks, widths, strict=True):
        squeeze, shape = _squeeze(shape)
        layers += squeeze
        layers += [LeakyResidual(conv(shape, shape[0], width=hidden)) for _ in range(count)]
    dense = partial(MLP, generator=generator, hidden=dense_hidden, dropout=dropout)
    return nn.Sequential(*layers, *_dense_end(shape[0], dense_blocks, dense))


def paper_residual_network(
    shape: Shape, generator: torch.Generator, *, variant: str
) -> nn.Sequential:
    """Return the authors' ResNet trunk to 48 features (MNIST: 16), 2.21 M parameters with its head.

    Each level ends in a strided block, whose skip is a strided 3x3 convolution, and one more block.
    """
    need_image("paper", shape)
    counts = BLOCKS[variant]
    widths, dropouts = PAPER_WIDTHS[-len(counts) :], PAPER_DROPOUT[-len(counts) :]
    conv = partial(ConvNet, generator=generator, norm_eps=1e-4, zero_last=False)
    layers: list[nn.Module] = []
    if variant == "mnist":
        squeeze, shape = _squeeze(shape)
        layers += squeeze
    layers.append(kaiming_conv(shape[0], shape[0], 1, generator))
    for level, count in enumerate(counts):
        if level:
            strided, shape = _strided(shape, widths[level], conv, generator)
            layers += strided
        net = partial(conv, shape, shape[0], width=widths[level], dropout=dropouts[level])
        layers += [LeakyResidual(net(leading_relu=bool(level or i))) for i in range(count)]
    dense = partial(MLP, generator=generator, hidden=(1024,), dropout=0.5, zero_last=False)
    return nn.Sequential(*layers, *_dense_end(shape[0], 1, dense))


def _squeeze(shape: Shape) -> tuple[list[nn.Module], Shape]:
    """Return space to depth by the factor of `conv_network`, and the shape after it."""
    channels, height, width = shape
    rows, columns = squeeze_factor(shape)
    if rows == columns:
        out = (channels * rows * columns, height // rows, width // columns)
        return ([Squeeze(shape, rows)] if rows > 1 else []), out
    raise UserError(
        f"network.kind=residual: expected sides that both divide by 2 or by 3, got {shape}; "
        "use network.kind=cnn or resnet"
    )


def _strided(
    shape: Shape, width: int, conv: partial[ConvNet], generator: torch.Generator
) -> tuple[list[nn.Module], Shape]:
    channels, height, wide = shape
    out = (4 * channels, height // 2, wide // 2)
    skip = kaiming_conv(channels, out[0], 3, generator, stride=2)
    strided = conv(shape, out[0], width=width, stride=2)
    return [LeakyResidual(strided, skip), LeakyResidual(conv(out, out[0], width=width))], out


def _dense_end(features: int, blocks: int, dense: partial[MLP]) -> list[nn.Module]:
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return [*pool, *[LeakyResidual(dense((features,), features)) for _ in range(blocks)]]
