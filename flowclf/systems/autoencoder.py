"""Systems with a decoder: bounds of log p(x), reconstructions and samples."""

from math import log, pi

import torch
from torch import Tensor, nn

from couplings.core import Shape
from couplings.functional import MixtureDensities
from couplings.ops.dispatch import widen
from flowclf.classifier import GenerativeClassifier, ModelSettings
from flowclf.latent.gaussian import Around, GaussianMixture
from flowclf.latent.information import gaussian_log_prob
from flowclf.nn.encoders import Encoder, Encoding, Noise
from flowclf.nn.likelihoods import Likelihood
from flowclf.objectives import gaussian_kl
from flowclf.support import validate

__all__ = ["Autoencoder", "LatentVariableModel"]

CHUNK = 8192
CANDIDATES = 4096


class LatentVariableModel(GenerativeClassifier):
    """Encoder, latent prior, and decoder with p(x|z): log p(x) has a bound, `elbo`.

    The decoder maps (B, D) to (B, outputs, *shape), of which the likelihood makes p(x|z).
    """

    accepts_unlabelled = True
    can_sample, can_decode, has_elbo = True, True, True

    def __init__(
        self,
        shape: Shape,
        encoder: Encoder,
        mixture: GaussianMixture,
        noise: Noise,
        settings: ModelSettings,
        decoder: nn.Module,
        likelihood: Likelihood,
    ) -> None:
        super().__init__(shape, encoder, mixture, noise, settings)
        self.decoder, self.likelihood = decoder, likelihood

    def decoded(self, z: Tensor) -> Tensor:
        """Compute the likelihood's parameters of latents z (B, D), in float32 or wider."""
        return widen(self.decoder(z))

    def _decode(self, z: Tensor) -> Tensor:
        """Compute E[x|z], (B, *shape), of latents z (B, D), in data units."""
        return self.likelihood.mean(self.decoded(z))

    def dequantize(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return x itself where the likelihood is one of grey levels, else with noise."""
        discrete = self.likelihood.discrete
        return self._samples("x", x) if discrete else super().dequantize(x, generator)

    def bounds_bits(self, x: Tensor) -> bool:
        """Return whether p(x|z) is normalised on these x."""
        return self.likelihood.is_bound(x)

    def _fit_statistics(self, x: Tensor, y: Tensor) -> None:
        """Fit the units of a table, too."""
        super()._fit_statistics(x, y)
        self.likelihood.fit(x)


class Autoencoder(LatentVariableModel):
    """Gaussian encoder q(z|x), the latent mixture as prior p(z), and a decoder with p(x|z)."""

    @property
    def standard_prior(self) -> bool:
        """True if p(z) is N(0, I): all components are the same, so the classes do not count."""
        mixture = self.settings.mixture
        frozen = mixture.means == "frozen" and mixture.covariance == "unit"
        return frozen and mixture.start == "zero"

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Compute log p(x|z), (B,), nats, of x in data units."""
        return self.likelihood.log_prob(x, self.decoded(z))

    def kl(self, encoding: Encoding, densities: MixtureDensities) -> Tensor:
        """Compute KL(q(z|x) ‖ p(z)), (B,), nats; for a mixture of several components at z.

        The estimate is log q(z|x) - log p(z) with E log q(z|x) in closed form.
        """
        assert encoding.mean is not None
        assert encoding.log_var is not None
        if self.standard_prior:
            return gaussian_kl(encoding.mean, encoding.log_var)
        entropy = 0.5 * (encoding.log_var + 1 + log(2 * pi)).sum(1)
        return -entropy - densities.log_prob

    def elbo(self, x: Tensor) -> Tensor:
        """Compute E_q log p(x|z) - KL(q(z|x) ‖ p(z)), (B,), nats, by 12 fixed draws of z.

        A bound of log p(x) where the likelihood is normalised on x (`likelihood.is_bound`).
        """
        x = self._points(x)
        generator = torch.Generator(self.mixture.device).manual_seed(0)
        encoding = self._encode(x, generator)
        values = [
            self.log_likelihood(x, each) - self.kl(encoding, self.densities(each))
            for each in self._fixed_draws(encoding)
        ]
        return self._checked("elbo", torch.stack(values).mean(0), x)

    @torch.no_grad()
    def importance_bound(
        self,
        x: Tensor,
        y: Tensor | None = None,
        draws: int = 100,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Compute log 1/k Σ_s p(x|z_s) p(z_s)/q(z_s|x), z_s ~ q(z|x): (B,), nats; k = 1: elbo.

        The tighter the larger k = `draws` (Burda et al., "Importance weighted autoencoders", ICLR
        2016, Eq. 8). With labels y (B,) of log p(x|y), by p(z|y) for p(z). Draws are taken in
        chunks, so that memory does not grow with them.

        Raises:
            UserError: x or y as for `log_prob`, or fewer than one draw.
        """
        validate.at_least("draws", draws, 1)
        x = self._points(x)
        y = None if y is None else self._labels(y, len(x))
        encoding = self._encode(x, generator)
        size = max(1, CHUNK // max(1, len(x)))
        parts = []
        for first in range(0, draws, size):
            z = encoding.draw(min(size, draws - first), generator)
            parts.append(self._log_weights(x, y, z, encoding).logsumexp(0))
        return self._checked("bound", torch.stack(parts).logsumexp(0) - log(draws), x)

    def draw_latents(
        self, y: Tensor, temperature: float, generator: torch.Generator | None, around: Around
    ) -> Tensor:
        """Draw z ~ p(z|y) for each label of y (B,) from the classes' Gaussians.

        Where the prior does not know the classes, z is drawn from p(z) q(y|z): 4096 draws of the
        prior, each as probable as the branch finds it to be of that class. Around "data" they are
        moved there first: z ~ N(m_y, temperature² I) q(y|z).
        """
        if not self.standard_prior:
            return super().draw_latents(y, temperature, generator, around)
        noise = self.mixture.sample(y.new_zeros(CANDIDATES), temperature, generator)
        centres = self.mixture.means if around == "means" else self.mixture.data_means
        z = torch.empty_like(centres[y])
        # One after the other, as there can be many classes.
        for k in y.unique():
            near, here = centres[k] + noise, y == k
            posterior = validate.numbers("posterior", self.densities(near).log_posterior, "z", near)
            shares, count = posterior[:, k].softmax(0), int(here.sum())
            z[here] = near[shares.multinomial(count, replacement=True, generator=generator)]
        return z

    def _log_weights(self, x: Tensor, y: Tensor | None, z: Tensor, encoding: Encoding) -> Tensor:
        """Compute log p(x|z) + log p(z) - log q(z|x) of draws z (S, B, D): (S, B)."""
        assert encoding.mean is not None
        assert encoding.log_var is not None
        draws, flat = len(z), z.flatten(0, 1)
        densities = self.mixture.densities(flat)
        prior = densities.log_prob
        if y is not None:
            prior = densities.log_prob_given_class.gather(1, y.repeat(draws)[:, None])[:, 0]
        x = x.expand(draws, *x.shape).flatten(0, 1)
        log_q = gaussian_log_prob(z, encoding.mean, encoding.log_var)
        return (self.log_likelihood(x, flat) + prior).unflatten(0, z.shape[:2]) - log_q
