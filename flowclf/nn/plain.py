"""Fully connected and small convolutional networks: backbones, decoders and their layers.

Backbones map x (B, *shape) to features (B, D), decoders map latents (B, D) to a likelihood's
parameters (B, outputs, *shape). Decoders have no BatchNorm, whose statistics are re-estimated
through the encoder alone.
"""

from math import pi
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import one_hot

from couplings.conditioners import Dropout, kaiming_conv, kaiming_linear
from couplings.core import Shape
from flowclf.settings import Fraction, Section, Widths
from flowclf.support.errors import UserError

__all__ = [
    "CNNSettings",
    "ChannelsLast",
    "ConvDecoderSettings",
    "DecoderSettings",
    "MLPDecoderSettings",
    "PlainSettings",
    "blobs",
    "class_means",
    "conv_norm",
    "dense_layers",
    "feature_count",
    "need_image",
]

Nonlinearity = Literal["relu", "tanh"]
BLOB_WIDTH = 0.12  # of half the image


class ChannelsLast(nn.Module):
    """Conversion to channels-last memory, which each convolution on a CPU would else do itself."""

    memory_format = torch.channels_last

    def forward(self, x: Tensor) -> Tensor:
        """Return x in this memory format."""
        return x.contiguous(memory_format=self.memory_format)


class Contiguous(ChannelsLast):
    """Conversion to row-major memory, whatever format a convolution chose."""

    memory_format = torch.contiguous_format


