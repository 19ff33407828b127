"""Von Mises-Fisher mixture on the sphere, for latents whose length carries no information."""

from collections.abc import Iterable
from math import ceil, inf, log, pi, sqrt
from typing import Literal, Never

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from couplings.functional import MixtureDensities
from couplings.ops.dispatch import full_precision
from flowclf.latent.gaussian import Around, GaussianMixture, Means, Weights
from flowclf.support import validate
from flowclf.support.errors import UserError

__all__ = ["VonMisesFisherMixture", "log_bessel_i", "log_normalizer"]

Concentration = Literal["shared", "per-class"]

# Debye's series with 10 terms is accurate to 1e-14 from order 25 on, at every x.
LEAST_ORDER, TERMS = 25, 10
# Every draw rounds to its mean, and 1/κ is still positive.
LARGEST_KAPPA = 1e200


class VonMisesFisherMixture(GaussianMixture):
    """Mixture p(u) = Σ_k w_k C_D(κ_k) exp(κ_k m_k·u) of directions u = z/‖z‖, m_k = μ_k/‖μ_k‖.

        log p(u|k) = log C_D(κ_k) + κ_k μ_k·z / (‖μ_k‖ ‖z‖)

    Densities are in nats with respect to the surface of the unit sphere: they integrate to one over
    directions, not over z. A latent or mean of length zero counts as orthogonal to everything.
    The covariance of the `GaussianMixture` has no meaning here. Memory O(B·K + B·D + K·D).

    Args:
        classes, dims: K and D, at least 2.
        means: learned, or frozen at their initial values (set others with `set_means`).
        concentration: one κ per class, or a shared one: log p(k|u) = log softmax(κ cos + log w).
        weights: uniform, empirical (`set_weights`), or learned logits.
        kappa: initial concentration; D if None.
        generator: source of the initial means if D < K; otherwise they are orthogonal.

    Raises:
        UserError: fewer than two dimensions, a concentration that is not positive and finite, or
            weights that only a Gaussian mixture has.

    Scott, Gallagher, Mozer, "von Mises-Fisher loss: an exploration of embedding geometries for
    supervised learning", ICCV 2021.

    Attributes:
        means: μ, (K, D); only their directions count.
        data_means: average training direction of each class, (K, D).
        log_kappa: log κ, (K,) or (1,).
    """

    has_distances = False

    def __init__(
        self,
        classes: int,
        dims: int,
        *,
        means: Means = "learned",
        concentration: Concentration = "per-class",
        weights: Weights = "uniform",
        kappa: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        initial = dims if kappa is None else kappa
        if dims < 2 or not 0 < initial < inf:
            raise UserError(f"expected dims >= 2 and finite kappa > 0, got {dims} and {initial}")
        if weights not in ("uniform", "empirical", "learned"):
            raise UserError(f"expected weights uniform, empirical or learned, got {weights}")
        super().__init__(
            classes, dims, means=means, weights=weights, distance=sqrt(2), generator=generator
        )
        self.concentration = concentration
        rows = {"shared": 1, "per-class": classes}[concentration]
        self.log_kappa = nn.Parameter(torch.full((rows,), log(initial)))

    @property
    def kappa(self) -> Tensor:
        """κ_k, (K,)."""
        return self.log_kappa.exp().expand(self.classes)

    def densities(self, z: Tensor, *, learn_weights: bool = True) -> MixtureDensities:
        """Return log p(u|k) (B, K), log p(u) (B,) and log p(k|u) (B, K) of z (B, D), in nats.

        Raises:
            UserError: z of another shape, type or device.
        """
        validate.latents("z", z, self.dims, self.log_var)
        # Log-normalizers are thousands of nats: their mean stays out of the scores.
        with full_precision(z):
            volumes = log_normalizer(self.dims, self.kappa.double())
            common = volumes.mean()
            wide = torch.promote_types(z.dtype, self.means.dtype)
            cosines = normalize(z.to(wide)) @ normalize(self.means.to(wide)).T
            scores = self.kappa * cosines + (volumes - common).to(cosines.dtype)
            return self._from_scores(scores, common.to(cosines.dtype).view(1), learn_weights)

    @torch.no_grad()
    def sample(
        self,
        y: Tensor,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        around: Around = "means",
    ) -> Tensor:
        """Draw directions from p(u|y) with κ_y / temperature² for labels y (B,): (B, D).

        Exact, by rejection, without gradients: Wood, "Simulation of the von Mises Fisher
        distribution", 1994. Temperature 0 gives the mean directions.

        Raises:
            UserError: labels out of range, or a temperature that is negative or not finite.
        """
        y = self._check_draw(y, temperature, around)
        centres = normalize(self.class_means(y, around).double())
        kappa = (self.kappa.double() / temperature**2).clamp(max=LARGEST_KAPPA)[y]
        drawn = torch.empty_like(centres)
        left = torch.arange(len(centres), device=centres.device)
        while len(left):
            proposed, accepted = _propose(centres[left], kappa[left], generator)
            drawn[left[accepted]] = proposed[accepted]
            left = left[~accepted]
        return drawn.to(self.means.dtype)

    @torch.no_grad()
    def set_means(self, means: Tensor) -> None:
        """Replace the means (K, D); only their directions count.

        Raises:
            UserError: another shape, a number that is not finite, or a mean of length zero.
        """
        if not bool(means.any(-1).all()):
            raise UserError("expected means with a direction, got one of length zero")
        super().set_means(means)

    def class_averages(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the average direction of each class over batches of z (B, D), y (B,): (K, D).

        Its direction is the maximum-likelihood mean; its length grows from 0 to 1 with κ.

        Raises:
            UserError: a class without a sample.
        """
        return super().class_averages((self.embed(z.to(self.means)), y) for z, y in batches)

    def embed(self, z: Tensor) -> Tensor:
        """Return the directions z/‖z‖, (B, D)."""
        return normalize(z)

    def std(self) -> Tensor:
        """Return 1/√κ, (K, D): the spread about a mean along the sphere for large κ."""
        return self.kappa.rsqrt()[:, None].expand(self.classes, self.dims)

    def mean_distance(self) -> Tensor:
        """Return the average distance between two mean directions, 0-dim, from 0 to 2."""
        return torch.pdist(normalize(self.means)).mean()

    def to_linear(self) -> Never:
        """Raise UserError, as no linear layer has this posterior."""
        raise UserError("expected a Gaussian mixture, got one whose posterior is not affine in z")

    def half_mahalanobis(self, log_prob_given_class: Tensor) -> Never:
        """Raise UserError, as there is no Mahalanobis distance on the sphere."""
        raise UserError(
            "expected a Gaussian mixture, got one on the sphere: no Mahalanobis distance"
        )

    def extra_repr(self) -> str:
        """Return the sizes for `print(mixture)`."""
        return f"classes={self.classes}, dims={self.dims}, concentration={self.concentration}"


def log_normalizer(dims: int, kappa: Tensor) -> Tensor:
    """Return log C_D(κ) = (D/2-1) log κ - (D/2) log 2π - log I_{D/2-1}(κ), elementwise, nats.

    1/C_D(κ) is the integral of exp(κ m·u) over the unit sphere in D dimensions; κ > 0.
    """
    order = dims / 2 - 1
    return order * kappa.log() - dims / 2 * log(2 * pi) - log_bessel_i(order, kappa)


def log_bessel_i(order: float, x: Tensor) -> Tensor:
    """Return log I_v(x), the modified Bessel function of the first kind; differentiable in x.

    Debye's series in 1/√(v² + x²) from order 25 on; below, ratios are carried down from there:

        I_{v-1}/I_v = 2v/x + I_{v+1}/I_v

    In float64 the relative error is about 1e-13, or the rounding of the logarithm if larger.
    Olver et al., "NIST handbook of mathematical functions", 2010, 10.29.1 and 10.41.3.

    Args:
        order: v >= 0.
        x: positive.
    """
    steps = ceil(max(0.0, LEAST_ORDER - order))
    top = order + steps
    at_top = _debye(top, x)
    if steps == 0:
        return at_top
    inverse = (at_top - _debye(top + 1, x)).exp()
    gain = torch.zeros_like(x)
    for step in range(steps):
        inverse = 2 * (top - step) / x + 1 / inverse
        gain = gain + inverse.log()
    return at_top + gain


def _debye_coefficients() -> list[list[float]]:
    """Return the coefficients of q_k by rows: u_k(p) = p^k q_k(p²) of Olver et al., 10.41.9."""
    rows = [[1.0] + [0.0] * TERMS]
    for k in range(TERMS):
        row = [0.0] * (TERMS + 1)
        for j, c in enumerate(rows[k][: k + 1]):
            power = k + 2 * j
            row[j] += c * (power / 2 + 1 / (8 * (power + 1)))
            row[j + 1] -= c * (power / 2 + 5 / (8 * (power + 3)))
        rows.append(row)
    return rows


_COEFFICIENTS = _debye_coefficients()


def _debye(order: float, x: Tensor) -> Tensor:
    """Return log I_v(x) = s - v asinh(v/x) - ½ log 2πs + log Σ_k q_k(v²/s²)/s^k, s = √(v² + x²)."""
    s = (order**2 + x.square()).sqrt()
    powers = torch.arange(TERMS + 1, dtype=x.dtype, device=x.device)
    coefficients = torch.tensor(_COEFFICIENTS, dtype=x.dtype, device=x.device)
    polynomials = ((order / s)[..., None] ** (2 * powers)) @ coefficients.T
    series = (polynomials * s[..., None] ** -powers).sum(-1)
    return s - order * (order / x).asinh() - 0.5 * (2 * pi * s).log() + series.log()


def _propose(
    means: Tensor, kappa: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Propose directions (B, D) and accept some (B,): one round of Wood's rejection.

    The cosine t of a uniform direction becomes w = (c + t) / (1 + c t), kept with probability
    exp(κ (w - c)) ((1 - c w) / (1 - c²))^(D-1). Written in 1 - c and 1 - w, which may be tiny.
    """
    dims = means.shape[1]
    uniform = normalize(torch.empty_like(means).normal_(generator=generator))
    t = (uniform * means).sum(1)
    b = (dims - 1) / (2 * kappa + torch.hypot(2 * kappa, kappa.new_tensor(dims - 1)))
    c = 2 * b / (1 + b)  # one minus Wood's x_0
    w = c * (1 - t) / (1 + t - c * t)  # one minus the cosine
    log_ratio = ((c + w - c * w) / (c * (2 - c))).log()
    log_keep = kappa * (c - w) + (dims - 1) * log_ratio
    across = normalize(uniform - t[:, None] * means)
    direction = (1 - w)[:, None] * means + (w * (2 - w)).sqrt()[:, None] * across
    # Negated, as NaN would otherwise be rejected for ever.
    rejected = torch.empty_like(t).uniform_(generator=generator).log() > log_keep
    return direction, ~rejected
