"""Convolutional network that learns small colour images in few epochs.

Jordan, "94% on CIFAR-10 in 3.29 seconds on a single A100", 2024 (arXiv 2404.00498).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from couplings import Whitening
from couplings.conditioners import kaiming_conv
from couplings.core import Shape
from flowclf.nn.plain import ChannelsLast, need_image
from flowclf.nn.resnet import Forward
from flowclf.settings import Section, Widths
from flowclf.support.errors import UserError

__all__ = ["WhitenedCNNSettings"]

PATCH = 2  # side of the patches whose pixels are decorrelated


class WhitenedCNNSettings(Section):
    """Convolutions on whitened patches, each of them the identity at first where it can be."""

    kind: Literal["whitened-cnn"] = "whitened-cnn"
    width: Widths = (64, 256, 256)  # channels of each block, which halves the resolution

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Sequential:
        """Return whitened patches of both signs, a block for each width, max-pooling to (B, D).

        A block is [conv 3x3, max-pool 2x2, BatchNorm, GELU, conv 3x3, BatchNorm, GELU]; D is the
        last width.

        Raises:
            UserError: samples that are not images, or too small to be halved so often.
        """
        need_image("whitened-cnn", shape)
        channels, height, wide = shape
        least = PATCH - 1 + 2 ** len(self.width)
        if min(height, wide) < least:
            raise UserError(
                f"expected sides of {least} at least to halve them {len(self.width)} times, got "
                f"{shape}; set fewer network.width, or network.kind=cnn"
            )
        channels *= PATCH**2
        whitened = (channels, height - PATCH + 1, wide - PATCH + 1)
        layers: list[nn.Module] = [Patches(), ChannelsLast(), Forward(Whitening(whitened))]
        layers += [BothSigns(), nn.GELU()]
        channels *= 2
        for width in self.width:
            layers += [_conv(channels, width, generator), nn.MaxPool2d(2), *_norm(width)]
            layers += [_conv(width, width, generator), *_norm(width)]
            channels = width
        return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())


class Patches(nn.Module):
    """Overlapping patches as channels: (B, C, H, W) to (B, 4C, H-1, W-1)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the pixels of each patch."""
        height, wide = (side - PATCH + 1 for side in x.shape[2:])
        corners = [(i, j) for i in range(PATCH) for j in range(PATCH)]
        return torch.cat([x[:, :, i : i + height, j : j + wide] for i, j in corners], dim=1)


class BothSigns(nn.Module):
    """Channels x and -x, of which a rectifier then loses nothing: (B, C, …) to (B, 2C, …)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x and -x."""
        return torch.cat((x, -x), dim=1)


def _conv(inputs: int, outputs: int, generator: torch.Generator) -> nn.Conv2d:
    """Return a 3x3 convolution whose first channels pass their input on."""
    conv = kaiming_conv(inputs, outputs, 3, generator, bias=False)
    nn.init.dirac_(conv.weight.data[:inputs])
    return conv


def _norm(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.GELU()]
