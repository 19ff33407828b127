"""The latent mixture: class-conditional Gaussians q(z|y), written once for every system."""

from __future__ import annotations

from collections.abc import Iterable
from math import log, pi
from typing import Literal

import torch
from torch import Tensor, nn

from couplings.functional import MixtureDensities, mixture_log_prob
from flowclf.errors import UserError

__all__ = ["Around", "GaussianMixture", "equidistant_means"]

Covariance = Literal["unit", "shared", "per-class"]
Means = Literal["learned", "frozen"]
Weights = Literal["uniform", "empirical", "learned"]
Around = Literal["means", "data"]


class GaussianMixture(nn.Module):
    """q(z) = Σ_k w_k N(z; μ_k, Σ_k) with diagonal Σ_k; all densities normalised, in nats.

        log q(z|k) = -½ Σ_d [ (z_d - μ_kd)² / σ²_kd + log σ²_kd + log 2π ]

    What all classes share (‖z‖² above all) is kept out of the class scores, so that the posterior
    stays exact in float32 when ‖z‖² is 10⁴ and the classes differ by 1. Memory O(B·K + K·D).

    Args:
        classes: K.
        dims: D.
        means: learned, or frozen at their initial values (set others with `set_means`).
        covariance: unit, one learned diagonal for all classes, or one a class.
        weights: uniform, empirical (`set_weights`), or learned logits.
        distance: initial distance between any two means.
        generator: where the means come from when D < K.

    IB-INN (Ardizzone et al. 2020), Eqs. 3-4, is the case of unit covariance.

    Attributes:
        means: μ, (K, D).
        data_means: where the training latents of each class are on average, (K, D). A strong
            decision term pushes them out beyond μ; `sample` can draw around either.
    """

    data_means: Tensor

    def __init__(
        self,
        classes: int,
        dims: int,
        *,
        means: Means = "learned",
        covariance: Covariance = "unit",
        weights: Weights = "uniform",
        distance: float = 5.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.classes, self.dims, self.covariance = classes, dims, covariance
        initial = equidistant_means(classes, dims, distance, generator)
        self.means = nn.Parameter(initial, requires_grad=means == "learned")
        self.register_buffer("data_means", initial.clone())
        rows = {"unit": 0, "shared": 1, "per-class": classes}[covariance]
        self.log_var = nn.Parameter(torch.zeros(rows, dims), requires_grad=rows > 0)
        self.weight_logits = nn.Parameter(torch.zeros(classes), requires_grad=weights == "learned")

    @property
    def log_weights(self) -> Tensor:
        """log w_k, (K,)."""
        return self.weight_logits.log_softmax(0)

    def densities(self, z: Tensor, *, learn_weights: bool = True) -> MixtureDensities:
        """log q(z|k) (B, K), log q(z) (B,) and log q(k|z) (B, K) of z (B, D) at once, in nats.

        Args:
            z: latents.
            learn_weights: let the posterior's gradients reach the class weights.
        """
        if self.covariance == "per-class":
            return self._per_class_densities(z, learn_weights)
        unit = mixture_log_prob(*self._whitened(z), self.log_weights, fixed_prior=not learn_weights)
        if self.covariance == "unit":
            return unit
        volume = 0.5 * self.log_var.sum()
        return MixtureDensities(
            unit.log_prob_given_class - volume, unit.log_prob - volume, unit.log_posterior
        )

    def log_prob_given_class(self, z: Tensor) -> Tensor:
        """log q(z|k), (B, D) to (B, K), nats."""
        return self.densities(z).log_prob_given_class

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) = log Σ_k w_k q(z|k), (B, D) to (B,), nats."""
        return self.densities(z).log_prob

    def log_posterior(self, z: Tensor, *, learn_weights: bool = True) -> Tensor:
        """log q(k|z), (B, D) to (B, K), by Bayes' rule; see `densities`."""
        return self.densities(z, learn_weights=learn_weights).log_posterior

    def sample(
        self,
        y: Tensor,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        around: Around = "means",
    ) -> Tensor:
        """z = centre_y + temperature · σ_y · ε for labels y (B,), (B, D).

        Args:
            y: labels.
            temperature: 1 and `around` means: draws from q(z|y).
            generator: on the mixture's device.
            around: the centre: "means", or "data" for the averages of the training latents.

        Raises:
            UserError: a label out of range or a negative temperature.
        """
        self._check_labels(y)
        if not temperature >= 0:
            raise UserError(f"expected temperature >= 0, got {temperature}")
        centres = self.means if around == "means" else self.data_means
        noise = torch.empty_like(centres[y]).normal_(generator=generator)
        return centres[y] + temperature * self._std()[y] * noise

    @torch.no_grad()
    def set_means(self, means: Tensor) -> None:
        """Replace the means (K, D).

        Raises:
            UserError: another shape, or a number that is not finite.
        """
        if means.shape != self.means.shape or not bool(means.isfinite().all()):
            raise UserError(
                f"expected finite means of shape {tuple(self.means.shape)}, "
                f"got shape {tuple(means.shape)}"
            )
        self.means.copy_(means)

    @torch.no_grad()
    def set_weights(self, counts: Tensor) -> None:
        """Set w_k proportional to the label counts (K,), all positive."""
        if counts.shape != (self.classes,) or not bool((counts > 0).all()):
            raise UserError(f"expected {self.classes} positive class counts, got {counts.tolist()}")
        self.weight_logits.copy_(counts.to(self.weight_logits).log())

    def fit_means(self, z: Tensor, y: Tensor) -> None:
        """Set each mean to the average of its class's latents: z (N, D), y (N,).

        Raises:
            UserError: a class without a sample.
        """
        self.set_means(self.class_averages([(z, y)]))

    @torch.no_grad()
    def class_averages(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """Average of each class's latents over batches of z (B, D) and y (B,): (K, D).

        Raises:
            UserError: a class without a sample.
        """
        sums, counts = torch.zeros_like(self.means), self.means.new_zeros(self.classes)
        for z, y in batches:
            self._check_labels(y)
            # A product, since adding by index is not deterministic on a GPU.
            members = torch.nn.functional.one_hot(y, self.classes).to(sums)
            sums += members.T @ z.to(sums)
            counts += members.sum(0)
        if not bool(counts.all()):
            missing = (counts == 0).nonzero().flatten().tolist()
            raise UserError(f"expected a sample of every class, got none of {missing}")
        return sums / counts[:, None]

    def mean_distance(self) -> Tensor:
        """Average distance between two means, 0-dim (IB-INN's "delta mu")."""
        return torch.pdist(self.means).mean()

    def _whitened(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latents and means in units of the shared standard deviation."""
        if self.covariance == "unit":
            return z, self.means
        scale = (-0.5 * self.log_var).exp()
        return z.to(self.means.dtype) * scale, self.means * scale

    def _per_class_densities(self, z: Tensor, learn_weights: bool) -> MixtureDensities:
        # Log-likelihoods are thousands of nats: in bfloat16 the classes would not differ.
        with torch.autocast(z.device.type, enabled=False):
            centre = self.means.detach().mean(0)
            z, means = z - centre, self.means - centre
            precision = (-self.log_var).exp()
            shared = precision.mean(0)
            linear = z @ (means * precision).T - 0.5 * (means.square() * precision).sum(1)
            quadratic = 0.5 * z.square() @ (precision - shared).T
            scores = linear - quadratic - 0.5 * self.log_var.sum(1)
            common = -0.5 * (z.square() @ shared + self.dims * log(2 * pi))
            weights = self.log_weights
            prior = weights if learn_weights else weights.detach()
            log_prob = (scores + weights).logsumexp(1) + common
            return MixtureDensities(
                scores + common[:, None], log_prob, (scores + prior).log_softmax(1)
            )

    def _std(self) -> Tensor:
        if self.covariance == "unit":
            return torch.ones_like(self.means)
        return (0.5 * self.log_var).exp().expand(self.classes, self.dims)

    def _check_labels(self, y: Tensor) -> None:
        wrong = (y < 0) | (y >= self.classes)
        if y.is_floating_point() or bool(wrong.any()):
            raise UserError(
                f"expected integer labels 0..{self.classes - 1}, got "
                f"{y.dtype if y.is_floating_point() else y[wrong][0].item()}"
            )

    def extra_repr(self) -> str:
        """Sizes, for `print(mixture)`."""
        return f"classes={self.classes}, dims={self.dims}, covariance={self.covariance}"


def equidistant_means(
    classes: int, dims: int, distance: float, generator: torch.Generator | None = None
) -> Tensor:
    """K points in D dimensions, any two of them `distance` apart (on average, where D < K).

    As in IB-INN's code: scaled identities side by side, means[:, jK:(j+1)K] = s·I, and zeros in
    the last D mod K columns; ours has s = distance / sqrt(2 ⌊D/K⌋), so the distance is exact (the
    code's ⌊2D/K⌋ makes it 4.96 for CIFAR-100). Where D < K no such points exist: random directions.
    """
    repeats = dims // classes
    if repeats == 0:
        points = torch.randn(classes, dims, generator=generator, dtype=torch.float64)
        return (points * distance / torch.pdist(points).mean()).float()
    means = torch.zeros(classes, dims)
    blocks = torch.eye(classes).repeat(1, repeats)
    means[:, : repeats * classes] = blocks * distance / (2 * repeats) ** 0.5
    return means
