"""Linear discriminant of a model's latents: where classes differ, and distances there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

__all__ = ["MOST_DIMS", "Discriminant"]

MOST_DIMS = 4096
"""Of latents: the covariance of more would take too much memory."""


@dataclass(frozen=True)
class Discriminant:
    """Directions of latents z (D,) in which all classes have covariance I, and are far apart.

    With the covariance C within classes and that of their means B, the columns of `directions` W
    (D, J) solve B w = λ C w, Wᵀ C W = I, J <= K - 1.
    """

    centre: Tensor  # mean latent (D,)
    directions: Tensor  # W, (D, J)
    means: Tensor  # of the classes in these directions, (K, J)
    between: Tensor  # λ, (J,), from the largest

    @classmethod
    def fit(cls, z: Tensor, k: Tensor) -> Self | None:
        """Fit to latents z (N, D) and their classes k (N,); None where there is nothing to fit.

        The covariance within classes is shrunk as Ledoit and Wolf have it (J. Multivariate Anal.,
        2004), so that N may be less than D.
        """
        from sklearn.covariance import ledoit_wolf

        seen = [k == each for each in k.unique().tolist()]
        seen = [members for members in seen if int(members.sum()) > 1]
        if len(seen) < 2 or z.shape[1] > MOST_DIMS:
            return None
        kept = torch.stack(seen).any(0)
        z, own = z[kept].double(), torch.stack(seen).int().argmax(0)[kept]
        means = torch.stack([z[own == each].mean(0) for each in range(len(seen))])
        centre, share = z.mean(0), own.bincount().double() / len(z)
        within = torch.from_numpy(ledoit_wolf((z - means[own]).numpy(), assume_centered=True)[0])
        within += 1e-9 * within.diag().mean() * torch.eye(len(within), dtype=within.dtype)
        lower = torch.linalg.cholesky(within)
        spread = torch.linalg.solve_triangular(lower, (means - centre).T, upper=False)
        axes, singular, _ = torch.linalg.svd(spread * share.sqrt(), full_matrices=False)
        axes = axes[:, singular > 1e-6 * singular[0]][:, : len(seen) - 1]
        directions = torch.linalg.solve_triangular(lower.T, axes, upper=True)
        between = singular[: axes.shape[1]].square()
        return cls(centre, directions, (means - centre) @ directions, between)

    def relative_distance(self, z: Tensor) -> Tensor:
        """Compute min_k (z - m_k)ᵀ C⁻¹ (z - m_k) - (z - m)ᵀ (C + B)⁻¹ (z - m): (B, D) to (B,).

        Outside of the plane of discriminants both distances are the same, so that what is not about
        the classes drops out; m_k are average latents, not the mixture's means. Ren et al., "A
        simple fix to Mahalanobis distance for improving near-OOD detection", 2021.
        """
        place = (z.double() - self.centre.to(z.device)) @ self.directions.to(z.device)
        nearest = torch.cdist(place, self.means.to(z.device)).square().min(1).values
        return nearest - (place.square() / (1 + self.between.to(z.device))).sum(1)
