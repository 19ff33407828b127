"""Networks from latents (B, D) back to what a likelihood needs, (B, outputs, *shape).

Without BatchNorm: its statistics are re-estimated through the encoder alone.
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
    """[Linear, ReLU] for each hidden width, and a last linear layer."""
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
    """Dense layers to a small image, then [nearest upsampling, conv 3x3, ReLU] for each width.

    The counterpart of `cnn`, for images of any size: the last upsampling goes to their size, the
    ones before to half of it and so on, rounded up.

    Raises:
        UserError: samples that are not images.
    """
    need_image("conv", shape)
    channels, *sides = shape
    sizes = [(_halved(sides[0], k), _halved(sides[1], k)) for k in range(len(width), -1, -1)]
    dense = dense_layers(dims, hidden, 0.0, generator)
    rows, columns = sizes[0]
    small = kaiming_linear(hidden[-1] if hidden else dims, width[0] * rows * columns, generator)
    layers: list[nn.Module] = [*dense, small, nn.ReLU(), nn.Unflatten(1, (width[0], rows, columns))]
    for before, after, size in zip((width[0], *width), width, sizes[1:], strict=False):
        layers += [nn.Upsample(size), kaiming_conv(before, after, 3, generator), nn.ReLU()]
    last = kaiming_conv(width[-1], outputs * channels, 3, generator, gain=0.5**0.5)
    return nn.Sequential(*layers, last, Contiguous(), nn.Unflatten(1, (outputs, channels)))


class Contiguous(nn.Module):
    """Rows, then columns in memory, whatever the convolution chose."""

    def forward(self, x: Tensor) -> Tensor:
        """The same numbers."""
        return x.contiguous()


def _halved(side: int, times: int) -> int:
    """A side after that many poolings, rounded up, at least 1."""
    return max(1, -(-side // 2**times))
