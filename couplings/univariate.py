"""Monotone maps of single numbers, given their parameters: what a coupling does to its active half.

A map is a small immutable object with `parameters_per_dim` and the two directions; a coupling
knows nothing else of it, so a new map never touches `coupling.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from torch import Tensor

from couplings.functional import (
    SoftClamp,
    affine_couple,
    affine_uncouple,
    spline_couple,
    spline_uncouple,
)

__all__ = ["Affine", "RationalQuadratic", "Univariate"]


class Univariate(Protocol):
    """x (B, A, ...) and parameters (B, A · parameters_per_dim, ...) to y and log_det (B,).

    A `passive` half (B, P, ...) is put beside y, behind it where `active_first`: y is then whole,
    (B, A + P, ...), written in one go. `couplings.join` does it for a map that has no operator of
    its own.
    """

    @property
    def parameters_per_dim(self) -> int: ...

    def forward(
        self,
        x: Tensor,
        parameters: Tensor,
        passive: Tensor | None = None,
        active_first: bool = False,
    ) -> tuple[Tensor, Tensor]: ...

    def inverse(
        self,
        y: Tensor,
        parameters: Tensor,
        passive: Tensor | None = None,
        active_first: bool = False,
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Affine:
    """y = x · exp(clamp(raw)) + t; the parameters are all raw log-scales, then all shifts.

    Dinh et al., "Density estimation using Real NVP", 2017; Kingma & Dhariwal, "Glow", 2018.
    """

    clamp: SoftClamp = field(default_factory=SoftClamp)
    parameters_per_dim: int = field(default=2, init=False)

    def forward(
        self,
        x: Tensor,
        parameters: Tensor,
        passive: Tensor | None = None,
        active_first: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """y and log|dy/dx| summed to (B,)."""
        return affine_couple(x, parameters, self.clamp, passive, active_first)

    def inverse(
        self,
        y: Tensor,
        parameters: Tensor,
        passive: Tensor | None = None,
        active_first: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """x and log|dx/dy| summed to (B,)."""
        return affine_uncouple(y, parameters, self.clamp, passive, active_first)


@dataclass(frozen=True)
class RationalQuadratic:
    """A monotone rational-quadratic spline on [-bound, bound], the identity outside.

    Durkan et al., "Neural Spline Flows", 2019; see `couplings.functional.spline_couple`.

    Args:
        bins: K; 3K - 1 parameters a number.
        bound: half the width of the interval.

    Raises:
        ValueError: fewer than one bin or more than 999 (each is at least a thousandth wide), or a
            bound that is not positive and finite.
    """

    bins: int = 8
    bound: float = 5.0

    def __post_init__(self) -> None:
        if not (1 <= self.bins < 1000 and 0 < self.bound < inf):
            raise ValueError(
                "RationalQuadratic: expected 1 to 999 bins and a positive, finite bound, got "
                f"{self.bins} and {self.bound}"
            )

    @property
    def parameters_per_dim(self) -> int:
        """3K - 1."""
        return 3 * self.bins - 1

    def forward(
        self,
        x: Tensor,
        parameters: Tensor,
        passive: Tensor | None = None,
        active_first: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """y and log|dy/dx| summed to (B,)."""
        return spline_couple(x, parameters, self.bins, self.bound, passive, active_first)

    def inverse(
        self,
        y: Tensor,
        parameters: Tensor,
        passive: Tensor | None = None,
        active_first: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """x and log|dx/dy| summed to (B,)."""
        return spline_uncouple(y, parameters, self.bins, self.bound, passive, active_first)
