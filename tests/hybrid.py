"""A system that the tests add to the table, to see that one file and one entry are enough.

Nalisnick, Matsukawa, Teh, Gorur, Lakshminarayanan: "Hybrid models with deep and invertible
features", ICML 2019: log p(x) by a flow, p(y|x) by a linear layer on its latents,

    -log p(y|x) - λ log p(x)/d    (Eq. 5)
"""

from torch import Tensor

from couplings.conditioners import kaiming_linear
from couplings.functional import MixtureDensities
from couplings.ops.dispatch import widen
from flowclf.classifier import GenerativeClassifier
from flowclf.nn.encoders import Encoding
from flowclf.objectives import Batch, cross_entropy
from flowclf.settings import Section, Weight
from flowclf.systems import System
from flowclf.systems.assemble import Blueprint, InvertibleSettings, invertible_parts


class HybridObjective(Section):
    """Weight of the flow."""

    rate: Weight = 1.0  # λ


class HybridSettings(InvertibleSettings):
    """Settings of the hybrid."""

    objective: HybridObjective = HybridObjective()


class Hybrid(GenerativeClassifier):
    """Invertible encoder, latent mixture for the density, linear layer for the posterior."""

    settings: HybridSettings
    accepts_unlabelled = True
    posterior_is_mixture = False

    def densities(self, z: Tensor) -> MixtureDensities:
        """Evaluate the mixture; log q(k|z) is the linear layer's."""
        log_posterior = widen(self.heads["linear"](z)).log_softmax(1)
        return self.mixture.densities(z)._replace(log_posterior=log_posterior)

    def objective(
        self, encoding: Encoding, densities: MixtureDensities, batch: Batch
    ) -> dict[str, Tensor]:
        """Return `rate_per_dim`, `decision` and `total`, nats."""
        assert encoding.log_det is not None
        rate = -(densities.log_prob + encoding.log_det).mean() / self.dims
        decision = cross_entropy(densities.log_posterior, batch.y)
        total = decision + self.settings.objective.rate * rate
        return {"rate_per_dim": rate, "decision": decision, "total": total}


def build_hybrid(blueprint: Blueprint, settings: HybridSettings) -> Hybrid:
    parts = invertible_parts(blueprint, settings)
    model = Hybrid(blueprint.shape, *parts, settings)
    sizes = model.mixture.dims, blueprint.classes
    model.heads["linear"] = kaiming_linear(*sizes, blueprint.generator(), gain=0.5**0.5)
    return model


HYBRID = System(
    "flow with a linear layer on its latents",
    "Nalisnick et al., ICML 2019",
    HybridSettings,
    build_hybrid,
    borrows="ib-inn",
)
