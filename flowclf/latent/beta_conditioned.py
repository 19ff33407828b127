"""Conditioning on the trade-off: one model for every β̃, seen by its couplings and its means."""

from math import isfinite, log, pi
from typing import Any

import torch
from torch import Tensor, nn

from couplings.ops.dispatch import full_precision
from flowclf.latent.gaussian import GaussianMixture
from flowclf.latent.low_rank import registered
from flowclf.support.errors import UserError

__all__ = ["FEATURES", "ConditionedMixture", "TradeOff"]

FEATURES = 4


class TradeOff(nn.Module):
    """Current β̃ of a model, and its features for networks.

        φ_k = cos(k π u),  k = 1 … 4,  u = log(β̃/lowest) / log(highest/lowest)

    Raises:
        UserError: a trained range without 0 < lowest < highest, or an initial β̃ outside of it.
    """

    beta: Tensor

    def __init__(self, lowest: float, highest: float, beta: float) -> None:
        super().__init__()
        if not 0 < lowest < highest or not isfinite(highest):
            raise UserError(f"expected 0 < lowest < highest β̃, got {lowest} and {highest}")
        self.lowest, self.highest = lowest, highest
        self.register_buffer("beta", torch.tensor(0.0), persistent=False)
        self.move(beta)

    def forward(self) -> Tensor:
        """Return φ, (4,)."""
        u = (self.beta / self.lowest).log() / log(self.highest / self.lowest)
        return (pi * u * torch.arange(1, FEATURES + 1).to(self.beta)).cos()

    def move(self, beta: float) -> None:
        """Set β̃.

        Raises:
            UserError: β̃ outside the trained range.
        """
        # Tolerate rounding of the limits.
        slack = 1 + 1e-6
        if not self.lowest / slack <= beta <= self.highest * slack:
            raise UserError(
                f"expected a β̃ from {self.lowest:g} to {self.highest:g}, which was trained, got "
                f"{beta:g}; train with another objective.betas"
            )
        self.beta.fill_(beta)

    def grid(self, count: int) -> list[float]:
        """Return β̃ from the lowest to the highest, evenly spaced in log β̃."""
        step = (self.highest / self.lowest) ** (1 / (count - 1))
        return [self.lowest * step**i for i in range(count)]

    def draw(self, generator: torch.Generator | None = None) -> None:
        """Set β̃ to a log-uniform draw from the range."""
        u = torch.empty_like(self.beta).uniform_(generator=generator)
        self.beta.copy_(self.lowest * (u * log(self.highest / self.lowest)).exp())


class ConditionedMixture(GaussianMixture):
    """Mixture whose means depend on β̃: μ_k + Σ_j φ_j M_jk, with M (4, K, D) initially 0."""

    def __init__(self, trade_off: TradeOff, classes: int, dims: int, **options: Any) -> None:
        super().__init__(classes, dims, **options)
        self.trade_off = trade_off
        base = self._base()
        terms = base.new_zeros(FEATURES, classes, dims)
        self.mean_terms = nn.Parameter(terms, requires_grad=base.requires_grad)

    @property
    def means(self) -> Tensor:  # type: ignore[override]
        """Means at the current β̃, (K, D)."""
        base = self._base()
        with full_precision(base):
            return base + torch.tensordot(self.trade_off().to(base), self.mean_terms, 1)

    @torch.no_grad()
    def set_means(self, means: Tensor) -> None:
        """Replace the means (K, D) at every β̃.

        Raises:
            UserError: another shape, or a number that is not finite.
        """
        self._check_means(means)
        self._base().copy_(means)
        self.mean_terms.zero_()

    def _base(self) -> Tensor:
        """Return μ, (K, D)."""
        return registered(self._parameters, "means")
