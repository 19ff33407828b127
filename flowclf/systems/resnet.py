"""Feed-forward softmax classifiers, as IB-INN was compared with.

Ardizzone et al., NeurIPS 2020, Sec. 4 and code: a ResNet of the invertible network's subnetworks.
Its softmax layer is the mixture's posterior: unit covariance, biases for weights.
"""

from torch import Tensor

from couplings.functional import MixtureDensities
from flowclf.classifier import GenerativeClassifier
from flowclf.latent import MixtureSettings
from flowclf.nn.encoders import DeltaEncoder, Encoding
from flowclf.nn.resnet import ResidualSettings
from flowclf.objectives import Batch, cross_entropy, ib_weights
from flowclf.settings import Fraction, Section
from flowclf.systems.assemble import (
    BackboneSettings,
    Blueprint,
    FeedForwardSettings,
    feed_forward_parts,
)

__all__ = ["SOFTMAX", "ResNetSettings", "SmoothingSettings", "Softmax", "build_resnet"]

SOFTMAX = MixtureSettings(weights="affine", start="linear")
# The authors' β̃ for it, which here is only a factor on the loss.
CROSS_ENTROPY_WEIGHT = ib_weights(100)[1]


class SmoothingSettings(Section):
    """Smoothing of the targets."""

    label_smoothing: Fraction = 0.0


class ResNetSettings(FeedForwardSettings):
    """Settings of a softmax ResNet."""

    network: BackboneSettings = ResidualSettings()
    mixture: MixtureSettings = SOFTMAX
    objective: SmoothingSettings = SmoothingSettings()


class Softmax(GenerativeClassifier):
    """Encoder, softmax layer, cross-entropy; no rate."""

    def objective(
        self, encoding: Encoding, densities: MixtureDensities, batch: Batch
    ) -> dict[str, Tensor]:
        """Compute `decision`, the cross-entropy in nats, and 1.98 times it, `total`."""
        smoothing = self.settings.objective.label_smoothing  # type: ignore[attr-defined]
        decision = cross_entropy(densities.log_posterior, batch.y, smoothing)
        return {"decision": decision, "total": CROSS_ENTROPY_WEIGHT * decision}


def build_resnet(blueprint: Blueprint, settings: ResNetSettings) -> Softmax:
    """Build an untrained ResNet."""
    parts = feed_forward_parts(blueprint, settings, DeltaEncoder)
    return Softmax(blueprint.shape, *parts, settings)
