"""Autoencoders with a label branch: VAE, BVAE and VAE-AS but for their rates."""

from abc import abstractmethod
from typing import Literal, Self

from torch import Tensor, nn

from couplings.functional import MixtureDensities
from flowclf.classifier import latents
from flowclf.latent import MixtureSettings
from flowclf.nn.encoders import Encoding, GaussianEncoder
from flowclf.nn.label_heads import BranchKind, FittedBranch, NetworkBranch
from flowclf.nn.likelihoods import LikelihoodKind, make_likelihood
from flowclf.nn.plain import (
    ConvDecoderSettings,
    DecoderSettings,
    blobs,
    class_means,
)
from flowclf.nn.preprocessing import PreprocessSettings
from flowclf.objectives import Batch, cross_entropy
from flowclf.settings import Positive, Section, Weight, Widths
from flowclf.support.collectives import all_reduce_mean
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for
from flowclf.systems.assemble import Blueprint, FeedForwardSettings, feed_forward_parts
from flowclf.systems.autoencoder import Autoencoder

__all__ = ["AutoencoderSettings", "BranchedAutoencoder", "DecodingObjective", "make_decoder"]

STANDARD_NORMAL = MixtureSettings(start="zero", means="frozen")
GREY_LEVELS = PreprocessSettings(marginal=0.0, per="range")
# softplus of it is 1: untrained, q(z|x) is the prior.
UNIT_SHIFT = 0.5413248546129181


class DecodingObjective(Section):
    """Target of the decoder, and weight of the label branch."""

    rec: Weight = 1.0  # on -log p(x|z); BVAE's α
    branch: Weight = 0.0  # on the label branch's cross-entropy; BVAE's λ; 0: a probe
    # What is reconstructed: x itself, or (fixed output) one image for each class: the average of
    # its training images, or a Gaussian blob in a place of its own.
    target: Literal["input", "class-mean", "blob"] = "input"
    class_weights: tuple[Weight, ...] = ()  # of each class's samples; none: 1


class BranchSettings(Section):
    """Classifier of latents; knn and forest are fitted to them once training has ended."""

    kind: BranchKind = "network"
    hidden: Widths = (64,)  # of "network"; "": none
    neighbours: Positive = 10  # of "knn"
    samples: Positive = 10_000  # at most so many latents for "knn" and "forest"


class AutoencoderSettings(FeedForwardSettings):
    """Settings of all autoencoders, but for the rate."""

    preprocess: PreprocessSettings = GREY_LEVELS
    latent: Positive | None = 10
    mixture: MixtureSettings = STANDARD_NORMAL
    likelihood: LikelihoodKind = "bernoulli"
    decoder: DecoderSettings = ConvDecoderSettings()
    branch: BranchSettings = BranchSettings()
    objective: DecodingObjective = DecodingObjective()


