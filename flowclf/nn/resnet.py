"""Residual networks: ResNet and WideResNet for CIFAR, and counterparts of the invertible networks.

The CIFAR form has a 3x3 stem at full resolution and no max-pooling. The counterparts are the
baselines of IB-INN (Ardizzone et al., NeurIPS 2020, Sec. 4 and code): each subnetwork of the
invertible network becomes the body of a residual block over all channels, LeakyReLU(x + subnet(x)).
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from couplings import MLP, ConvNet, Invertible, SpaceToDepth, Whitening
from couplings.conditioners import Activation, Dropout, kaiming_conv
from couplings.core import Shape
from couplings.networks.default import squeeze_factor
from couplings.networks.paper import BLOCKS
from flowclf.nn.plain import ChannelsLast, conv_norm, need_image
from flowclf.settings import Depth, Depths, Fraction, Positive, Section, Widths
from flowclf.support.errors import UserError

__all__ = ["CifarResNetSettings", "PaperResidualSettings", "ResidualSettings", "WideResNetSettings"]

# Blocks in each of the four stages; True for bottleneck blocks.
DEPTHS = {
    10: ((1, 1, 1, 1), False), 18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False), 50: ((3, 4, 6, 3), True),
}  # fmt: skip
EXPANSION = 4
PAPER_WIDTHS, PAPER_DROPOUT = (16, 32, 64), (0.0, 0.0, 0.25)

Block = Callable[[int, int, int, torch.Generator], nn.Module]


class CifarResNetSettings(Section):
    """ResNet in its CIFAR form."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[10, 18, 34, 50] = 18
    width: Positive = 64

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Sequential:
        """Return a ResNet with stages of 1, 2, 4 and 8 times the width, pooled to features (B, D).

        D is 8 · width, four times that for bottlenecks (depth 50).

        Raises:
            UserError: samples that are not images.
        """
        need_image("resnet", shape)
        counts, bottleneck = DEPTHS[self.depth]
        block, expansion = (_bottleneck, EXPANSION) if bottleneck else (_basic, 1)
        stem = [*conv_norm(shape[0], self.width, 3, generator), nn.ReLU(inplace=True)]
        widths = [self.width * 2**stage for stage in range(4)]
        stages = _stages(self.width, widths, counts, expansion, block, generator)
        return nn.Sequential(ChannelsLast(), *stem, *stages, *_pool())


class WideResNetSettings(Section):
    """WideResNet; by default WRN-28-10."""

    kind: Literal["wide-resnet"] = "wide-resnet"
    depth: Depth = 28
    width: Positive = 10
    dropout: Fraction = 0.0

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Sequential:
        """Return WideResNet-depth-width: stages of 16, 32 and 64 times the width; D = 64 · width.

        Raises:
            UserError: samples that are not images, or a depth that is not 6n + 4.
        """
        need_image("wide-resnet", shape)
        blocks, rest = divmod(self.depth - 4, 6)
        if rest or blocks < 1:
            raise UserError(f"expected network.depth of 6n + 4 (10, 16, 28 …), got {self.depth}")

        def block(inputs: int, outputs: int, stride: int, generator: torch.Generator) -> nn.Module:
            return PreActivated(inputs, outputs, stride, generator, self.dropout)

        widths = [16 * self.width, 32 * self.width, 64 * self.width]
        stages = _stages(16, widths, (blocks,) * 3, 1, block, generator)
        stem = kaiming_conv(shape[0], 16, 3, generator, bias=False)
        last = [nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True)]
        return nn.Sequential(ChannelsLast(), stem, *stages, *last, *_pool())


class ResidualSettings(Section):
    """Feed-forward counterpart of the invertible `conv` network, field by field."""

    kind: Literal["residual"] = "residual"
    blocks: Depths = (6,)
    width: Widths = (32,)
    dense_blocks: Annotated[int, Field(ge=0, le=1000)] = 1
    dense_hidden: Widths = (256,)
    dropout: Fraction = 0.0
    batch_norm: bool = True
    activation: Activation = "relu"  # of the convolutional blocks' inner layers
    whiten: Annotated[float, Field(ge=0, le=1)] = 0.0  # of the first level's channels alone

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Sequential:
        """Return the counterpart of `couplings.networks.conv_network`.

        Per level: space to depth and `blocks` residual blocks; then average-pooling and dense
        residual blocks. D is the final number of channels.

        Raises:
            UserError: samples that are not images, or whose sides cannot be squeezed; another
                number of widths than of levels.
        """
        need_image("residual", shape)
        blocks, width = self.blocks, self.width
        widths = width * len(blocks) if len(width) == 1 else width
        if len(widths) != len(blocks):
            raise UserError(
                f"expected one network.width, or one per level of network.blocks, got {len(widths)}"
                f" widths and blocks at {len(blocks)} levels"
            )
        conv = partial(
            ConvNet, generator=generator, batch_norm=self.batch_norm, activation=self.activation
        )
        layers: list[nn.Module] = [ChannelsLast()]
        for level, (count, hidden) in enumerate(zip(blocks, widths, strict=True)):
            squeeze, shape = _squeeze(shape)
            layers += squeeze
            if self.whiten and not level:
                layers.append(Forward(Whitening(shape, self.whiten)))
            layers += [LeakyResidual(conv(shape, shape[0], width=hidden)) for _ in range(count)]
        dense = partial(MLP, generator=generator, hidden=self.dense_hidden, dropout=self.dropout)
        return nn.Sequential(*layers, *_dense_end(shape[0], self.dense_blocks, dense))


