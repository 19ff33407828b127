"""Encoders from data to the latent space, and the noise that dequantizes the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import e, inf, log, pi
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from couplings import Invertible
from couplings.core import Shape
from couplings.ops.dispatch import widen
from flowclf.nn.learned_noise import LearnedNoise
from flowclf.settings import Positive, Section, Weight
from flowclf.support.collectives import normal_like

__all__ = [
    "DeltaEncoder",
    "Encoder",
    "EncoderKind",
    "Encoding",
    "GaussianEncoder",
    "InvertibleEncoder",
    "Noise",
    "NoiseSettings",
    "log_softplus",
]

EncoderKind = Literal["invertible", "gaussian", "delta", "relaxed-label"]


class NoiseSettings(Section):
    """Noise added to x before it is encoded."""

    uniform: Weight = 1.0  # in grey levels; 1 makes log-probabilities a bound on the discrete ones
    sigma: Weight = 0.0  # in units of 255 grey levels, or of each feature's standard deviation
    # Copies of x with noise of this sigma, the same for every x, that q(k|x) is averaged over; 0: x
    # itself, as it is.
    draws: Annotated[int, Field(ge=0, le=1000)] = 0
    # Of flows: share of the way to the mean of the clean x that each copy goes first (`denoise`).
    denoise: Annotated[float, Field(ge=0, le=1)] = 0.0
    # Of flows on images: train with noise within the grey levels whose density is learned, in place
    # of the uniform one, by a network of this width.
    learned: bool = False
    width: Positive = 32


class Noise(nn.Module):
    """x' = x + U[0, uniform) + sigma · unit · N(0, 1), in the data's own units.

    `uniform` is in grey levels (1: exact; 0: none), `unit` 255 for 8-bit images and for tables each
    feature's standard deviation. IB-INN: Sec. 2.1; its code uses uniform 255/256 and sigma 0.01 of
    the range [0, 1].
    """

    unit: Tensor
    normal: Tensor  # of the copies (draws, *shape), the same on every device

    def __init__(
        self,
        shape: Shape,
        uniform: float,
        sigma: float,
        unit: float,
        draws: int = 0,
        learned: LearnedNoise | None = None,
        denoise: float = 0.0,
    ) -> None:
        super().__init__()
        self.uniform, self.sigma, self.draws, self.learned = uniform, sigma, draws, learned
        self.denoise = denoise
        self.register_buffer("unit", torch.full(shape, float(unit)))
        normal = torch.randn(draws, *shape, generator=torch.Generator().manual_seed(0))
        self.register_buffer("normal", normal, persistent=False)

    def copies(self, x: Tensor) -> Sequence[Tensor]:
        """Return points x (B, *shape) with each noise that a posterior is averaged over, or x."""
        if not self.draws:
            return (x,)
        return [x + self.sigma * self.unit * normal for normal in self.normal]

    def entropy(self, *, floating: bool = False) -> float:
        """Return the differential entropy of the noise in all dimensions, nats; -inf without noise.

        log w for U[0, w), ½ log(2πe s²) for N(0, s²), by quadrature for their sum. `floating` data
        get the normal part only.
        """
        width = 0.0 if floating else self.uniform
        std = self.sigma * self.unit.double().flatten()
        pairs = zip(*(v.tolist() for v in std.unique(return_counts=True)), strict=True)
        return sum(count * _noise_entropy(width, value) for value, count in pairs)

    def set_unit(self, unit: Tensor) -> None:
        """Replace the unit of `sigma` by one that broadcasts to a sample."""
        self.unit = unit.expand(self.unit.shape).to(self.unit).clone()

    @property
    def level_middle(self) -> float:
        """Middle of a grey level above its integer value, in grey levels."""
        return self.uniform / 2

    def to_points(self, x: Tensor) -> Tensor:
        """Return x in the floating type of this module, integers at the middle of their level."""
        return x.to(self.unit.dtype) + (0.0 if x.is_floating_point() else self.level_middle)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return noisy x in the floating type of this module; `generator` on x's device."""
        return self.draw(x, generator)[0]

    def draw(
        self, x: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return noisy x, and log q(u|x) (B,) of a noise u that is learned, nats; else None."""
        log_prob = None
        if self.learned is None or x.is_floating_point():
            x = self.dequantize(x, generator, self.uniform)
        else:
            u, log_prob = self.learned(x, generator)
            x = x.to(self.unit.dtype) + u
        if self.sigma:
            normal = torch.empty_like(x).normal_(generator=generator)
            x = x + self.sigma * self.unit * normal
        return x, log_prob

    def dequantize(
        self, x: Tensor, generator: torch.Generator | None = None, width: float = 1.0
    ) -> Tensor:
        """Return x + U[0, width) for integer x, floating x as it is: for exact bits/dim."""
        if x.is_floating_point():
            return x.to(self.unit.dtype)
        x = x.to(self.unit.dtype)
        return x + width * torch.empty_like(x).uniform_(generator=generator) if width else x


@dataclass(frozen=True)
class Encoding:
    """Latents z (B, D) and the exact quantities that come with them."""

    z: Tensor  # a Gaussian encoder's sample, or its mean in eval mode
    log_det: Tensor | None = None  # log|det dz/dx| (B,) in nats, of an invertible encoder
    mean: Tensor | None = None  # (B, D) of a Gaussian encoder, as is log_var
    log_var: Tensor | None = None

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw from q(z|x), (count, B, D); z itself, once, if q(z|x) is a point."""
        if self.mean is None:
            return self.z[None]
        noise = self.mean.new_empty(count, *self.mean.shape)
        return self.at(noise.normal_(generator=generator))

    def at(self, noise: Tensor) -> Tensor:
        """Return m(x) + s(x) · noise, (S, B, D), for standard normal noise (S, B, D) or (S, 1, D).

        Noise (S, 1, D), common to all samples, makes results independent of the rest of the batch.
        If q(z|x) is a point: z itself, once.
        """
        if self.mean is None or self.log_var is None:
            return self.z[None]
        return self.mean + (0.5 * self.log_var).exp() * noise


class Encoder(nn.Module):
    """Fitted preprocessing, followed by a network.

    Args:
        preprocess: map from data units to network units, e.g. standardization.
        network: map from there to the latents.
    """

    kind: EncoderKind  # form of q(z|x); of a relaxed label with a latent

    def __init__(self, preprocess: Invertible, network: nn.Module) -> None:
        super().__init__()
        self.preprocess, self.network = preprocess, network

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Encoding:
        """Encode x (B, *shape) in data units; `generator` for random draws."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Return the x of latents z (B, D), in data units.

        Raises:
            NotImplementedError: the encoder has no inverse.
        """
        raise NotImplementedError


class InvertibleEncoder(Encoder):
    """Bijective encoder, log-determinant of the preprocessing included.

    The network is conditioned on the features (F,) that `condition` returns; None: on nothing.
    """

    kind = "invertible"
    network: Invertible

    def __init__(
        self, preprocess: Invertible, network: Invertible, condition: nn.Module | None = None
    ) -> None:
        super().__init__(preprocess, network)
        self.condition = condition

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Encoding:
        """Return z and log_det of x (B, *shape)."""
        u, log_det_preprocess = self.preprocess(x)
        z, log_det_network = self.network(u, self.context(u))
        return Encoding(z, log_det_preprocess + log_det_network)

    def context(self, x: Tensor) -> Tensor | None:
        """Return the features that condition the network on x (B, …): (B, F)."""
        return None if self.condition is None else self.condition().to(x).expand(x.shape[0], -1)

    def decode(self, z: Tensor) -> Tensor:
        """Return the x of latents z (B, D), in data units."""
        u, _ = self.network.inverse(z, self.context(z))
        x, _ = self.preprocess.inverse(u)
        return x


class DeltaEncoder(Encoder):
    """Deterministic encoder: q(z|x) is the point f(x) of a network (B, *shape) to (B, D)."""

    kind = "delta"

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Encoding:
        """Return z = f(x)."""
        return Encoding(widen(self.network(self.preprocess(x)[0])))


class GaussianEncoder(Encoder):
    """Gaussian encoder q(z|x) = N(m(x), diag s(x)²) of a network (B, *shape) to (B, 2D).

    The second half r of its output gives s = softplus(r + shift). z is a sample in training mode,
    the mean in eval mode. log s is finite however small s is. With shift -5, s is 0.0067 where the
    network starts with r = 0 (Alemi et al., "Deep variational information bottleneck", ICLR 2017).
    """

    kind = "gaussian"

    def __init__(self, preprocess: Invertible, network: nn.Module, shift: float = -5.0) -> None:
        super().__init__(preprocess, network)
        self.shift = shift

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Encoding:
        """Return z, mean and log_var of x (B, *shape)."""
        mean, raw = widen(self.network(self.preprocess(x)[0])).chunk(2, dim=1)
        log_std = log_softplus(raw + self.shift)
        z = mean
        if self.training:
            z = mean + log_std.exp() * normal_like(mean, generator)
        return Encoding(z, mean=mean, log_var=2 * log_std)


def log_softplus(r: Tensor) -> Tensor:
    """Return log softplus(r) = log log(1 + e^r), which rounds to r below -20."""
    return torch.where(r < -20, r, nn.functional.softplus(r.clamp_min(-20)).log())


def _noise_entropy(width: float, std: float) -> float:
    """Return the differential entropy of U[0, width) + N(0, std²), nats."""
    if not std:
        return log(width) if width else -inf
    if not width:
        return 0.5 * log(2 * pi * e * std**2)
    # Nine standard deviations beyond the edges the density vanishes.
    points = torch.linspace(-9 * std, width + 9 * std, 200_001, dtype=torch.float64)
    normal = torch.distributions.Normal(points.new_zeros(()), std)
    density = (normal.cdf(points) - normal.cdf(points - width)) / width
    return float(torch.trapezoid(torch.special.entr(density), points))
