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

__all__ = [
    "MLP",
    "Activation",
    "ConvNet",
    "TokenNet",
    "kaiming_conv",
    "kaiming_linear",
]


class Dropout(nn.Dropout):
    """Dropout that draws from its own `generator`, set by whoever trains; None: torch's default.

    The same state of either gives the same mask.
    """

    generator: torch.Generator | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Zero numbers of (B, ...) with probability p, and scale the others by 1/(1 - p)."""
        if self.generator is None or not self.training:
            return super().forward(input)
        return input * _kept(input.shape, self.p, self.generator, input)


class Dropout2d(nn.Dropout2d):
    """Dropout of whole channels, with a `generator` as of `Dropout`."""

    generator: torch.Generator | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Zero channels of (B, C, H, W) with probability p, and scale the others by 1/(1 - p)."""
        if self.generator is None or not self.training:
            return super().forward(input)
        return input * _kept((*input.shape[:2], 1, 1), self.p, self.generator, input)


def _kept(shape: Sequence[int], p: float, generator: torch.Generator, like: Tensor) -> Tensor:
    mask = like.new_empty(shape).bernoulli_(1 - p, generator=generator)
    return mask.div_(1 - p) if p < 1 else mask


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
                layers.append(Dropout(dropout))
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
            *([Dropout2d(dropout)] if dropout else []),
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


class TokenNet(nn.Module):
    """Transformer or MLP-Mixer over the patches of an image, the tokens: it sees all of it.

    A linear layer and learned positions, N(0, 1/width) each, then blocks of
    [LayerNorm, mixing of tokens] and [LayerNorm, MLP of each token], both residual, and a linear
    layer back to the patch. Kolesnikov, Pinto, Tschannen, "Jet: a modern transformer-based
    normalizing flow", 2024; Tolstikhin et al., "MLP-Mixer", NeurIPS 2021.

    Args:
        in_shape: (C, H, W).
        out_channels: number of output channels.
        context_features: width of the context.
        generator: where the weights come from.
        width: features of a token.
        blocks: number of blocks.
        patch: side of a patch, which divides H and W; None: the least that leaves 64 tokens or
            fewer, or else one.
        mixing: "attention", with heads of 32 features or as many as there are, or an "mlp" across
            the tokens.
        zero_last: start with zeros in the last layer, so that an affine coupling is the identity.

    Raises:
        ShapeError: no image, or sides that are no multiples of the patch's.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_channels: int,
        context_features: int = 0,
        *,
        generator: torch.Generator,
        width: int = 64,
        blocks: int = 1,
        patch: int | None = None,
        mixing: Literal["attention", "mlp"] = "attention",
        zero_last: bool = True,
    ) -> None:
        super().__init__()
        patch = _patch_of(in_shape) if patch is None else patch
        if len(in_shape) != 3 or in_shape[1] % patch or in_shape[2] % patch:
            raise ShapeError(
                f"TokenNet: expected an image shape (C, H, W) with sides that are multiples of "
                f"{patch}, got {tuple(in_shape)}"
            )
        self.patch, numbers = patch, patch * patch
        tokens = in_shape[1] * in_shape[2] // numbers
        inputs = in_shape[0] * numbers + context_features
        self.embed = kaiming_linear(inputs, width, generator, 0.5**0.5)
        drawn = torch.randn(tokens, width, generator=generator) / width**0.5
        self.positions = nn.Parameter(drawn)
        layers: list[nn.Module] = []
        for _ in range(blocks):
            attention = mixing == "attention"
            mixer = Attention(width, generator) if attention else TokenMLP(tokens, generator)
            layers += [Residual(width, mixer), Residual(width, token_mlp(width, generator))]
        gain = 0.0 if zero_last else 0.5**0.5
        last = kaiming_linear(width, out_channels * numbers, generator, gain)
        self.layers = nn.Sequential(*layers, nn.LayerNorm(width), last)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H, W)."""
        size = self.patch
        patches = x.unflatten(3, (-1, size)).unflatten(2, (-1, size)).permute(0, 2, 4, 1, 3, 5)
        tokens = patches.flatten(3).flatten(1, 2)
        if context is not None:
            tokens = torch.cat((tokens, context[:, None].expand(-1, tokens.shape[1], -1)), dim=2)
        out = (
            self.layers(self.embed(tokens) + self.positions)
            .unflatten(2, (-1, size, size))
            .unflatten(1, patches.shape[1:3])
        )
        return out.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def _patch_of(shape: Shape) -> int:
    """Return the least side of patches that divides both sides and leaves 64 tokens or fewer."""
    sides = shape[1:]
    fitting = (
        side for side in range(1, min(sides, default=1) + 1) if not any(n % side for n in sides)
    )
    return next((s for s in fitting if torch.Size(sides).numel() <= 64 * s * s), 1)


class Residual(nn.Module):
    """Residual branch x + net(LayerNorm(x)) on tokens (B, N, F)."""

    def __init__(self, width: int, net: nn.Module) -> None:
        super().__init__()
        self.norm, self.net = nn.LayerNorm(width), net

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, F) to the same shape."""
        out: Tensor = x + self.net(self.norm(x))
        return out


class Attention(nn.Module):
    """Self-attention of tokens (B, N, F), in heads of 32 features where they divide F."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = width // 32 if width % 32 == 0 else 1
        self.inward = kaiming_linear(width, 3 * width, generator, 0.5**0.5)
        self.outward = kaiming_linear(width, width, generator, 0.5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, F) to the same shape."""
        query, key, value = self.inward(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(3)
        out: Tensor = self.outward((weights @ value).transpose(1, 2).flatten(2))
        return out


class TokenMLP(nn.Module):
    """MLP across the tokens (B, N, F), the same for each feature."""

    def __init__(self, tokens: int, generator: torch.Generator) -> None:
        super().__init__()
        self.net = token_mlp(tokens, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, F) to the same shape."""
        out: Tensor = self.net(x.mT).mT
        return out


def token_mlp(width: int, generator: torch.Generator) -> nn.Sequential:
    """Build Linear, GELU, Linear with twice as many hidden features."""
    first = kaiming_linear(width, 2 * width, generator)
    return nn.Sequential(first, nn.GELU(), kaiming_linear(2 * width, width, generator, 0.5**0.5))


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
