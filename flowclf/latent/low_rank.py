"""Gaussian mixture with class means of low rank, for latents too wide for K full means."""

from collections.abc import Mapping
from math import log, pi
from typing import Any

import torch
from torch import Tensor, nn

from couplings.functional import MixtureDensities
from couplings.ops.dispatch import full_precision
from flowclf.latent.gaussian import Around, GaussianMixture
from flowclf.support import validate
from flowclf.support.errors import UserError

__all__ = ["LowRankMixture", "registered"]


class LowRankMixture(GaussianMixture):
    """Mixture whose means are free in the first F dimensions and of rank r in all others.

        μ_k = [m_k, u_k V],   m (K, F),  u (K, r),  V (r, D-F)

    The densities equal those of a `GaussianMixture` with these means, without ever forming (K, D):

        z·μ_k = z_F·m_k + (z_rest Vᵀ)·u_k,   ‖μ_k‖² = ‖m_k‖² + u_k (V Vᵀ) u_kᵀ

    Memory O(B·K + B·D + K (F + r) + r (D-F)), linear in r. Means are stored as `coordinates`
    [m_k, u_k], average training latents as their projections. `means` and `data_means`, (K, D), are
    computed on demand; `class_means` computes those of some classes only.

    Args:
        classes, dims: K and D.
        rank: r; 0: the means are zero in the other dimensions, which then separate no classes.
        full_dims: F. The network orders the dimensions: after a DCT and
            `Flatten(channels_last=True)` the lowest frequencies come first.
        options: as of `GaussianMixture`; `start` and `distance` refer to F + r dimensions, and V
            starts orthonormal.
        generator: source of the initial means and V.

    Raises:
        UserError: an impossible rank, or a covariance per class, which is (K, D) again.

    Mackowiak, Ardizzone, Köthe, Rother, "Generative classifiers as a basis for trustworthy image
    classification", CVPR 2021, has F = 3072 and r = 128 for ImageNet.

    Attributes:
        mean_basis: V, (r, D-F).
    """

    def __init__(
        self,
        classes: int,
        dims: int,
        rank: int,
        full_dims: int = 0,
        *,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        rest = dims - full_dims
        if not (0 <= rank < rest and full_dims >= 0 and rank + full_dims > 0):
            raise UserError(
                f"expected mixture.full_dims and mixture.rank of together 1 to {dims - 1} for "
                f"{dims} dimensions, got {full_dims} and {rank}; leave both out for full means"
            )
        if options.get("covariance") == "per-class":
            raise UserError(
                "expected mixture.covariance unit or shared for mixture.rank: a covariance per "
                "class takes as much memory as full means"
            )
        generator = generator or torch.Generator().manual_seed(0)
        super().__init__(classes, full_dims + rank, generator=generator, **options)
        self.dims, self.full_dims, self.rank = dims, full_dims, rank
        self.log_var = nn.Parameter(
            torch.zeros(len(self.log_var), dims), requires_grad=self.log_var.requires_grad
        )
        basis = torch.linalg.qr(torch.randn(rest, rank, generator=generator)).Q.T.contiguous()
        learned = self.coordinates.requires_grad and rank > 0
        self.mean_basis = nn.Parameter(basis, requires_grad=learned)

    @property
    def coordinates(self) -> Tensor:
        """[m_k, u_k] of the means, (K, F + r)."""
        return registered(self._parameters, "means")

    @property
    def data_coordinates(self) -> Tensor:
        """[m_k, u_k] of the average training latents, (K, F + r)."""
        return registered(self._buffers, "data_means")

    @property
    def means(self) -> Tensor:  # type: ignore[override]
        """μ, (K, D)."""
        return self._expand(self.coordinates)

    @property
    def data_means(self) -> Tensor:  # type: ignore[override]
        """Projected average training latent of each class, (K, D)."""
        return self._expand(self.data_coordinates)

    def class_means(self, y: Tensor, around: Around = "means") -> Tensor:
        """Return the means, or average training latents ("data"), of labels y (B,): (B, D)."""
        return self._expand((self.coordinates if around == "means" else self.data_coordinates)[y])

    def densities(self, z: Tensor, *, learn_weights: bool = True) -> MixtureDensities:
        """Return the densities, as `GaussianMixture.densities` does.

        Raises:
            UserError: z of another shape, type or device.
        """
        validate.latents("z", z, self.dims, self.log_var)
        # Log-likelihoods are thousands of nats: bfloat16 would not resolve the classes.
        with full_precision(z):
            scale = self._scale()
            own, shared, basis = self._scaled(scale)
            # Relative to the centre of the means, lest common terms swamp the differences.
            z = z.to(scale.dtype) * scale
            z = z - torch.cat((own.mean(0), shared.mean(0) @ basis))
            own, shared = own - own.mean(0), shared - shared.mean(0)
            first, rest = self._split(z)
            scores = first @ own.T + (rest @ basis.T) @ shared.T - _half_squares(own, shared, basis)
            volume = self.dims * log(2 * pi) + self._log_var()[0].sum()
            return self._from_scores(scores, -0.5 * (z.square().sum(1) + volume), learn_weights)

    @torch.no_grad()
    def set_means(self, means: Tensor) -> None:
        """Replace the means (K, D), whose last D-F numbers are projected onto the rows of V.

        Coordinates (K, F + r), as `class_averages` returns them, serve as well.

        Raises:
            UserError: another shape, or a number that is not finite.
        """
        self.coordinates.copy_(self._coordinates_of(means))

    @torch.no_grad()
    def set_data_means(self, means: Tensor) -> None:
        """Replace the average training latents, given as to `set_means`."""
        self.data_coordinates.copy_(self._coordinates_of(means))

    def project(self, z: Tensor) -> Tensor:
        """Return the coordinates of the nearest representable points to z (B, D): (B, F + r)."""
        first, rest = self._split(z.to(self.mean_basis))
        basis = self.mean_basis.double()
        inverse = torch.linalg.pinv(basis @ basis.T, hermitian=True)
        along = (rest @ self.mean_basis.T).double() @ inverse
        return torch.cat((first, along.to(rest)), 1)

    def mean_distance(self) -> Tensor:
        """Return the average distance between two means, 0-dim."""
        own, shared = self._split(self.coordinates)
        # V = RᵀQᵀ with orthonormal Q: the u Rᵀ are as far apart as the u V.
        shared = shared @ torch.linalg.qr(self.mean_basis.T).R.T
        return torch.pdist(torch.cat((own, shared), 1)).mean()

    def _half_norms(self) -> Tensor:
        return _half_squares(*self._scaled(self._scale()))

    def _scale(self) -> Tensor:
        """Return 1/σ, (D,), common to all classes."""
        return (-0.5 * self._log_var()[0]).exp()

    def _scaled(self, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return m_k, u_k and V of the means times `scale` (D,)."""
        own, shared = self._split(self.coordinates)
        return own * scale[: self.full_dims], shared, self.mean_basis * scale[self.full_dims :]

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first F columns, and the others."""
        return values[:, : self.full_dims], values[:, self.full_dims :]

    def _expand(self, coordinates: Tensor) -> Tensor:
        """Return the points (N, D) of coordinates (N, F + r)."""
        own, shared = self._split(coordinates)
        with full_precision(shared):
            return torch.cat((own, shared @ self.mean_basis), 1)

    def _coordinates_of(self, means: Tensor) -> Tensor:
        expected = (self.classes, self.dims), tuple(self.coordinates.shape)
        if tuple(means.shape) not in expected or not bool(means.isfinite().all()):
            raise UserError(
                f"expected finite means of shape {expected[0]}, or coordinates {expected[1]}, "
                f"got shape {tuple(means.shape)}"
            )
        return self.project(means) if means.shape[1] == self.dims else means

    def extra_repr(self) -> str:
        """Return the sizes for `print(mixture)`."""
        return f"{super().extra_repr()}, full_dims={self.full_dims}, rank={self.rank}"


def _half_squares(own: Tensor, shared: Tensor, basis: Tensor) -> Tensor:
    """Return ½ ‖[m_k, u_k V]‖², (K,)."""
    with full_precision(shared):
        gram = basis @ basis.T
        return 0.5 * (own.square().sum(1) + ((shared @ gram) * shared).sum(1))


def registered(tensors: Mapping[str, Tensor | None], name: str) -> Tensor:
    """Return a tensor that the parent registers under a name that is a property of its child."""
    found = tensors.get(name)
    if found is None:
        raise AttributeError(name)
    return found