class BranchedAutoencoder(Autoencoder):
    """Gaussian encoder, decoder and label branch: rec · α + rate + branch · λ."""

    settings: AutoencoderSettings
    templates: Tensor | None

    @classmethod
    def assemble(cls, blueprint: Blueprint, settings: AutoencoderSettings) -> Self:
        """Build an untrained system with its label branch and templates.

        Raises:
            UserError: settings that exclude each other.
        """
        check_settings(blueprint, settings)
        parts = feed_forward_parts(blueprint, settings, GaussianEncoder, shift=UNIT_SHIFT)
        dims = parts[1].dims
        likelihood = make_likelihood(settings.likelihood, blueprint.shape, blueprint.levels)
        decoder = make_decoder(blueprint, settings.decoder, dims, likelihood.outputs)
        model = cls(blueprint.shape, *parts, settings, decoder, likelihood)
        branch, classes = settings.branch, blueprint.classes
        if branch.kind == "network":
            generator = generator_for(blueprint.seed, "branch")
            model.heads["branch"] = NetworkBranch(dims, classes, branch.hidden, generator)
        elif branch.kind != "mixture":
            sizes = branch.neighbours, branch.samples
            model.heads["branch"] = FittedBranch(dims, classes, branch.kind, *sizes)
        fixed = settings.objective.target != "input"
        templates = blobs(blueprint.shape, blueprint.classes, likelihood.top) if fixed else None
        model.register_buffer("templates", templates)
        return model

    @property
    def accepts_unlabelled(self) -> bool:  # type: ignore[override]
        """True unless the decoder's target is the class's image."""
        return self.templates is None

    @property
    def posterior_is_mixture(self) -> bool:
        """True if there is no label branch besides the mixture."""
        return self.settings.branch.kind == "mixture"

    def densities(self, z: Tensor) -> MixtureDensities:
        """Evaluate the mixture; log q(k|z) is the label branch's where there is one."""
        densities = self.mixture.densities(z)
        if self.posterior_is_mixture:
            return densities
        branch = self.heads["branch"]
        assert isinstance(branch, NetworkBranch | FittedBranch)
        # In eval mode a probe's posterior has a gradient, too.
        probing = self._probe and self.training
        log_posterior = branch.log_posterior(z.detach() if probing else z)
        return densities._replace(log_posterior=log_posterior)

    def objective(
        self, encoding: Encoding, densities: MixtureDensities, batch: Batch
    ) -> dict[str, Tensor]:
        """Compute `rec_nats` -log p(x|z), the branch's `decision`, the rate's terms and `total`."""
        settings = self.settings.objective
        target = batch.x if self.templates is None else self.templates[batch.y]
        rec = self._average(-self.log_likelihood(target, encoding.z), batch.y)
        weights = self._sample_weights(batch.y)
        decision = cross_entropy(densities.log_posterior, batch.y, weights=weights)
        terms, rate = self.rate(
            encoding, self._average(self.kl(encoding, densities), batch.y), batch
        )
        total = settings.rec * rec + rate + self.term_weights[1] * decision
        return {"rec_nats": rec, **terms, "decision": decision, "total": total}

    @property
    def term_weights(self) -> tuple[float, float]:
        """Weights of reconstruction and branch; a probe's optimum does not depend on its own."""
        settings = self.settings.objective
        return settings.rec, 1.0 if self._probe else settings.branch

    @abstractmethod
    def rate(
        self, encoding: Encoding, kl: Tensor, batch: Batch
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute named terms and their weighted sum from the mean KL(q(z|x) ‖ p(z)); nats."""

    def _fit_statistics(self, x: Tensor, y: Tensor) -> None:
        """Fit the classes' images, too."""
        super()._fit_statistics(x, y)
        if self.settings.objective.target == "class-mean":
            assert self.templates is not None
            self.templates.copy_(class_means(x, y, self.classes))

    def _fit_latents(self, x: Tensor, y: Tensor) -> None:
        """Fit a branch of neighbours or trees, too, to the means of q(z|x)."""
        super()._fit_latents(x, y)
        for branch in self.heads.values():
            if isinstance(branch, FittedBranch):
                branch.fit(latents(self, x), y)

    @property
    def _probe(self) -> bool:
        """True if the encoder does not learn from the branch."""
        return not self.settings.objective.branch and self.settings.branch.kind != "mixture"

    def _average(self, values: Tensor, y: Tensor) -> Tensor:
        weights = self._sample_weights(y)
        return (weights * values).sum() / all_reduce_mean(weights.sum())

    def _sample_weights(self, y: Tensor) -> Tensor:
        """Return the weights (B,) of samples of these classes; 1 without a label."""
        weights = self.mixture.means.new_tensor((*self.settings.objective.class_weights, 1.0))
        return weights[y] if len(weights) > 1 else weights.expand(len(y))


def check_settings(blueprint: Blueprint, settings: AutoencoderSettings) -> None:
    """Raise UserError for settings that exclude each other."""
    objective, kind = settings.objective, settings.branch.kind
    standard = settings.mixture == STANDARD_NORMAL
    weights = len(objective.class_weights)
    message = ""
    if settings.mixture.kind != "gaussian":
        message = "mixture.kind=gaussian, got vmf"
    elif standard and kind == "mixture":
        message = (
            "a prior that knows the classes for branch.kind=mixture, e.g. "
            "mixture.start=equidistant mixture.means=learned, got a standard normal"
        )
    elif kind == "mixture" and not objective.branch:
        message = (
            "objective.branch above 0 for branch.kind=mixture, as nothing else teaches the mixture "
            "its classes, got 0; try objective.branch=100"
        )
    elif kind in ("knn", "forest") and objective.branch:
        message = (
            f"objective.branch=0 for branch.kind={kind}, which has no gradient to teach the "
            "encoder with"
        )
    elif weights not in (0, blueprint.classes):
        message = f"objective.class_weights of {blueprint.classes} classes, got {weights}"
    elif settings.likelihood != "gaussian" and settings.noise.uniform:
        message = (
            f"noise.uniform=0 for likelihood={settings.likelihood}, which is one of grey levels"
        )
    elif objective.target != "input" and len(blueprint.shape) != 3:
        message = f"images for objective.target={objective.target}, got a table"
    if message:
        raise UserError(f"expected {message}")


def make_decoder(
    blueprint: Blueprint, settings: DecoderSettings, dims: int, outputs: int
) -> nn.Module:
    """Build the decoder of the settings, from `dims` latents."""
    generator = generator_for(blueprint.seed, "decoder")
    return settings.build(dims, outputs, blueprint.shape, generator)
