"""Noise that turns grey levels into densities and makes CI(X, Z) finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from couplings.core import Shape

__all__ = ["Noise"]


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
