"""Latent mixture of class-conditional Gaussians q(z|y), shared by all systems."""

from __future__ import annotations

from collections.abc import Iterable
from math import log, pi
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from couplings.functional import MixtureDensities, mixture_log_prob
from couplings.ops.dispatch import full_precision
from flowclf.support import validate
from flowclf.support.collectives import normal_like
from flowclf.support.errors import UserError

__all__ = ["Around", "GaussianMixture", "equidistant_means"]

Covariance = Literal["unit", "shared", "per-class", "full"]
Means = Literal["learned", "frozen"]
Weights = Literal["uniform", "empirical", "learned", "affine"]
Around = Literal["means", "data"]
Start = Literal["equidistant", "sphere", "normal", "linear", "zero"]

REPULSIONS = 300


class GaussianMixture(nn.Module):
    """Mixture q(z) = Σ_k w_k N(z; μ_k, Σ_k) with diagonal Σ_k; normalized densities in nats.

        log q(z|k) = -½ Σ_d [ (z_d - μ_kd)² / σ²_kd + log σ²_kd + log 2π ]

    Terms common to all classes (‖z‖² above all) stay out of the class scores, so that the posterior
    is accurate in float32 when ‖z‖² is 10⁴ and the classes differ by 1. Memory O(B·K + K·D).

    Args:
        classes, dims: K and D.
        means: learned, or frozen at their initial values (set others with `set_means`).
        covariance: unit, one learned diagonal for all classes, or one per class; "full" is that of
            `FullMixture`.
        weights: uniform, empirical (`set_weights`), learned logits, or affine: the biases b of a
            softmax layer are learned, and log w_k = b_k + ½ μ_kᵀΣ⁻¹μ_k - const, so that the
            posterior softmax(μΣ⁻¹z + b) trains like a linear layer. Not per-class.
        distance: initial distance between any two means.
        start: initial means. equidistant: any two `distance` apart (IB-INN); sphere: the same
            directions at radius √D (its regularised class-NLL); normal: N(0, 1) each number
            (Variational Classification); linear: weights of torch's Linear, uniform in ±1/√D;
            zero: all at the origin.
        generator: source of random initial means.

    Raises:
        UserError: affine weights with a covariance per class.

    IB-INN (Ardizzone et al. 2020), Eqs. 3-4, is the case of unit covariance.

    Attributes:
        means: μ, (K, D).
        data_means: average training latent of each class, (K, D). A large β̃ pushes them out
            beyond μ; `sample` can draw around either.
        has_distances: True if `half_mahalanobis` measures distances to the class means.
    """

    has_distances = True
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
        start: Start = "equidistant",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.classes, self.dims, self.covariance = classes, dims, covariance
        self.weights: Weights = weights
        if weights == "affine" and covariance == "per-class":
            raise UserError(
                "expected mixture.covariance unit or shared for mixture.weights=affine: with a "
                "covariance per class the scores are quadratic in z; use mixture.weights=learned"
            )
        initial = _initial_means(start, classes, dims, distance, generator)
        self.means = nn.Parameter(initial, requires_grad=means == "learned")
        self.register_buffer("data_means", initial.clone())
        rows = {"unit": 0, "full": 0, "shared": 1, "per-class": classes}[covariance]
        self.log_var = nn.Parameter(torch.zeros(rows, dims), requires_grad=rows > 0)
        self.weight_logits = nn.Parameter(
            torch.zeros(classes), requires_grad=weights in ("learned", "affine")
        )

    @classmethod
    def from_linear(cls, layer: nn.Linear) -> GaussianMixture:
        """Return the unit-covariance mixture with the posterior of a softmax layer z Wᵀ + b.

        μ_k = W_k and log w_k = b_k + ½ ‖W_k‖² - const.
        """
        mixture = cls(layer.out_features, layer.in_features, weights="affine").to(layer.weight)
        mixture.set_means(layer.weight.detach())
        if layer.bias is not None:
            mixture.weight_logits.data.copy_(layer.bias.detach())
        return mixture

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """Return the softmax layer with this posterior: W = μΣ⁻¹, b = log w - ½ μᵀΣ⁻¹μ.

        Raises:
            UserError: a covariance per class, whose scores are quadratic in z.
        """
        if self.covariance in ("per-class", "full"):
            raise UserError("expected one covariance for all classes, got one each: not affine")
        layer = nn.utils.skip_init(nn.Linear, self.dims, self.classes).to(self.means)
        layer.weight.copy_(self.means * self._precision())
        layer.bias.copy_(self.log_weights - self._half_norms())
        return layer

    @property
    def log_weights(self) -> Tensor:
        """log w_k, (K,)."""
        offsets = self._half_norms() if self.weights == "affine" else 0.0
        return (self.weight_logits + offsets).log_softmax(0)

    def densities(self, z: Tensor, *, learn_weights: bool = True) -> MixtureDensities:
        """Return log q(z|k) (B, K), log q(z) (B,) and log q(k|z) (B, K) of z (B, D), in nats.

        With `learn_weights` the posterior's gradients reach the class weights.

        Raises:
            UserError: z of another shape, type or device.
        """
        validate.latents("z", z, self.dims, self.log_var)
        if self.covariance == "per-class":
            return self._per_class_densities(z, learn_weights)
        means, weights, fixed = self.means, self.log_weights, not learn_weights
        if self.covariance == "unit":
            return mixture_log_prob(z, means, weights, fixed_prior=fixed)
        scale = (-0.5 * self.log_var).exp()
        z = z.to(means.dtype) * scale
        unit = mixture_log_prob(z, means * scale, weights, fixed_prior=fixed)
        volume = 0.5 * self.log_var.sum()
        return MixtureDensities(
            unit.log_prob_given_class - volume, unit.log_prob - volume, unit.log_posterior
        )

    def log_prob_given_class(self, z: Tensor) -> Tensor:
        """Return log q(z|k), (B, D) to (B, K), nats."""
        return self.densities(z).log_prob_given_class

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z) = log Σ_k w_k q(z|k), (B, D) to (B,), nats."""
        return self.densities(z).log_prob

    def log_posterior(self, z: Tensor, *, learn_weights: bool = True) -> Tensor:
        """Return log q(k|z) by Bayes' rule, (B, D) to (B, K); see `densities`."""
        return self.densities(z, learn_weights=learn_weights).log_posterior

    def sample(
        self,
        y: Tensor,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        around: Around = "means",
    ) -> Tensor:
        """Draw z = centre_y + temperature · σ_y · ε for labels y (B,): (B, D).

        The centres are the "means", where temperature 1 draws from q(z|y), or around "data" the
        average training latents. The generator is on the mixture's device.

        Raises:
            UserError: labels out of range, or a temperature that is negative or not finite.
        """
        y = self._check_draw(y, temperature, around)
        centre = self.class_means(y, around)
        noise = normal_like(centre, generator)
        return centre + temperature * (0.5 * self._log_var()[y]).exp() * noise

    def class_means(self, y: Tensor, around: Around = "means") -> Tensor:
        """Return the means, or average training latents ("data"), of labels y (B,): (B, D)."""
        return (self.means if around == "means" else self.data_means)[y]

    @torch.no_grad()
    def set_means(self, means: Tensor) -> None:
        """Replace the means (K, D).

        Raises:
            UserError: another shape, or a number that is not finite.
        """
        self._check_means(means)
        self.means.copy_(means)

    @torch.no_grad()
    def set_data_means(self, means: Tensor) -> None:
        """Replace the average training latents, as `class_averages` returns them."""
        self.data_means.copy_(means)

    def _check_means(self, means: Tensor) -> None:
        if means.shape != self.means.shape or not bool(means.isfinite().all()):
            raise UserError(
                f"expected finite means of shape {tuple(self.means.shape)}, "
                f"got shape {tuple(means.shape)}"
            )

    @torch.no_grad()
    def set_weights(self, counts: Tensor) -> None:
        """Set w_k proportional to the label counts (K,).

        Raises:
            UserError: another shape, or a count that is not positive.
        """
        if counts.shape != (self.classes,) or not bool((counts > 0).all()):
            raise UserError(f"expected {self.classes} positive class counts, got {counts.tolist()}")
        offsets = self._half_norms() if self.weights == "affine" else 0.0
        self.weight_logits.copy_(counts.to(self.weight_logits).log() - offsets)

    @torch.no_grad()
    def class_averages(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the average latent of each class over batches of z (B, D) and y (B,): (K, D).

        Raises:
            UserError: a class without a sample.
        """
        sums = torch.zeros_like(self.coordinates)
        counts = sums.new_zeros(self.classes)
        for z, y in batches:
            y = self._labels(y)
            # A matrix product, since index_add is not deterministic on a GPU.
            members = torch.nn.functional.one_hot(y, self.classes).to(sums)
            sums += members.T @ self.project(z).to(sums)
            counts += members.sum(0)
        if not bool(counts.all()):
            missing = (counts == 0).nonzero().flatten().tolist()
            raise UserError(f"expected a sample of every class, got none of {missing}")
        return sums / counts[:, None]

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.log_var.device

    @property
    def coordinates(self) -> Tensor:
        """Parameters that determine the means: the means themselves, (K, D)."""
        return self.means

    def project(self, z: Tensor) -> Tensor:
        """Return the `coordinates` of points z (B, D) as means could have them: z itself."""
        return z

    def centres(self) -> Tensor:
        """Return the means (K, D), or the average training latents if all means are zero.

        They are zero where an autoencoder's prior is the standard normal.
        """
        return self.means if bool(self.coordinates.any()) else self.data_means

    def class_centres(self, y: Tensor, around: Around = "means") -> Tensor:
        """Return `class_means`, around "data" if all means are zero: (B, D)."""
        return self.class_means(y, around if bool(self.coordinates.any()) else "data")

    def mean_distance(self) -> Tensor:
        """Return the average distance between two means, 0-dim (IB-INN's "delta mu")."""
        return torch.pdist(self.means).mean()

    def half_mahalanobis(self, log_prob_given_class: Tensor) -> Tensor:
        """Return ½ (z-μ_k)ᵀΣ_k⁻¹(z-μ_k), (B, K), from log q(z|k) as `densities` returns it."""
        return -(log_prob_given_class + self._log_volume())

    def residuals(self, z: Tensor, y: Tensor) -> Tensor:
        """Return (z - μ_y) / σ_y, standard normal under q(z|y), of z and y (B,): (B, D)."""
        return (z - self.class_means(y)) / self.std()[y]

    def _log_volume(self) -> Tensor:
        """Return -log q(μ_k|k), (K,)."""
        return 0.5 * (self._log_var().sum(1) + self.dims * log(2 * pi))

    def _log_var(self) -> Tensor:
        """Return log σ², (K, D), zeros for unit covariance."""
        unit = self.covariance == "unit"
        rows = self.log_var.new_zeros(1, self.dims) if unit else self.log_var
        return rows.expand(self.classes, self.dims)

    def _precision(self) -> Tensor:
        return (-self._log_var()).exp()

    def _half_norms(self) -> Tensor:
        return 0.5 * (self.means.square() * self._precision()).sum(1)

    def embed(self, z: Tensor) -> Tensor:
        """Return z (B, D) where the densities are defined: unchanged."""
        return z

    def std(self) -> Tensor:
        """Return σ, (K, D)."""
        return (0.5 * self._log_var()).exp()

    def _per_class_densities(self, z: Tensor, learn_weights: bool) -> MixtureDensities:
        # Log-likelihoods are thousands of nats: bfloat16 would not resolve the classes.
        with full_precision(z):
            centre = self.means.detach().mean(0)
            z, means = z.to(centre.dtype) - centre, self.means - centre
            precision = self._precision()
            shared = precision.mean(0)
            linear = z @ (means * precision).T - 0.5 * (means.square() * precision).sum(1)
            quadratic = 0.5 * z.square() @ (precision - shared).T
            scores = linear - quadratic - 0.5 * self.log_var.sum(1)
            common = -0.5 * (z.square() @ shared + self.dims * log(2 * pi))
            return self._from_scores(scores, common, learn_weights)

    def _from_scores(self, scores: Tensor, common: Tensor, learn_weights: bool) -> MixtureDensities:
        """Return the densities of log q(z|k) = scores (B, K) + common (B,) or (1,)."""
        weights = self.log_weights
        prior = weights if learn_weights else weights.detach()
        log_prob = (scores + weights).logsumexp(1) + common
        return MixtureDensities(scores + common[:, None], log_prob, (scores + prior).log_softmax(1))

    def _check_draw(self, y: Tensor, temperature: float, around: Around) -> Tensor:
        """Return labels (B,) as int64, once all arguments of a draw are valid."""
        validate.temperature(temperature)
        validate.one_of("around", around, ("means", "data"))
        return self._labels(y)

    def _labels(self, y: Tensor) -> Tensor:
        like, training = self.log_var, self.training
        return validate.indices("y", y, "labels", self.classes, like, training=training)

    def extra_repr(self) -> str:
        """Return the sizes for `print(mixture)`."""
        return f"classes={self.classes}, dims={self.dims}, covariance={self.covariance}"


def _initial_means(
    start: Start, classes: int, dims: int, distance: float, generator: torch.Generator | None
) -> Tensor:
    """Return the initial means (K, D) of `GaussianMixture`."""
    if start == "zero":
        return torch.zeros(classes, dims)
    generator = generator or torch.Generator().manual_seed(0)
    if start == "normal":
        return torch.randn(classes, dims, generator=generator)
    if start == "linear":
        return (2 * torch.rand(classes, dims, generator=generator) - 1) / dims**0.5
    means = equidistant_means(classes, dims, distance, generator)
    if start == "sphere":
        means *= dims**0.5 / means.norm(dim=1, keepdim=True)
    return means


def equidistant_means(
    classes: int, dims: int, distance: float, generator: torch.Generator | None = None
) -> Tensor:
    """Return K points in D dimensions, any two `distance` apart (on average, where D < K).

    As in IB-INN's code: scaled identities side by side, means[:, jK:(j+1)K] = s·I, and zeros in
    the last D mod K columns; s = distance / sqrt(2 ⌊D/K⌋) makes the distance exact (the code's
    ⌊2D/K⌋ gives 4.96 for CIFAR-100). Where D < K no such points exist: they spread over a sphere,
    or a line.
    """
    repeats = dims // classes
    if repeats == 0:
        generator = generator or torch.Generator().manual_seed(0)
        points = _spread_points(classes, dims, generator)
        return (points * distance / torch.pdist(points).mean()).float()
    means = torch.zeros(classes, dims)
    blocks = torch.eye(classes).repeat(1, repeats)
    means[:, : repeats * classes] = blocks * distance / (2 * repeats) ** 0.5
    return means


def _spread_points(classes: int, dims: int, generator: torch.Generator) -> Tensor:
    """Return points on the unit sphere that repelled each other like charges, in random order."""
    if dims == 1:
        order = torch.randperm(classes, generator=generator)
        return torch.linspace(-1, 1, classes, dtype=torch.float64)[order, None]
    points = torch.randn(classes, dims, generator=generator, dtype=torch.float64)
    for step in range(REPULSIONS):
        points = normalize(points)
        apart = points[:, None] - points
        square = apart.square().sum(2).fill_diagonal_(1)
        force = (apart / square[..., None] ** 1.5).sum(1)
        # Decreasing steps, none longer than a fifth of the way to a neighbour.
        length = 0.2 * square.sqrt().amin(1, keepdim=True) * (1 - step / REPULSIONS)
        points = points + length * normalize(force - (force * points).sum(1, keepdim=True) * points)
    return normalize(points)
