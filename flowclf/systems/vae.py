"""VAE: a Gaussian encoder, a decoder, and what its latents say of the classes.

Kingma and Welling: "Auto-encoding variational Bayes", ICLR 2014; β of Higgins et al., ICLR 2017, is
objective.kl. The label branch is a probe: it learns from latents that do not learn from it.

With mixture.start=equidistant the prior is the latent mixture and the branch its posterior, whose
cross-entropy belongs to the bound, as log p(z|y) + log p(y) = log p(z) + log p(y|z): at branch = 1

    rec + KL(q(z|x) ‖ p(z)) - E_q log p(y|z) = -elbo of log p(x, y)

and the model is a generative classifier: p(x|y) by `importance_bound`.
"""

from torch import Tensor

from flowclf.nn.encoders import Encoding
from flowclf.objectives import Batch, free_bits, gaussian_kl_per_dim
from flowclf.settings import Fraction, Weight
from flowclf.support.errors import UserError
from flowclf.systems.assemble import Blueprint
from flowclf.systems.branched import AutoencoderSettings, BranchedAutoencoder, DecodingObjective

__all__ = ["AutoencodingObjective", "Vae", "VaeSettings", "build_vae"]


class AutoencodingObjective(DecodingObjective):
    """Weights of an autoencoder with a KL rate."""

    kl: Weight = 1.0  # on KL(q(z|x) ‖ p(z)); β
    free_bits: Weight = 0.0  # nats of each latent dimension that cost nothing
    warmup: Fraction = 0.0  # share of the run in which the KL's weight rises from 0


class VaeSettings(AutoencoderSettings):
    """Settings of a VAE."""

    objective: AutoencodingObjective = AutoencodingObjective()


class Vae(BranchedAutoencoder):
    """Autoencoder whose rate is β KL(q(z|x) ‖ p(z))."""

    settings: VaeSettings

    def rate(
        self, encoding: Encoding, kl: Tensor, batch: Batch
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute `kl_nats`; with free bits the weighted sum counts what exceeds them."""
        settings, cost = self.settings.objective, kl
        if settings.free_bits:
            assert encoding.mean is not None
            assert encoding.log_var is not None
            per_dim = gaussian_kl_per_dim(encoding.mean, encoding.log_var)
            cost = free_bits(per_dim, settings.free_bits)
        rise = min(1.0, self.progress / settings.warmup) if settings.warmup else 1.0
        return {"kl_nats": kl}, rise * settings.kl * cost


def build_vae(blueprint: Blueprint, settings: VaeSettings) -> Vae:
    """Build an untrained VAE or BVAE.

    Raises:
        UserError: free bits of a rate that is known as a whole only.
    """
    model = Vae.assemble(blueprint, settings)
    if settings.objective.free_bits and not model.standard_prior:
        raise UserError("expected objective.free_bits=0 where the prior is a mixture of classes")
    return model
