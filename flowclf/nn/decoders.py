"""Decoder networks from latents (B, D) to a likelihood's parameters (B, outputs, *shape).

They have no BatchNorm, whose statistics are re-estimated through the encoder alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from couplings.conditioners import kaiming_conv, kaiming_linear
from couplings.core import Shape
from flowclf.nn.layers import Nonlinearity, dense_layers, need_image
from flowclf.settings import Section, Widths

__all__ = [
    "ConvDecoderSettings",
    "DecoderSettings",
    "MLPDecoderSettings",
    "conv_decoder",
    "mlp_decoder",
]


class MLPDecoderSettings(Section):
    """Fully connected decoder."""

    kind: Literal["mlp"] = "mlp"
    hidden: Widths = (256, 256)
    nonlinearity: Literal["relu", "tanh"] = "relu"


class ConvDecoderSettings(Section):
    """Convolutional decoder of images."""

    kind: Literal["conv"] = "conv"
    width: Widths = (32, 16)  # channels, each behind an upsampling
    hidden: Widths = (128,)


DecoderSettings = Annotated[MLPDecoderSettings | ConvDecoderSettings, Field(discriminator="kind")]


def mlp_decoder(
    dims: int,
    outputs: int,
    shape: Shape,
    generator: torch.Generator,
    *,
    hidden: tuple[int, ...] = (256, 256),
    nonlinearity: Nonlinearity = "relu",
) -> nn.Sequential:
    """Return [Linear, ReLU] for each hidden width and a last linear layer."""
    layers = dense_layers(dims, hidden, 0.0, generator, nonlinearity)
    numbers = outputs * torch.Size(shape).numel()
    last = kaiming_linear(hidden[-1] if hidden else dims, numbers, generator, gain=0.5**0.5)
    return nn.Sequential(*layers, last, nn.Unflatten(1, (outputs, *shape)))


def conv_decoder(
    dims: int,
    outputs: int,
    shape: Shape,
    generator: torch.Generator,
    *,
    width: tuple[int, ...] = (32, 16),
    hidden: tuple[int, ...] = (128,),
) -> nn.Sequential:
    """Return dense layers to a small image and [upsampling, conv 3x3, ReLU] for each width.

    The counterpart of `cnn` for images of any size: the last (nearest) upsampling is to the full
    size, the one before to half of it, rounded up, and so on.

    Raises:
        UserError: samples that are not images.
    """
    need_image("conv", shape)
    channels, *sides = shape
    # Sides after k poolings, rounded up, at least 1.
    sizes = [[max(1, -(-side // 2**k)) for side in sides] for k in range(len(width), -1, -1)]
    dense = dense_layers(dims, hidden, 0.0, generator)
    rows, columns = sizes[0]
    small = kaiming_linear(hidden[-1] if hidden else dims, width[0] * rows * columns, generator)
    layers: list[nn.Module] = [*dense, small, nn.ReLU(), nn.Unflatten(1, (width[0], rows, columns))]
    for before, after, (rows, columns) in zip((width[0], *width), width, sizes[1:], strict=False):
        conv = kaiming_conv(before, after, 3, generator)
        layers += [nn.Upsample((rows, columns)), conv, nn.ReLU()]
    last = kaiming_conv(width[-1], outputs * channels, 3, generator, gain=0.5**0.5)
    return nn.Sequential(*layers, last, Contiguous(), nn.Unflatten(1, (outputs, channels)))


class Contiguous(nn.Module):
    """Conversion to row-major memory, whatever format the convolution chose."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x, contiguous."""
        return x.contiguous()
