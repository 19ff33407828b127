"""Monotone maps of single numbers, given their parameters: a coupling maps its active half so.

A map is a small immutable object with `parameters_per_dim` and the two directions; a coupling
knows nothing else of it, so a new map never touches `coupling.py`.
"""

from typing import Protocol

from torch import Tensor

from couplings.logistic_mixture import LogisticMixture
from couplings.ops.affine import Affine
from couplings.ops.spline import RationalQuadratic

__all__ = ["Affine", "FusedUnivariate", "LogisticMixture", "RationalQuadratic", "Univariate"]


class Univariate(Protocol):
    """Map of x (B, A, ...), given parameters (B, A · parameters_per_dim, ...), and its inverse.

    `forward` returns y and log|dy/dx|, `inverse` x and log|dx/dy|, each summed to (B,).
    """

    @property
    def parameters_per_dim(self) -> int: ...

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]: ...

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]: ...


class FusedUnivariate(Univariate, Protocol):
    """Univariate map that also writes the passive half (B, P, ...) beside y, all in one pass.

    `couple` returns the joined (B, A + P, ...) and log_det (B,), where a coupling would otherwise
    join the halves of a `Univariate` itself.
    """

    def couple(
        self, active: Tensor, parameters: Tensor, passive: Tensor, active_first: bool, inverse: bool
    ) -> tuple[Tensor, Tensor]: ...
