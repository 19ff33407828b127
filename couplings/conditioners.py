"""Networks that predict a coupling's parameters. They need not be invertible.

Each is called as `net(x, context)`; a context (B, F) is appended to the features, or to every
position of an image. Weights are drawn from the generator handed in, never from a global one.
"""

from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from couplings.core import Shape, ShapeError
from couplings.ops.dispatch import keeps_channels_last, prefers_channels_last

Activation = Literal["relu", "silu"]
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)

__all__ = ["MLP", "Activation", "ConvNet", "kaiming_conv", "kaiming_linear"]


class MLP(nn.Module):
    """Fully connected network: [Linear, ReLU, Dropout] per hidden width, then Linear.

    Args:
        in_shape: (F,).
        out_features: number of outputs.
        context_features: width of the context.
        hidden: the hidden widths.
        generator: where the weights come from.
        dropout: probability of a hidden unit's absence.
        batch_norm: a BatchNorm1d before each ReLU.
        gain: factor on Kaiming-normal weights.
        zero_last: start with zeros in the last layer, so that an affine coupling is the identity.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_features: int,
        context_features: int = 0,
        *,
        generator: torch.Generator,
        hidden: Sequence[int] = (128,),
        dropout: float = 0.0,
        batch_norm: bool = False,
        gain: float = 1.0,
        zero_last: bool = True,
    ) -> None:
        super().__init__()
        if len(in_shape) != 1:
            raise ShapeError(
                f"MLP: expected features (F,), got {tuple(in_shape)}; put Flatten before it, "
                "or use ConvNet"
            )
        widths = [in_shape[0] + context_features, *hidden]
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers.append(kaiming_linear(before, after, generator, gain))
            if batch_norm:
                layers.append(nn.BatchNorm1d(after))
            layers.append(nn.ReLU(inplace=True))
            if dropout:
                layers.append(nn.Dropout(dropout))
        last_gain = 0.0 if zero_last else gain
        layers.append(kaiming_linear(widths[-1], out_features, generator, last_gain))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, F) to (B, out_features)."""
        out: Tensor = self.layers(x if context is None else torch.cat((x, context), dim=1))
        return out


class ConvNet(nn.Module):
    """Body of a residual block: [ReLU], twice conv3x3, BN, ReLU; then [Dropout2d], conv1x1.

    Args:
        in_shape: (C, H, W).
        out_channels: number of output channels.
        context_features: width of the context.
        generator: where the weights come from.
        width: hidden channels.
        stride: of the second convolution.
        leading_relu: begin with a ReLU (pre-activation), as IB-INN's blocks do.
        dropout: probability of a hidden channel's absence.
        batch_norm: normalise after both 3x3 convolutions (which then carry no bias).
        norm_eps, norm_momentum: of the BatchNorm.
        activation: after each normalisation, "relu" or "silu".
        zero_last: start with zeros in the last layer, so that an affine coupling is the identity.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_channels: int,
        context_features: int = 0,
        *,
        generator: torch.Generator,
        width: int = 32,
        stride: int = 1,
        leading_relu: bool = False,
        dropout: float = 0.0,
        batch_norm: bool = True,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        activation: Activation = "relu",
        zero_last: bool = True,
    ) -> None:
        super().__init__()
        if len(in_shape) != 3:
            raise ShapeError(
                f"ConvNet: expected an image shape (C, H, W), got {tuple(in_shape)}; "
                "use MLP for features"
            )

        def normalised(channels: int, stride: int) -> list[nn.Module]:
            conv = kaiming_conv(channels, width, 3, generator, stride=stride, bias=not batch_norm)
            norm = nn.BatchNorm2d(width, eps=norm_eps, momentum=norm_momentum)
            # In place: neither backward needs what the ReLU overwrites.
            rectify = nn.ReLU(inplace=True) if activation == "relu" else nn.SiLU()
            return [conv, norm, rectify] if batch_norm else [conv, rectify]

        last = kaiming_conv(width, out_channels, 1, generator, gain=0.0 if zero_last else 1.0)
        self.layers = nn.Sequential(
            *([nn.ReLU()] if leading_relu else []),
            *normalised(in_shape[0] + context_features, 1),
            *normalised(width, stride),
            *([nn.Dropout2d(dropout)] if dropout else []),
            last,
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H/stride, W/stride)."""
        if context is not None:
            planes = context[:, :, None, None].expand(-1, -1, *x.shape[2:])
            x = torch.cat((x, planes), dim=1)
        if prefers_channels_last(x):
            x = x.contiguous(memory_format=torch.channels_last)
        out: Tensor = self.layers(x)
        return out if keeps_channels_last(x) else out.contiguous()


def kaiming_linear(
    inputs: int, outputs: int, generator: torch.Generator, gain: float = 1.0
) -> nn.Linear:
    """Build a linear layer with weights gain · N(0, 2/inputs) and zero bias."""
    return _initialised(skip_init(nn.Linear, inputs, outputs), generator, gain)


def kaiming_conv(
    inputs: int,
    outputs: int,
    size: int,
    generator: torch.Generator,
    *,
    stride: int = 1,
    bias: bool = True,
    gain: float = 1.0,
) -> nn.Conv2d:
    """Build a convolution that keeps the resolution at stride 1; weights gain · N(0, 2/fan_in)."""
    layer = skip_init(nn.Conv2d, inputs, outputs, size, stride=stride, padding=size // 2, bias=bias)
    return _initialised(layer, generator, gain)


def _initialised(layer: Layer, generator: torch.Generator, gain: float) -> Layer:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    with torch.no_grad():
        layer.weight.mul_(gain)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer
