"""The common face of every system: `GenerativeClassifier`."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from couplings.core import Shape
from flowclf.encoders import Encoding, InvertibleEncoder
from flowclf.errors import NoExactDensity, UserError
from flowclf.mixture import Around, GaussianMixture
from flowclf.noise import Noise

__all__ = ["GenerativeClassifier", "class_latents"]

BATCH_SIZE = 512


class GenerativeClassifier(nn.Module):
    """A classifier that is an encoder into a latent mixture of Gaussians, one for each class.

    x is given in the data's own units: grey levels for images (B, C, H, W), the features as they
    are for tables (B, F). An integer x stands for its grey level, the interval [x, x + 1), and is
    taken at the middle of it. Densities are in nats per sample, in these units.

    Args:
        shape: shape of one sample.
        encoder: from data to latents.
        mixture: the latent mixture.
        noise: what `perturb` adds.
    """

    def __init__(
        self, shape: Shape, encoder: InvertibleEncoder, mixture: GaussianMixture, noise: Noise
    ) -> None:
        super().__init__()
        self.shape: Shape = tuple(shape)
        self.encoder, self.mixture, self.noise = encoder, mixture, noise

    @property
    def classes(self) -> int:
        """K."""
        return self.mixture.classes

    @property
    def dims(self) -> int:
        """Dimensions of one sample."""
        return int(torch.Size(self.shape).numel())

    def encode(self, x: Tensor) -> Encoding:
        """z (B, D) and what the encoder knows exactly (`log_det` (B,), or `mean`, `log_var`)."""
        encoding: Encoding = self.encoder(self._as_float(x))
        return encoding

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Exact log q(x), or log q(x|y) for labels y (B,): (B,), nats, in the data's own units.

            log q(x) = log Σ_k w_k N(z; μ_k, Σ_k) + log|det dz/dx|

        The density at the point x: for integer data add noise first (`perturb`).

        Raises:
            NoExactDensity: the encoder is not invertible.
        """
        encoding = self.encode(x)
        if encoding.log_det is None:
            raise NoExactDensity(
                f"{type(self).__name__} has no exact log_prob, only a lower bound: use elbo(x)"
            )
        if y is None:
            return self.mixture.log_prob(encoding.z) + encoding.log_det
        given_class = self.mixture.log_prob_given_class(encoding.z)
        return given_class.gather(1, y[:, None])[:, 0] + encoding.log_det

    def elbo(self, x: Tensor) -> Tensor:
        """Lower bound of log q(x), (B,), nats; where the density is exact, the density itself."""
        return self.log_prob(x)

    def log_posterior(self, x: Tensor) -> Tensor:
        """log q(k|x), (B, K)."""
        return self.mixture.log_posterior(self.encode(x).z)

    def predict(self, x: Tensor) -> Tensor:
        """The most probable class, (B,)."""
        return self.log_posterior(x).argmax(1)

    def decode(self, z: Tensor) -> Tensor:
        """x (B, *shape) of latents z (B, D), in data units."""
        return self.encoder.decode(z)

    @torch.no_grad()
    def sample(
        self,
        y: Tensor,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        around: Around = "means",
    ) -> Tensor:
        """One x for each label of y (B,): decoded draws from N(μ_y, temperature² Σ_y).

        At temperature 1 these are draws from q(x|y). Around "data" they have the average latent of
        the class's training samples as their centre, as in the authors' pictures: sharper images
        where a large β̃ holds the latents off the means.
        """
        return self.decode(self.mixture.sample(y, temperature, generator, around))

    @torch.no_grad()
    def interpolate(self, x0: Tensor, x1: Tensor, steps: int) -> Tensor:
        """(steps, B, *shape): decoded points of the straight line between the two latents.

        Raises:
            UserError: fewer than two steps, or batches of different shapes.
        """
        if steps < 2 or x0.shape != x1.shape:
            raise UserError(
                f"expected two batches of one shape and at least 2 steps, got shapes "
                f"{tuple(x0.shape)} and {tuple(x1.shape)} and {steps} steps"
            )
        z0, z1 = self.encode(x0).z, self.encode(x1).z
        weights = torch.linspace(0, 1, steps, dtype=z0.dtype, device=z0.device)
        return torch.stack([self.decode(z0.lerp(z1, weight)) for weight in weights])

    def perturb(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x with the system's noise: uniform dequantisation and Gaussian. Units of the data.

        `generator` lives on x's device; without one torch's default generator is used.
        """
        noisy: Tensor = self.noise(x, generator)
        return noisy

    @abstractmethod
    def loss(
        self, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The named terms of the objective and their weighted `total`, to be minimised; 0-dim.

        Integer x is dequantised first (`perturb`); floating x is taken as it is. `accuracy` is
        reported beside the terms.
        """

    @abstractmethod
    def fit_statistics(self, x: Tensor, y: Tensor) -> None:
        """Set what is computed, not learned, from the training data: scales, class frequencies."""

    def _as_float(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise UserError(
                f"expected x of shape (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}"
            )
        middle = 0.0 if x.is_floating_point() else self.noise.uniform / 2
        return x.to(self.mixture.means.dtype) + middle


@torch.no_grad()
def class_latents(model: GenerativeClassifier, x: Tensor, y: Tensor) -> Tensor:
    """Average noise-free latent of each class, (K, D), in eval mode, batch by batch.

    Raises:
        UserError: a class without a sample.
    """
    was_training = model.training
    model.eval()
    batches = zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE), strict=True)
    averages = model.mixture.class_averages((model.encode(xs).z, ys) for xs, ys in batches)
    model.train(was_training)
    return averages
