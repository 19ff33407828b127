"""Residual networks in their CIFAR form: a 3x3 stem at full resolution, no max-pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from couplings.conditioners import kaiming_conv
from couplings.core import Shape
from flowclf.nn.layers import ChannelsLast, conv_norm, need_image
from flowclf.settings import Depth, Fraction, Positive, Section
from flowclf.support.errors import UserError

__all__ = ["CifarResNetSettings", "WideResNetSettings", "resnet", "wide_resnet"]

# Blocks in each of the four stages; True for bottleneck blocks.
DEPTHS = {
    10: ((1, 1, 1, 1), False),
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
}
EXPANSION = 4

Block = Callable[[int, int, int, torch.Generator], nn.Module]


class CifarResNetSettings(Section):
    """ResNet in its CIFAR form."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[10, 18, 34, 50] = 18
    width: Positive = 64


class WideResNetSettings(Section):
    """WideResNet; by default WRN-28-10."""

    kind: Literal["wide-resnet"] = "wide-resnet"
    depth: Depth = 28
    width: Positive = 10
    dropout: Fraction = 0.0


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
            *([nn.Dropout(dropout)] if dropout else []),
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


def resnet(
    shape: Shape, generator: torch.Generator, *, depth: int = 18, width: int = 64
) -> nn.Sequential:
    """Return a ResNet with stages of 1, 2, 4 and 8 times the width, pooled to features (B, D).

    D is 8 · width, four times that for bottlenecks (depth 50).

    Raises:
        UserError: an unknown depth.
    """
    need_image("resnet", shape)
    if depth not in DEPTHS:
        raise UserError(f"expected network.depth of {', '.join(map(str, DEPTHS))}, got {depth}")
    counts, bottleneck = DEPTHS[depth]
    block = _bottleneck if bottleneck else _basic
    stem = [*conv_norm(shape[0], width, 3, generator), nn.ReLU(inplace=True)]
    widths = [width * 2**stage for stage in range(4)]
    expansion = EXPANSION if bottleneck else 1
    stages = _stages(width, widths, counts, expansion, block, generator)
    return nn.Sequential(ChannelsLast(), *stem, *stages, *_pool())


def wide_resnet(
    shape: Shape,
    generator: torch.Generator,
    *,
    depth: int = 28,
    width: int = 10,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return WideResNet-depth-width: stages of 16, 32 and 64 times the width; D = 64 · width.

    Raises:
        UserError: a depth that is not 6n + 4.
    """
    need_image("wide-resnet", shape)
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise UserError(f"expected network.depth of 6n + 4 (10, 16, 28 …), got {depth}")

    def block(inputs: int, outputs: int, stride: int, generator: torch.Generator) -> nn.Module:
        return PreActivated(inputs, outputs, stride, generator, dropout)

    widths = [16 * width, 32 * width, 64 * width]
    stages = _stages(16, widths, (blocks,) * 3, 1, block, generator)
    stem = kaiming_conv(shape[0], 16, 3, generator, bias=False)
    last = [nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True)]
    return nn.Sequential(ChannelsLast(), stem, *stages, *last, *_pool())


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
