"""Layers and checks that the backbones share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from couplings.conditioners import kaiming_conv, kaiming_linear
from couplings.core import Shape
from flowclf.support.errors import UserError

__all__ = [
    "ChannelsLast",
    "Nonlinearity",
    "conv_norm",
    "dense_layers",
    "feature_count",
    "need_image",
]

Nonlinearity = Literal["relu", "tanh"]


class ChannelsLast(nn.Module):
    """Conversion to channels-last memory, which each convolution on a CPU would else do itself."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x in channels-last memory."""
        return x.contiguous(memory_format=torch.channels_last)


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
        layers += [nn.Dropout(dropout)] if dropout else []
    return layers


def need_image(name: str, shape: Shape) -> None:
    """Check that samples are images.

    Raises:
        UserError: a shape other than (C, H, W).
    """
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
