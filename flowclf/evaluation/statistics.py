"""Statistics of single samples: the numbers a model has to say of each, for scores to be made of.

Grey levels are taken at the middle of their interval, or with noise that is a function of x, so
that no other sample of a batch has a part in the answer. The densities of `evaluate`, which bound
bits, are averages over noise.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from couplings import Chain, Invertible
from couplings.functional import MixtureDensities
from flowclf.classifier import GenerativeClassifier, evaluating
from flowclf.evaluation.derivatives import layer_gradients, local_dimension
from flowclf.evaluation.discriminant import Discriminant
from flowclf.nn.encoders import Encoding
from flowclf.nn.hooks import noting
from flowclf.objectives import gaussian_kl
from flowclf.support import validate
from flowclf.support.errors import UserError
from flowclf.support.seeding import hashed_uniform
from flowclf.systems.ib_inn import ConditionedIBInn

__all__ = [
    "COSTLY",
    "STATISTICS",
    "Statistics",
    "differentiable_statistics",
    "log_prob_or_elbo",
    "statistics",
]

Statistics = Mapping[str, Tensor]
"""By name, of N samples each, float64, on the CPU; those that a system has not are absent."""

BATCH_SIZE = 512
BETAS = 5


@dataclass(frozen=True)
class _Batch:
    """Samples x on the model's device; what is computed of them is computed once."""

    model: GenerativeClassifier
    x: Tensor
    discriminant: Discriminant | None

    @cached_property
    def points(self) -> Tensor:
        """x as the density knows it: with the first of the noises that the posterior averages."""
        noise = self.model.noise
        return noise.copies(noise.to_points(self.x))[0] if noise.draws else self.x

    @cached_property
    def encoding(self) -> Encoding:
        return self._encoded[0]

    @cached_property
    def _encoded(self) -> tuple[Encoding, list[Tensor]]:
        """The encoding, and log|det J| of each stage of a flow that is a `Chain`, in one pass."""
        network, found = self.model.encoder.network, list[Tensor]()
        stages = network if self.model.has_density and isinstance(network, Chain) else ()
        with noting(stages, lambda stage, inputs, outputs: found.append(outputs[1])):
            return self.model.encode(self.points), found

    @cached_property
    def densities(self) -> MixtureDensities:
        return self.model.densities(self.encoding.z)

    # A statistic each, by its name: (B,), or (B, K) and (B, D).

    def nll_per_dim(self) -> Tensor | None:
        """-log q(x)/d in nats and data units; -elbo(x)/d where there is only that."""
        if self.encoding.log_det is not None and self.model.has_density:
            found = self.densities.log_prob + self.encoding.log_det
        elif self.model.has_elbo:
            found = self.model.elbo(self.points)
        else:
            return None
        return -found.double() / self.model.dims

    def log_det_per_dim(self) -> Tensor | None:
        """log|det J|/d of a flow, nats."""
        log_det = self.encoding.log_det if self.model.has_density else None
        return None if log_det is None else log_det.double() / self.model.dims

    def log_posterior(self) -> Tensor:
        """log q(k|x), (B, K)."""
        # A flow's posterior is that of its latents: one pass for both.
        exact = self.encoding.log_det is not None and not self.model.noise.draws
        return self.densities.log_posterior if exact else self.model.log_posterior(self.x)

    def latents(self) -> Tensor:
        """z, (B, D)."""
        return self.encoding.z

    def latent_nll(self) -> Tensor:
        """-log q(z) of the mixture, nats."""
        return -self.densities.log_prob

    def distance(self) -> Tensor | None:
        """Mahalanobis distance to the nearest class mean."""
        mixture = self.model.mixture
        if not mixture.has_distances:
            return None
        squares = 2 * mixture.half_mahalanobis(self.densities.log_prob_given_class)
        return squares.min(1).values.double().clamp_min(0).sqrt()

    def relative_distance(self) -> Tensor | None:
        """See `Discriminant.relative_distance`."""
        plane = self.discriminant
        return None if plane is None else plane.relative_distance(self.encoding.z)

    def rate(self) -> Tensor | None:
        """KL(q(z|x) ‖ N(0, I)) of a Gaussian encoder, nats."""
        mean, log_var = self.encoding.mean, self.encoding.log_var
        return None if mean is None or log_var is None else gaussian_kl(mean, log_var)

    def normality(self) -> Tensor | None:
        """Anderson-Darling statistic of a flow's `_whitened` latent."""
        return None if self._whitened is None else anderson_darling(self._whitened)

    def flatness(self) -> Tensor | None:
        """std/mean of the power spectrum of a flow's `_whitened` latent."""
        if self._whitened is None or self._whitened.shape[1] < 4:
            return None
        power = torch.fft.rfft(self._whitened.float()).abs().square()[:, 1:]
        return power.std(1, correction=0) / power.mean(1)

    def stage_log_dets_per_dim(self) -> Tensor | None:
        """log|det J|/d of each stage of a flow that is a `Chain`, (B, S), nats."""
        found = self._encoded[1]
        return torch.stack(found, 1).double() / self.model.dims if found else None

    def complexity(self) -> Tensor | None:
        """Bits/dim of x as a PNG file, of grey or RGB images; a point x is of its grey level."""
        if self.x.ndim != 4 or self.x.shape[1] not in (1, 3):
            return None
        whole = self.x.detach().floor().clamp(0, 255) if self.x.is_floating_point() else self.x
        return png_bits_per_dim(whole.byte())

    def beta_nll_per_dim(self) -> Tensor | None:
        """-log q(x)/d at each of five β̃ of a model for all, nats: (B, 5)."""
        model = self.model
        if not isinstance(model, ConditionedIBInn):
            return None
        found = []
        try:
            for beta in model.trade_off.grid(BETAS):
                model.trade_off.move(beta)
                found.append(-model.log_prob(self.points).double() / model.dims)
        finally:
            model.trade_off.move(model.settings.objective.beta)
        return torch.stack(found, 1)

    # Of `COSTLY`: backward passes.

    def layer_gradients(self) -> Tensor | None:
        """See `layer_gradients`, of log q(x) or the elbo."""
        model = self.model
        if not model.has_elbo:
            return None
        density = model.log_prob if model.has_density else model.elbo
        return layer_gradients(model, density, model.noise.to_points(self.points))

    def local_dimension(self) -> Tensor | None:
        """See `local_dimension`, of a flow."""
        encoder, model = self.model.encoder, self.model
        if not (model.has_density and isinstance(encoder.network, Invertible)):
            return None
        points = model.noise.to_points(self.points)
        return local_dimension(encoder.network, encoder.preprocess(points)[0])

    @cached_property
    def _whitened(self) -> Tensor | None:
        """Latents of the dequantised x, (z - μ_k) / σ_k of the likeliest class; None if no flow."""
        model, mixture = self.model, self.model.mixture
        if not model.has_density or not mixture.has_distances:
            return None
        points = model.noise.to_points(self.points)
        if not self.x.is_floating_point():
            points = points + hashed_uniform(self.x, each=True) - model.noise.level_middle
        z = model.encode(points.to(mixture.coordinates.dtype)).z
        k = mixture.log_prob_given_class(z).argmax(1)
        return mixture.residuals(z, k)


