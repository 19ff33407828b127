"""Gaussian mixture with a full covariance for each class, which starts as the best discriminant."""

from math import log, pi
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from couplings.functional import MixtureDensities
from couplings.ops.dispatch import full_precision
from flowclf.latent.gaussian import Around, GaussianMixture
from flowclf.support import validate
from flowclf.support.collectives import normal_like
from flowclf.support.errors import UserError

__all__ = ["ClassMoments", "FullMixture"]

SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
FOLDS, MOST_ROWS = 5, 5000


class FullMixture(GaussianMixture):
    """Mixture of Gaussians with a full covariance each, for the few dimensions of tables.

        log q(z|k) = -½ ‖F_k (z - μ_k)‖² + Σ_d log (F_k)_dd - (D/2) log 2π,   Σ_k⁻¹ = F_kᵀ F_k

    F_k is lower triangular with a positive diagonal. Memory O(K·D²).

    Args:
        classes, dims: K and D.
        options: as of `GaussianMixture`.

    Attributes:
        log_diagonal: log (F_k)_dd, (K, D).
        lower: F_k below its diagonal, (K, D, D).
    """

    def __init__(self, classes: int, dims: int, **options: Any) -> None:
        super().__init__(classes, dims, **options)
        self.log_diagonal = nn.Parameter(torch.zeros(classes, dims))
        self.lower = nn.Parameter(torch.zeros(classes, dims, dims))

    def factors(self) -> Tensor:
        """Return F, (K, D, D)."""
        eye = torch.eye(self.dims, device=self.lower.device)
        return self.lower.tril(-1) + eye * self.log_diagonal.exp()[:, None]

    def densities(self, z: Tensor, *, learn_weights: bool = True) -> MixtureDensities:
        """Return the densities, as `GaussianMixture.densities` does.

        Raises:
            UserError: z of another shape, type or device.
        """
        validate.latents("z", z, self.dims, self.log_var)
        with full_precision(z):
            factors, centre = self.factors(), self.means.detach().mean(0)
            # Affine in z, so that one product serves all classes: (B, D) by (D, K·D).
            z, means = z.to(centre.dtype) - centre, self.means - centre
            offsets = torch.einsum("kij,kj->ki", factors, means)
            residuals = (z @ factors.flatten(0, 1).T).unflatten(1, offsets.shape) - offsets
            scores = self.log_diagonal.sum(1) - 0.5 * residuals.square().sum(2)
            common = scores.new_full((1,), -0.5 * self.dims * log(2 * pi))
            return self._from_scores(scores, common, learn_weights)

    def sample(
        self,
        y: Tensor,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        around: Around = "means",
    ) -> Tensor:
        """Draw z = centre_y + temperature · F_y⁻¹ ε, as `GaussianMixture.sample` does."""
        y = self._check_draw(y, temperature, around)
        centre = self.class_means(y, around)
        noise = normal_like(centre, generator)
        drawn = torch.linalg.solve_triangular(self.factors()[y], noise[..., None], upper=False)
        return centre + temperature * drawn[..., 0]

    def residuals(self, z: Tensor, y: Tensor) -> Tensor:
        """Return F_y (z - μ_y), standard normal under q(z|y), of z (B, D) and y (B,): (B, D)."""
        away = z - self.class_means(y)
        return torch.einsum("bij,bj->bi", self.factors()[y], away)

    def _log_var(self) -> Tensor:
        """Return log σ² of each dimension, (K, D)."""
        inverse = torch.linalg.inv(self.factors())
        return inverse.square().sum(2).log()

    def _log_volume(self) -> Tensor:
        return 0.5 * self.dims * log(2 * pi) - self.log_diagonal.sum(1)

    def fit(self, z: Tensor, y: Tensor) -> None:
        """Set means and covariances to those of latents z (N, D) with labels y (N,).

        The share of `ClassMoments.factors` is that of `SHARES` for which the classes of held-out
        samples are most likely, in a cross-validation of five folds.

        Raises:
            UserError: a class without a sample.
        """
        z = z.double()
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(y), generator=generator)[:MOST_ROWS].to(z.device)
        fold = torch.arange(len(order), device=z.device) % FOLDS
        losses = torch.zeros(len(SHARES), dtype=torch.float64)
        moments = ClassMoments.of(z, y, self.classes)
        for held in range(FOLDS):
            learned, asked = order[fold != held], order[fold == held]
            if len(asked) and len(y[learned].unique()) == self.classes:
                known = ClassMoments.of(z[learned], y[learned], self.classes)
                losses += torch.stack([_loss(z[asked], y[asked], known, s) for s in SHARES])
        self.set_moments(moments, SHARES[int(losses.argmin())] if bool(losses.any()) else 1.0)

    @torch.no_grad()
    def set_moments(self, moments: "ClassMoments", share: float) -> None:
        """Set means and covariances, these moved to that of all classes by a share of the way."""
        factors = moments.factors(share)
        self.set_means(moments.means.to(self.means))
        self.log_diagonal.copy_(factors.diagonal(dim1=1, dim2=2).log())
        self.lower.copy_(factors.tril(-1))


class ClassMoments(NamedTuple):
    """Means (K, D), covariances (K, D, D) and counts (K,) of the latents of each class, float64."""

    means: Tensor
    covariances: Tensor
    counts: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, z: Tensor, y: Tensor, classes: int) -> "ClassMoments":
        """Return those of latents z (N, D) with labels y (N,).

        Raises:
            UserError: a class without a sample.
        """
        if missing := sorted(set(range(classes)) - set(y.tolist())):
            raise UserError(f"expected a sample of every class, got none of {missing}")
        parts = [z[y == k].double() for k in range(classes)]
        covariances = [part.T.cov(correction=0).reshape(2 * z.shape[1:]) for part in parts]
        means = torch.stack([part.mean(0) for part in parts])
        return cls(means, torch.stack(covariances), y.bincount(minlength=classes).to(means))

    def joined(self, later: "ClassMoments") -> "ClassMoments":
        """Return the moments of these classes and of later ones."""
        return ClassMoments(*map(torch.cat, zip(self, later, strict=True)))

    def factors(self, share: float) -> Tensor:
        """Return F (K, D, D) of regularised covariances, Σ_k⁻¹ = F_kᵀ F_k.

        They are between those of quadratic (share λ = 0) and linear (1) discriminant analysis:

            Σ_k ← (1 - λ) Σ_k + λ Σ,   Σ = (N Σ_within + D v I) / (N + D)

        with the mean variance v: D samples of a sphere, for where there are few.

        Friedman, "Regularized discriminant analysis", JASA 84, 1989, Eq. 16.
        """
        count, dims = self.counts.sum(), self.means.shape[1]
        pooled = (self.covariances * (self.counts / count)[:, None, None]).sum(0)
        eye = torch.eye(dims).to(pooled)
        sphere = pooled.diagonal().mean().clamp_min(1e-12) * eye
        pooled = (count * pooled + dims * sphere) / (count + dims)
        lower = torch.linalg.cholesky((1 - share) * self.covariances + share * pooled)
        return torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)


def _loss(z: Tensor, y: Tensor, moments: ClassMoments, share: float) -> Tensor:
    """Return Σ -log q(y|z) of held-out samples, 0-dim."""
    factors = moments.factors(share)
    away = torch.einsum("kij,bkj->bki", factors, z[:, None] - moments.means)
    scores = factors.diagonal(dim1=1, dim2=2).log().sum(1) - 0.5 * away.square().sum(2)
    scores = (scores + moments.counts.log()).log_softmax(1)
    return -scores[torch.arange(len(y)), y].sum().cpu()
