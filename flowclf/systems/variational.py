"""CE, GM and VC: the MLE, MAP and Bayesian forms of one objective.

Dhuliawala, Sachan, Allen: "Variational Classification: A Probabilistic Generalization of the
Softmax Classifier", TMLR 2023 (arXiv 2305.10406).

Where their code differs: it weighs prior and ratio 0.01 (GM: 0.1; the toy notebook both 0.1),
starts the means from N(0, 1) (mixture.start=normal) and trains the mixture at a tenth of the
network's rate (train.means_lr_factor, train.mixture_lr_factor). Means that start a distance apart
learn faster and classify better (`flowclf bench vc-low-data`).

How far the latents fill their Gaussians follows from the weights: minimising over a Gaussian q(z|y)
of variance s², ratio · E log q - (prior_logprob + ratio) · E log p has its optimum at s²/σ² =
ratio/(prior_logprob + ratio), 0 for GM; with prior_grad_to_encoder=false at 1. It takes
discriminators that see variances, and a mixture that learns no slower than the network
(`flowclf bench vc-variance`); in 64 dimensions MLPs, small weights, and a much faster mixture
(`flowclf bench vc-variance-64`).
"""

from typing import Literal

import torch
from torch import Tensor

from couplings.functional import MixtureDensities
from flowclf.classifier import GenerativeClassifier
from flowclf.latent import MixtureSettings
from flowclf.nn.density_ratio import DensityRatio, RatioKind
from flowclf.nn.encoders import DeltaEncoder, Encoding, GaussianEncoder
from flowclf.objectives import (
    Batch,
    cross_entropy,
    discriminator_loss,
    variational_loss,
    with_margin,
)
from flowclf.settings import Fraction, Positive, Section, Weight
from flowclf.support.errors import UserError
from flowclf.systems.assemble import Blueprint, FeedForwardSettings, feed_forward_parts
from flowclf.systems.resnet import SOFTMAX

__all__ = ["CESettings", "GMSettings", "VCSettings", "VariationalClassifier", "build_variational"]

TERMS = {"ce", "prior_logprob", "ratio", "class_prior"}


class VariationalObjective(Section):
    """Weight of each term of Eq. 9, and the parameters that learn from it."""

    ce: Weight = 1.0  # on -log p(y|z)
    prior_logprob: Weight = 0.0  # on -log p(z|y)
    ratio: Weight = 0.0  # on T_y(z), the discriminators' log q(z|y)/p(z|y)
    class_prior: Weight = 1.0  # on -log p(y), where the mixture's weights are learned
    # Whether log p(z|y) moves the encoder, as in the released code, or the mixture alone
    # (Algorithm 1, which needs discriminators that see variances: quadratic or mlp).
    prior_grad_to_encoder: bool = True
    # Whether p(y|z) teaches learned class weights, as Eq. 9 has it; Algorithm 1: it does not.
    posterior_grad_to_weights: bool = True
    margin: Weight = 0.0  # of Wan et al., on the distance to the true class
    label_smoothing: Fraction = 0.0


class DiscriminatorSettings(Section):
    """Density ratios T."""

    kind: RatioKind = "affine"
    hidden: Positive = 64  # units a class, of "mlp"


class CESettings(FeedForwardSettings):
    """Settings of CE: no prior, and the mixture of equal covariances of a softmax layer."""

    encoder: Literal["delta", "gaussian"] = "delta"
    mixture: MixtureSettings = SOFTMAX
    objective: VariationalObjective = VariationalObjective()
    discriminator: DiscriminatorSettings = DiscriminatorSettings()


LEARNED = MixtureSettings(covariance="per-class")


class GMSettings(CESettings):
    """Settings of GM: with the prior term."""

    mixture: MixtureSettings = LEARNED
    objective: VariationalObjective = VariationalObjective(prior_logprob=0.1)


class VCSettings(GMSettings):
    """Settings of VC: with the prior term and the entropy, by density ratios."""

    objective: VariationalObjective = VariationalObjective(prior_logprob=0.1, ratio=0.1)


class VariationalClassifier(GenerativeClassifier):
    """Encoder, latent mixture with learned means and variances, discriminators."""

    settings: CESettings

    @property
    def learn_weights(self) -> bool:  # type: ignore[override]
        """True if the settings say so; the biases of a softmax layer always learn."""
        affine = self.settings.mixture.weights == "affine"
        return affine or self.settings.objective.posterior_grad_to_weights

    def objective(
        self, encoding: Encoding, densities: MixtureDensities, batch: Batch
    ) -> dict[str, Tensor]:
        """Compute the terms of Eq. 9 and the discriminators' own loss, nats.

        decision: encoder and mixture; prior_nats: mixture, and encoder if it may; class_prior:
        class weights; ratio: encoder; discriminator: discriminators.
        """
        z, settings = encoding.z, self.settings.objective
        given_class = densities.log_prob_given_class
        weights = settings.model_dump(include=TERMS)
        if self.settings.mixture.weights != "learned":
            # The biases of a softmax layer are no class frequencies to be learned by counting.
            weights["class_prior"] = 0.0
        if not settings.prior_grad_to_encoder:
            given_class = self.mixture.log_prob_given_class(z.detach())
        terms = variational_loss(
            self._cross_entropy(densities, batch.y),
            given_class,
            self._ratio().frozen(z, self.mixture) if self.heads else None,
            self.mixture.log_weights,
            batch.y,
            weights,
        )
        if self.heads:
            terms["discriminator"] = self._discriminator_loss(z.detach(), batch.y, batch.generator)
            terms["total"] = terms["total"] + terms["discriminator"]
        return terms

    def _cross_entropy(self, densities: MixtureDensities, y: Tensor) -> Tensor:
        settings = self.settings.objective
        log_posterior = densities.log_posterior
        if settings.margin:
            distances = self.mixture.half_mahalanobis(densities.log_prob_given_class)
            log_posterior = with_margin(log_posterior, distances, y, settings.margin)
        return cross_entropy(log_posterior, y, settings.label_smoothing)

    def _discriminator_loss(
        self, z: Tensor, y: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        drawn = self.mixture.sample(y, generator=generator).detach()
        ratio = self._ratio()
        return discriminator_loss(ratio(z, self.mixture), ratio(drawn, self.mixture), y)

    def _ratio(self) -> DensityRatio:
        head = self.heads["ratio"]
        assert isinstance(head, DensityRatio)
        return head


def build_variational(blueprint: Blueprint, settings: CESettings) -> VariationalClassifier:
    """Build an untrained CE, GM or VC.

    Raises:
        UserError: discriminators or a margin on a mixture that is not Gaussian.
    """
    objective = settings.objective
    if settings.mixture.kind != "gaussian" and (objective.ratio or objective.margin):
        raise UserError(
            "expected mixture.kind=gaussian for objective.ratio and objective.margin, got "
            f"{settings.mixture.kind}; set both to 0"
        )
    encoder = {"delta": DeltaEncoder, "gaussian": GaussianEncoder}[settings.encoder]
    parts = feed_forward_parts(blueprint, settings, encoder)
    model = VariationalClassifier(blueprint.shape, *parts, settings)
    if objective.ratio:
        options = settings.discriminator
        sizes, generator = (blueprint.classes, model.mixture.dims), blueprint.generator()
        model.heads["ratio"] = DensityRatio(*sizes, options.kind, options.hidden, generator)
    return model