STATISTICS = (
    "nll_per_dim", "log_det_per_dim", "log_posterior", "latent_nll", "distance",
    "relative_distance", "rate", "normality", "flatness", "stage_log_dets_per_dim", "complexity",
    "beta_nll_per_dim",
)  # fmt: skip
"""All but `latents`, which take the most memory, and those that take the most time."""

COSTLY = ("layer_gradients", "local_dimension")
"""Those that take a backward pass or many."""


@torch.no_grad()
def statistics(
    model: GenerativeClassifier,
    x: Tensor,
    names: Iterable[str] = STATISTICS,
    discriminant: Discriminant | None = None,
) -> Statistics:
    """Compute statistics of x (N, *shape), in eval mode, batch by batch.

    Args:
        model: in any mode; it is put back.
        x: samples, on any device.
        names: which; methods of `_Batch`.
        discriminant: of this model, for `relative_distance`.

    Raises:
        UserError: no samples, or samples of another shape.
    """
    validate.samples("x", x, model.shape)
    if not len(x):
        raise UserError("expected samples to score, got none")
    names, device = tuple(names), model.mixture.device
    with evaluating(model):
        batches = (_Batch(model, part.to(device), discriminant) for part in x.split(BATCH_SIZE))
        parts = [_told(batch, names) for batch in batches]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def differentiable_statistics(
    model: GenerativeClassifier,
    x: Tensor,
    names: Iterable[str],
    discriminant: Discriminant | None = None,
) -> Statistics:
    """Compute statistics of one batch of points x, with a graph to x; see `statistics`.

    Bits as a PNG file are constants.
    """
    with torch.enable_grad(), evaluating(model):
        return _told(_Batch(model, x, discriminant), names)


def _told(batch: _Batch, names: Iterable[str]) -> dict[str, Tensor]:
    values = {name: getattr(batch, name)() for name in names}
    return {name: each.cpu().double() for name, each in values.items() if each is not None}


def log_prob_or_elbo(model: GenerativeClassifier, x: Tensor) -> Tensor | None:
    """Return log q(x), or the elbo where a system has only that, (B,), nats; None without both."""
    if not model.has_elbo:
        return None
    return model.log_prob(x) if model.has_density else model.elbo(x)


def anderson_darling(u: Tensor) -> Tensor:
    """Compute the Anderson-Darling statistic of each row (B, D) against N(0, 1): (B,), float64.

    A² = -D - 1/D Σ_i (2i - 1) [log Φ(u_(i)) + log Φ(-u_(D+1-i))]
    """
    dims = u.shape[1]
    ordered = u.double().sort(1).values
    below, above = torch.special.log_ndtr(ordered), torch.special.log_ndtr(-ordered)
    odd = 2 * torch.arange(1, dims + 1, dtype=torch.float64, device=u.device) - 1
    return -dims - (odd * (below + above.flip(1))).sum(1) / dims


def png_bits_per_dim(x: Tensor) -> Tensor:
    """Compute bits/dim of 8-bit images (B, 1 or 3, H, W) as PNG files: (B,), float64."""
    from PIL import Image

    sizes = []
    for pixels in np.moveaxis(x.cpu().numpy(), 1, -1):
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
        sizes.append(file.tell())
    return 8 * torch.tensor(sizes, dtype=torch.float64) / x[0].numel()
