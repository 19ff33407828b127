"""Monotone maps of single numbers, given their parameters: what a coupling does to its active half.

A map is a small immutable object with `parameters_per_dim` and the two directions; a coupling
knows nothing else of it, so a new map never touches `coupling.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from couplings.functional import SoftClamp, affine_couple, affine_uncouple

__all__ = ["Affine", "Univariate"]


class Univariate(Protocol):
    """x (B, C, ...) and parameters (B, C · parameters_per_dim, ...) to y and log_det (B,)."""

    @property
    def parameters_per_dim(self) -> int: ...

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]: ...

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Affine:
    """y = x · exp(clamp(raw)) + t; the parameters are all raw log-scales, then all shifts.

    Dinh et al., "Density estimation using Real NVP", 2017; Kingma & Dhariwal, "Glow", 2018.
    """

    clamp: SoftClamp = field(default_factory=SoftClamp)
    parameters_per_dim: int = field(default=2, init=False)

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """y of x's shape and log|dy/dx| summed to (B,)."""
        raw, shift = parameters.chunk(2, dim=1)
        return affine_couple(x, raw, shift, self.clamp)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """x of y's shape and log|dx/dy| summed to (B,)."""
        raw, shift = parameters.chunk(2, dim=1)
        return affine_uncouple(y, raw, shift, self.clamp)
