"""Fully connected and small convolutional backbones."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from couplings.core import Shape
from flowclf.nn.layers import (
    ChannelsLast,
    Nonlinearity,
    conv_norm,
    dense_layers,
    need_image,
)
from flowclf.settings import Fraction, Section, Widths

__all__ = ["CNNSettings", "PlainSettings", "cnn", "mlp"]


class PlainSettings(Section):
    """Fully connected feed-forward network."""

    kind: Literal["mlp"] = "mlp"
    hidden: Widths = (256, 128)
    dropout: Fraction = 0.0
    nonlinearity: Literal["relu", "tanh"] = "relu"


class CNNSettings(Section):
    """Small convolutional network."""

    kind: Literal["cnn"] = "cnn"
    width: Widths = (32, 64)  # each followed by a pooling
    hidden: Widths = (128,)
    dropout: Fraction = 0.0


def mlp(
    shape: Shape,
    generator: torch.Generator,
    *,
    hidden: tuple[int, ...] = (256, 128),
    dropout: float = 0.0,
    nonlinearity: Nonlinearity = "relu",
) -> nn.Sequential:
    """Return Flatten and [Linear, ReLU, Dropout] per width: (B, *shape) to (B, hidden[-1]).

    On averaged one-hot words of a text the first layer is an averaged embedding.
    """
    features = int(torch.Size(shape).numel())
    layers = dense_layers(features, hidden, dropout, generator, nonlinearity)
    return nn.Sequential(nn.Flatten(), *layers)


def cnn(
    shape: Shape,
    generator: torch.Generator,
    *,
    width: tuple[int, ...] = (32, 64),
    hidden: tuple[int, ...] = (128,),
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return [conv 3x3, BatchNorm, ReLU, max-pool 2x2] for each width, then dense layers.

    Images too small for all poolings are pooled as often as possible.
    """
    need_image("cnn", shape)
    channels, height, wide = shape
    layers: list[nn.Module] = [ChannelsLast()]
    for outputs in width:
        layers += [*conv_norm(channels, outputs, 3, generator), nn.ReLU(inplace=True)]
        channels = outputs
        if min(height, wide) >= 2:
            layers.append(nn.MaxPool2d(2))
            height, wide = height // 2, wide // 2
    layers.append(nn.Flatten())
    return nn.Sequential(
        *layers, *dense_layers(channels * height * wide, hidden, dropout, generator)
    )