class PaperResidualSettings(Section):
    """Feed-forward network of IB-INN's authors, counterpart of the invertible `paper`."""

    kind: Literal["paper"] = "paper"
    variant: Literal["cifar", "mnist"] = "cifar"

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Sequential:
        """Return the authors' ResNet to 48 features (MNIST: 16), 2.21 M parameters with its head.

        Each level ends in a strided block, whose skip is a strided 3x3 convolution, and one more.

        Raises:
            UserError: samples that are not images.
        """
        need_image("paper", shape)
        counts = BLOCKS[self.variant]
        widths, dropouts = PAPER_WIDTHS[-len(counts) :], PAPER_DROPOUT[-len(counts) :]
        conv = partial(ConvNet, generator=generator, norm_eps=1e-4, zero_last=False)
        layers: list[nn.Module] = []
        if self.variant == "mnist":
            layers, shape = _squeeze(shape)
        layers.append(kaiming_conv(shape[0], shape[0], 1, generator))
        for level, count in enumerate(counts):
            if level:
                channels, height, wide = shape
                before, shape = shape, (4 * channels, height // 2, wide // 2)
                skip = kaiming_conv(channels, shape[0], 3, generator, stride=2)
                strided = conv(before, shape[0], width=widths[level], stride=2)
                last = conv(shape, shape[0], width=widths[level])
                layers += [LeakyResidual(strided, skip), LeakyResidual(last)]
            net = partial(conv, shape, shape[0], width=widths[level], dropout=dropouts[level])
            layers += [LeakyResidual(net(leading_relu=bool(level or i))) for i in range(count)]
        dense = partial(MLP, generator=generator, hidden=(1024,), dropout=0.5, zero_last=False)
        return nn.Sequential(*layers, *_dense_end(shape[0], 1, dense))


class Residual(nn.Module):
    """Residual block ReLU(body(x) + shortcut(x)): He et al., CVPR 2016."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H/stride, W/stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


class PreActivated(nn.Module):
    """Residual block body(a) + shortcut, a = ReLU(BatchNorm(x)): Zagoruyko, Komodakis, BMVC 2016.

    The shortcut is a 1x1 convolution of a where the shape changes, else x itself.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, generator: torch.Generator, dropout: float
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.body = nn.Sequential(
            *conv_norm(inputs, outputs, 3, generator, stride),
            nn.ReLU(inplace=True),
            *([Dropout(dropout)] if dropout else []),
            kaiming_conv(outputs, outputs, 3, generator, bias=False),
        )
        self.shortcut: nn.Module | None = None
        if inputs != outputs or stride != 1:
            self.shortcut = kaiming_conv(inputs, outputs, 1, generator, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H/stride, W/stride)."""
        activated = torch.relu(self.norm(x))
        out: Tensor = self.body(activated)
        return out + (x if self.shortcut is None else self.shortcut(activated))


def _stages(
    channels: int,
    widths: list[int],
    counts: tuple[int, ...],
    expansion: int,
    block: Block,
    generator: torch.Generator,
) -> list[nn.Module]:
    """Return the blocks of all stages, each stage after the first halving the resolution."""
    layers = []
    for stage, (width, count) in enumerate(zip(widths, counts, strict=True)):
        for index in range(count):
            stride = 2 if stage and not index else 1
            layers.append(block(channels, width, stride, generator))
            channels = width * expansion
    return layers


def _basic(inputs: int, width: int, stride: int, generator: torch.Generator) -> nn.Module:
    body = nn.Sequential(
        *conv_norm(inputs, width, 3, generator, stride),
        nn.ReLU(inplace=True),
        *conv_norm(width, width, 3, generator),
    )
    return Residual(body, _shortcut(inputs, width, stride, generator))


def _bottleneck(inputs: int, width: int, stride: int, generator: torch.Generator) -> nn.Module:
    outputs = EXPANSION * width
    body = nn.Sequential(
        *conv_norm(inputs, width, 1, generator),
        nn.ReLU(inplace=True),
        *conv_norm(width, width, 3, generator, stride),
        nn.ReLU(inplace=True),
        *conv_norm(width, outputs, 1, generator),
    )
    return Residual(body, _shortcut(inputs, outputs, stride, generator))


def _shortcut(inputs: int, outputs: int, stride: int, generator: torch.Generator) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(*conv_norm(inputs, outputs, 1, generator, stride))


def _pool() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


class LeakyResidual(nn.Module):
    """Residual block LeakyReLU(skip(x) + body(x)), slope 0.01."""

    def __init__(self, body: nn.Module, skip: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.skip = body, skip or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H/stride, W/stride), or (B, D) to (B, D)."""
        out: Tensor = self.skip(x) + self.body(x)
        return nn.functional.leaky_relu(out)


class Forward(nn.Module):
    """Invertible map as a layer: its values without the log-determinant."""

    def __init__(self, of: Invertible) -> None:
        super().__init__()
        self.of = of

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, *in_shape) to (B, *out_shape)."""
        out: Tensor = self.of(x)[0]
        return out


def _squeeze(shape: Shape) -> tuple[list[nn.Module], Shape]:
    """Return space to depth by the factor of `conv_network`, and the shape after it."""
    channels, height, width = shape
    rows, columns = squeeze_factor(shape)
    if rows == columns:
        out = (channels * rows * columns, height // rows, width // columns)
        return ([Forward(SpaceToDepth(shape, rows))] if rows > 1 else []), out
    raise UserError(
        f"network.kind=residual: expected sides that both divide by 2 or by 3, got {shape}; "
        "use network.kind=cnn or resnet"
    )


def _dense_end(features: int, blocks: int, dense: partial[MLP]) -> list[nn.Module]:
    return [*_pool(), *[LeakyResidual(dense((features,), features)) for _ in range(blocks)]]
