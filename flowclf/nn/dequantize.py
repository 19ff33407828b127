"""Noise that turns grey levels into densities and makes CI(X, Z) finite."""

from __future__ import annotations

from math import e, inf, log, pi

import torch
from torch import Tensor, nn

from couplings.core import Shape
from flowclf.settings import Section, Weight

__all__ = ["Noise", "NoiseSettings"]


class NoiseSettings(Section):
    """What is added to x before it is encoded."""

    uniform: Weight = 1.0  # in grey levels; 1 makes log-probabilities a bound on the discrete ones
    sigma: Weight = 0.0  # in units of 255 grey levels, or of each feature's standard deviation


class Noise(nn.Module):
    """x' = x + U[0, uniform) + sigma · unit · N(0, 1), in the data's own units.

    Args:
        shape: shape of one sample.
        uniform: width of the uniform dequantisation, in grey levels (1: exact; 0: none).
        sigma: Gaussian standard deviation as a fraction of `unit`.
        unit: 255 for 8-bit images; for tables each feature's standard deviation.

    IB-INN: Sec. 2.1; its code uses uniform 255/256 and sigma 0.01 of the range [0, 1].
    """

    unit: Tensor

    def __init__(self, shape: Shape, uniform: float, sigma: float, unit: float) -> None:
        super().__init__()
        self.uniform, self.sigma = uniform, sigma
        self.register_buffer("unit", torch.full(shape, float(unit)))

    def entropy(self, *, floating: bool = False) -> float:
        """h(ε) of the noise in all dimensions, nats; -inf without noise.

        Of U[0, w) + N(0, s²) by quadrature, of either alone log w or ½ log(2πe s²). Data that are
        `floating` get the normal part alone.
        """
        width = 0.0 if floating else self.uniform
        std = self.sigma * self.unit.double().flatten()
        pairs = zip(*(v.tolist() for v in std.unique(return_counts=True)), strict=True)
        return sum(count * _noise_entropy(width, value) for value, count in pairs)

    def set_unit(self, unit: Tensor) -> None:
        """Replace the unit of `sigma`, broadcast to one sample."""
        self.unit = unit.expand(self.unit.shape).to(self.unit).clone()

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noisy x in the floating type of this module; `generator` on x's device."""
        x = self.dequantize(x, generator, self.uniform)
        if self.sigma:
            normal = torch.empty_like(x).normal_(generator=generator)
            x = x + self.sigma * self.unit * normal
        return x

    def dequantize(
        self, x: Tensor, generator: torch.Generator | None = None, width: float = 1.0
    ) -> Tensor:
        """x + U[0, width) for integer x, floating x as it is: the noise of true bits/dim."""
        if x.is_floating_point():
            return x.to(self.unit.dtype)
        x = x.to(self.unit.dtype)
        return x + width * torch.empty_like(x).uniform_(generator=generator) if width else x


def _noise_entropy(width: float, std: float) -> float:
    """h of U[0, width) + N(0, std²), nats."""
    if not std:
        return log(width) if width else -inf
    if not width:
        return 0.5 * log(2 * pi * e * std**2)
    # Beyond nine standard deviations there is nothing; the edges are as wide as those.
    points = torch.linspace(-9 * std, width + 9 * std, 200_001, dtype=torch.float64)
    normal = torch.distributions.Normal(points.new_zeros(()), std)
    density = (normal.cdf(points) - normal.cdf(points - width)) / width
    return float(torch.trapezoid(torch.special.entr(density), points))
