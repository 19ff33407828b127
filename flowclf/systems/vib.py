"""VIB: a Gaussian encoder whose rate is bounded by the divergence from a standard normal.

Alemi, Fischer, Dillon, Murphy: "Deep variational information bottleneck", ICLR 2017; as IB-INN was
compared with (Ardizzone et al., NeurIPS 2020, Sec. 4): same trade-off, same β̃.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from couplings.functional import MixtureDensities
from flowclf.classifier import GenerativeClassifier
from flowclf.latent import MixtureSettings
from flowclf.nn.encoders import Encoding, GaussianEncoder
from flowclf.nn.resnet import ResidualSettings
from flowclf.objectives import Batch, cross_entropy, gaussian_kl, ib_weights, trade_off
from flowclf.settings import Fraction, Positive, Section
from flowclf.systems.assemble import (
    BackboneSettings,
    Blueprint,
    FeedForwardSettings,
    feed_forward_parts,
)
from flowclf.systems.resnet import SOFTMAX

__all__ = ["Vib", "VibSettings", "alemi_beta", "build_vib"]


class VibObjective(Section):
    """Weights of the information bottleneck."""

    beta: Annotated[float, Field(ge=0)] = 1.0  # β̃, on the cross-entropy; see alemi_beta
    label_smoothing: Fraction = 0.0


class VibSettings(FeedForwardSettings):
    """Settings of a VIB."""

    network: BackboneSettings = ResidualSettings()
    latent: Positive | None = 128
    mixture: MixtureSettings = SOFTMAX
    objective: VibObjective = VibObjective()


class Vib(GenerativeClassifier):
    """Gaussian encoder, softmax layer, and KL(q(z|x) ‖ N(0, I))/d + β̃ cross-entropy."""

    settings: VibSettings
    accepts_unlabelled = True  # they enter the rate alone

    def objective(
        self, encoding: Encoding, densities: MixtureDensities, batch: Batch
    ) -> dict[str, Tensor]:
        """Compute `kl_nats` KL(q(z|x) ‖ N(0, I)), `decision` and `total`, nats."""
        assert encoding.mean is not None
        assert encoding.log_var is not None
        settings = self.settings.objective
        kl = gaussian_kl(encoding.mean, encoding.log_var).mean()
        decision = cross_entropy(densities.log_posterior, batch.y, settings.label_smoothing)
        terms = trade_off(kl / self.dims, decision, settings.beta)
        return {"kl_nats": kl, "decision": decision, "total": terms["total"]}

    @property
    def term_weights(self) -> tuple[float, float]:
        """Weights of the rate and of the cross-entropy."""
        return ib_weights(self.settings.objective.beta)


def alemi_beta(beta: float, dims: int) -> float:
    """Return Alemi et al.'s weight of the rate, CE + β KL, for a β̃: 1/(β̃ d).

    They weigh the rate, IB-INN the cross-entropy: 2/(1+β̃) · (KL/d + β̃ CE) ∝ CE + KL/(β̃ d).
    """
    return 1 / (beta * dims)


def build_vib(blueprint: Blueprint, settings: VibSettings) -> Vib:
    """Build an untrained VIB."""
    parts = feed_forward_parts(blueprint, settings, GaussianEncoder)
    return Vib(blueprint.shape, *parts, settings)