def conv_norm(
    inputs: int, outputs: int, size: int, generator: torch.Generator, stride: int = 1
) -> list[nn.Module]:
    """Return a convolution without bias, and BatchNorm."""
    conv = kaiming_conv(inputs, outputs, size, generator, stride=stride, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def dense_layers(
    features: int,
    hidden: tuple[int, ...],
    dropout: float,
    generator: torch.Generator,
    nonlinearity: Nonlinearity = "relu",
) -> list[nn.Module]:
    """Return [Linear, ReLU or tanh, Dropout] for each width."""
    relu = nonlinearity == "relu"
    layers: list[nn.Module] = []
    for before, after in zip((features, *hidden), hidden, strict=False):
        layers.append(kaiming_linear(before, after, generator, 1.0 if relu else 0.5**0.5))
        layers.append(nn.ReLU(inplace=True) if relu else nn.Tanh())
        layers += [Dropout(dropout)] if dropout else []
    return layers


def need_image(name: str, shape: Shape) -> None:
    """Raise UserError unless samples are images (C, H, W)."""
    if len(shape) != 3:
        raise UserError(
            f"network.kind={name}: expected images (C, H, W), got samples of shape {shape}; "
            "use network.kind=mlp"
        )


@torch.no_grad()
def feature_count(network: nn.Module, shape: Shape) -> int:
    """Return D of a network from (B, *shape) to (B, D).

    Raises:
        UserError: another output.
    """
    # A user's module may keep submodules in another mode.
    modes = {module: module.training for module in network.modules()}
    like = next(network.parameters(), torch.zeros(()))
    out = network.eval()(torch.zeros(2, *shape, dtype=like.dtype, device=like.device))
    for module, training in modes.items():
        module.training = training
    if not isinstance(out, Tensor) or out.dim() != 2 or len(out) != 2:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise UserError(f"expected a backbone from (B, *{shape}) to (B, D), got {got} for B = 2")
    return out.shape[1]


class PlainSettings(Section):
    """Fully connected feed-forward network: (B, *shape) to (B, hidden[-1])."""

    kind: Literal["mlp"] = "mlp"
    hidden: Widths = (256, 128)
    dropout: Fraction = 0.0
    nonlinearity: Nonlinearity = "relu"

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Sequential:
        """Return Flatten and [Linear, ReLU, Dropout] for each hidden width.

        On averaged one-hot words of a text the first layer is an averaged embedding.
        """
        features = torch.Size(shape).numel()
        layers = dense_layers(features, self.hidden, self.dropout, generator, self.nonlinearity)
        return nn.Sequential(nn.Flatten(), *layers)


class CNNSettings(Section):
    """Small convolutional network."""

    kind: Literal["cnn"] = "cnn"
    width: Widths = (32, 64)  # each followed by a pooling
    hidden: Widths = (128,)
    dropout: Fraction = 0.0

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Sequential:
        """Return [conv 3x3, BatchNorm, ReLU, max-pool 2x2] for each width, then dense layers.

        Images too small for all poolings are pooled as often as possible.

        Raises:
            UserError: samples that are not images.
        """
        need_image("cnn", shape)
        channels, height, wide = shape
        layers: list[nn.Module] = [ChannelsLast()]
        for outputs in self.width:
            layers += [*conv_norm(channels, outputs, 3, generator), nn.ReLU(inplace=True)]
            channels = outputs
            if min(height, wide) >= 2:
                layers.append(nn.MaxPool2d(2))
                height, wide = height // 2, wide // 2
        dense = dense_layers(channels * height * wide, self.hidden, self.dropout, generator)
        return nn.Sequential(*layers, nn.Flatten(), *dense)


class MLPDecoderSettings(Section):
    """Fully connected decoder."""

    kind: Literal["mlp"] = "mlp"
    hidden: Widths = (256, 256)
    nonlinearity: Nonlinearity = "relu"

    def build(
        self, dims: int, outputs: int, shape: Shape, generator: torch.Generator
    ) -> nn.Sequential:
        """Return [Linear, ReLU] for each hidden width and a last linear layer."""
        layers = dense_layers(dims, self.hidden, 0.0, generator, self.nonlinearity)
        numbers = outputs * torch.Size(shape).numel()
        last = kaiming_linear((dims, *self.hidden)[-1], numbers, generator, gain=0.5**0.5)
        return nn.Sequential(*layers, last, nn.Unflatten(1, (outputs, *shape)))


class ConvDecoderSettings(Section):
    """Convolutional decoder of images."""

    kind: Literal["conv"] = "conv"
    width: Widths = (32, 16)  # channels, each behind an upsampling
    hidden: Widths = (128,)

    def build(
        self, dims: int, outputs: int, shape: Shape, generator: torch.Generator
    ) -> nn.Sequential:
        """Return dense layers to a small image and [upsampling, conv 3x3, ReLU] for each width.

        The counterpart of `CNNSettings` for images of any size: the last (nearest) upsampling is to
        the full size, the one before to half of it, rounded up, and so on.

        Raises:
            UserError: samples that are not images.
        """
        need_image("conv", shape)
        channels, *sides = shape
        # Sides after k poolings, rounded up, at least 1.
        poolings = range(len(self.width), -1, -1)
        sizes = [[max(1, -(-side // 2**k)) for side in sides] for k in poolings]
        small = (self.width[0], *sizes[0])
        numbers = torch.Size(small).numel()
        dense = dense_layers(dims, self.hidden, 0.0, generator)
        first = kaiming_linear((dims, *self.hidden)[-1], numbers, generator)
        layers: list[nn.Module] = [*dense, first, nn.ReLU(), nn.Unflatten(1, small)]
        before = self.width[0]
        for after, (rows, columns) in zip(self.width, sizes[1:], strict=True):
            conv = kaiming_conv(before, after, 3, generator)
            layers += [nn.Upsample((rows, columns)), conv, nn.ReLU()]
            before = after
        last = kaiming_conv(before, outputs * channels, 3, generator, gain=0.5**0.5)
        return nn.Sequential(*layers, last, Contiguous(), nn.Unflatten(1, (outputs, channels)))


DecoderSettings = Annotated[MLPDecoderSettings | ConvDecoderSettings, Field(discriminator="kind")]


def class_means(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """Return the average x of each class, (K, *shape), of x (N, *shape) with labels y (N,)."""
    members = one_hot(y, classes).float()
    sums = members.T @ x.flatten(1).float()
    return (sums / members.sum(0)[:, None]).unflatten(1, x.shape[1:])


def blobs(shape: Shape, classes: int, top: float) -> Tensor:
    """Return Gaussian blobs of height `top` on a circle around the centre: (K, C, H, W)."""
    rows, columns = (torch.linspace(-1, 1, side) for side in shape[-2:])
    angles = 2 * pi * torch.arange(classes) / classes
    vertical = (rows - 0.6 * angles.sin()[:, None]).square()
    horizontal = (columns - 0.6 * angles.cos()[:, None]).square()
    square = vertical[:, :, None] + horizontal[:, None, :]
    blob = top * (-0.5 * square / BLOB_WIDTH**2).exp()
    return blob[:, None].expand(classes, *shape).clone()
