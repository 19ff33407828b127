"""Untapped and M2: a label and a latent behind every x, in both directions.

Gemp, Parente, Mahadevan: "Inverting VAEs for improved generative accuracy", 2017 (Untapped), on M2
of Kingma, Rezende, Mohamed, Welling: "Semi-supervised learning with deep generative models",
NeurIPS 2014. Forward p(x|y,z) generates and q(y|x) q(z|x,y) infers. Labels without an x
("unfeatured") teach the reverse, where p(x|y,z) infers the x of a given (y, z). M2 is the same
without them.

Where their released code differs from the paper (preset `code`; `paper` is the paper's reading):

- x' ~ p(x|y,z) is a hard draw without a gradient. What reaches the decoder is the gradient of
  log p(x'|y,z) alone, which is zero on average: the reverse bound teaches q(y|x) only
  (objective.sampling=detached).
- log q(z|x',y) is left out of it (objective.z_term=false).
- The unfeatured data are one (y, z) a class, drawn once for the whole run (objective.fixed_pairs).
- The cross-entropy is that of the noisy label (objective.ce_on_sample), and the images' distance
  that of a hard draw, without any gradient (objective.l2_on_sample).

With a gradient (straight-through, relaxed) the reverse bound pulls the decoder's images towards
uniform noise, as its q(x) is uniform: fewer of the digits without labels are found.

The original M2 is box=null with objective.marginalise: labels summed over instead of relaxed.
"""

from math import log
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from couplings import ElementwiseAffine
from couplings.conditioners import kaiming_linear
from couplings.functional import MixtureDensities
from flowclf.latent import MixtureSettings
from flowclf.latent.gaussian import Around, GaussianMixture
from flowclf.nn.encoders import DeltaEncoder, Encoding, Noise
from flowclf.nn.likelihoods import Bernoulli, Gaussian, Likelihood, Sampling, make_likelihood
from flowclf.nn.plain import ConvDecoderSettings, DecoderSettings, PlainSettings, feature_count
from flowclf.nn.preprocessing import PreprocessSettings
from flowclf.nn.relaxed_label import (
    LatentPart,
    TwoPartEncoder,
    TwoPartEncoding,
    close_corners,
    concrete_log_prob,
    relaxed_label,
)
from flowclf.objectives import (
    Batch,
    clipped_cross_entropy,
    cross_entropy,
    labelled_bound,
    marginal_bound,
    mean_of,
    relaxed_bound,
    reverse_bound,
)
from flowclf.settings import Positive, Section, Weight
from flowclf.support.collectives import normal_like, rank_shard, world_size
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for
from flowclf.systems.assemble import Blueprint, FeedForwardSettings, feed_forward_parts
from flowclf.systems.autoencoder import LatentVariableModel
from flowclf.systems.branched import make_decoder

__all__ = ["M2Settings", "Untapped", "UntappedSettings", "build_untapped"]

# The classes' one-hots; all else of the common mixture has no part in these systems.
CORNERS = MixtureSettings(start="zero", means="frozen")
GREY_LEVELS = PreprocessSettings(marginal=0.0, per="range")
DRAWS = 4
# Weights of the objective, and the names of their terms.
TERMS = {
    "labelled": "labelled_nats",
    "unlabelled": "unlabelled_nats",
    "ce": "decision",
    "reverse": "reverse_nats",
    "l2": "distance",
}


class UntappedObjective(Section):
    """Weights, as the released code has them, and forms of the terms."""

    labelled: Weight = 0.1  # on minus the bound of log p(x, y)
    unlabelled: Weight = 0.1  # on minus the bound of log p(x)
    ce: Weight = 1.0  # on -log q(y|x)
    reverse: Weight = 0.1  # on minus the bound of log q(y, z)
    l2: Weight = 0.01  # on the distance of x and what is decoded, in units of x's range
    marginalise: bool = False  # sum over the labels of unlabelled x instead of a relaxed draw
    sampling: Sampling = "detached"  # how the x' of the reverse bound teach the decoder
    z_term: bool = True  # log q(z|x',y) in the reverse bound
    fixed_pairs: bool = False  # one (y, z) a class for the whole run; else z afresh in each step
    corner: Annotated[float, Field(gt=0, lt=1)] = 0.95  # of a given y on its class
    ce_on_sample: bool = False  # of the relaxed draw, clipped at 1e-6
    l2_on_sample: bool = False  # of a draw x', not of the mean


class UntappedSettings(FeedForwardSettings):
    """Settings of Untapped."""

    preprocess: PreprocessSettings = GREY_LEVELS
    mixture: MixtureSettings = CORNERS
    latent: Positive = 10  # D of z, behind `style`
    style: PlainSettings = PlainSettings()  # of q(z|x,y), on [x, y]; `network` is that of q(y|x)
    temperature: Annotated[float, Field(gt=0)] = 1.0  # of the relaxed label
    # z lies within ±box, where its prior is uniform; null: on the real line, N(0, I).
    box: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 1.5
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    decoder: DecoderSettings = ConvDecoderSettings()
    objective: UntappedObjective = UntappedObjective()


class M2Settings(UntappedSettings):
    """Settings of M2: no reverse bound."""

    objective: UntappedObjective = UntappedObjective(reverse=0.0)


class Untapped(LatentVariableModel):
    """Two-part encoder, decoder p(x|y,z), and a bound in each direction.

    Its latents are [y, z] (B, K + D), the classes' means one-hot labels with the centre of the box.
    In training y is a draw, so `accuracy` is that of draws from q(y|x). The decoder maps (B, K + D)
    to (B, outputs, *shape), of which the likelihood makes p(x|y,z).
    """

    needs_equal_shares = True  # its means are over rows with, or without, a label
    posterior_is_mixture = False  # but q(y|x)
    encoder: TwoPartEncoder
    settings: UntappedSettings
    pairs: Tensor  # z of the fixed pairs, (K, D)

    def __init__(
        self,
        blueprint: Blueprint,
        encoder: TwoPartEncoder,
        mixture: GaussianMixture,
        noise: Noise,
        settings: UntappedSettings,
        decoder: nn.Module,
        likelihood: Likelihood,
    ) -> None:
        super().__init__(blueprint.shape, encoder, mixture, noise, settings, decoder, likelihood)
        generator = generator_for(blueprint.seed, "pairs")
        self.register_buffer("pairs", encoder.prior_sample(mixture.means, generator))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of `common_noise`, (draws/2, D): each is taken with both signs."""
        return DRAWS // 2, self.encoder.dims

    def densities(self, z: Tensor) -> MixtureDensities:
        """Evaluate the mixture; log q(k|x) is the log of z's label part."""
        densities = self.mixture.densities(z)
        y = z[:, : self.classes].clamp_min(torch.finfo(z.dtype).tiny)
        return densities._replace(log_posterior=y.log().log_softmax(1))

    def log_posterior(self, x: Tensor) -> Tensor:
        """Compute log q(k|x), (B, K)."""
        x = self._points(x)
        given = [self.encoder.logits(each).log_softmax(1) for each in self.noise.copies(x)]
        found = torch.stack(given).logsumexp(0) - log(len(given))
        return self._checked("log_posterior", found, x)

    def elbo(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Bound log p(x), or log p(x, y) for labels y (B,): (B,), nats, always the same draws.

        Labels are summed over, weighed by q(y|x); z is drawn 4 times, in pairs of opposite signs.

        Raises:
            UserError: x or y as for `log_prob`.
        """
        x = self._points(x)
        y = None if y is None else self._labels(y, len(x))
        noise = self.common_noise()
        labelled = torch.stack([self._bounds(x, each[None]) for each in (*noise, *-noise)]).mean(0)
        if y is None:
            bound = marginal_bound(labelled, self.encoder.logits(x).log_softmax(1))
        else:
            bound = labelled.gather(1, y[:, None])[:, 0]
        return self._checked("elbo", bound, x)

    def draw_latents(
        self, y: Tensor, temperature: float, generator: torch.Generator | None, around: Around
    ) -> Tensor:
        """Draw [y, z] with z ~ p(z) for each label of y (B,).

        `temperature` is the spread of z about the centre: the prior's, or the average latent of the
        class ("data"), within the box.
        """
        means = self.mixture.means[y]
        centre = means if around == "means" else self.mixture.data_means[y]
        z = centre[:, self.classes :] + temperature * self.encoder.prior_sample(means, generator)
        box = self.encoder.box
        z = z if box is None else z.clamp(-box, box)
        return torch.cat((means[:, : self.classes], z), 1)

    def objective(
        self, encoding: Encoding, densities: MixtureDensities, batch: Batch
    ) -> dict[str, Tensor]:
        """Compute `labelled_nats`, `unlabelled_nats`, `decision`, `reverse_nats`, `distance`.

        Each is a mean over the rows that it is of, and 0 without such rows: labelled (y >= 0),
        unlabelled (-1), labelled, as many unfeatured ones as the larger of the two, labelled.
        labelled: decoder and q(z|x,y); unlabelled: these and q(y|x); decision: q(y|x);
        distance: decoder and q(z|x,y).
        """
        assert isinstance(encoding, TwoPartEncoding)
        assert encoding.log_y is not None
        weights = self.settings.objective.model_dump(include=set(TERMS))
        known = batch.y >= 0
        y = relaxed_label(batch.y, self.classes, encoding.log_y.exp())
        z, log_q_z = self.encoder.given(batch.x, y).draw(batch.generator)
        out = self.decoded(torch.cat((y, z), 1))
        log_x = self.likelihood.log_prob(batch.x, out)
        parts = log_x, self.encoder.prior_log_prob(z), log_q_z
        labelled = labelled_bound(*parts, self.classes)
        assert encoding.logits is not None
        if self.settings.objective.ce_on_sample:
            drawn = encoding.z[:, : self.classes]
            decision = mean_of(clipped_cross_entropy(drawn, batch.y), known)
        else:
            decision = cross_entropy(encoding.logits.log_softmax(1), batch.y)
        terms = {
            "labelled": -mean_of(labelled, known),
            "unlabelled": -self._unlabelled(parts, encoding, batch, ~known),
            "ce": decision,
            "reverse": -self._reverse(batch) if weights["reverse"] else log_x.new_zeros(()),
            "l2": mean_of(self._distance(batch, out), known),
        }
        first, *others = (weights[name] * term for name, term in terms.items())
        named = {TERMS[name]: term for name, term in terms.items()}
        return {**named, "total": sum(others, first)}

    def decision(self, encoding: Encoding, densities: MixtureDensities) -> Tensor:
        """Return log q(k|x), not that of the relaxed draw."""
        assert isinstance(encoding, TwoPartEncoding)
        assert encoding.logits is not None
        return encoding.logits.log_softmax(1)

    @property
    def term_weights(self) -> tuple[float, float]:
        """Weights of the objective."""
        return self.settings.objective.unlabelled, self.settings.objective.ce

    def _fit_latents(self, x: Tensor, y: Tensor) -> None:
        """Average the latents if every class has a sample; else the means stay."""
        if set(range(self.classes)) <= set(y.tolist()):
            super()._fit_latents(x, y)

    def _bounds(self, x: Tensor, noise: Tensor) -> Tensor:
        """Compute the labelled bounds of every label at noise (1 or B·K, D): (B, K)."""
        x = x.repeat_interleave(self.classes, 0)
        y = self.mixture.means[:, : self.classes].repeat(x.shape[0] // self.classes, 1)
        z, log_q_z = self.encoder.given(x, y).at(noise)
        log_x = self.likelihood.log_prob(x, self.decoded(torch.cat((y, z), 1)))
        bounds = labelled_bound(log_x, self.encoder.prior_log_prob(z), log_q_z, self.classes)
        return bounds.unflatten(0, (x.shape[0] // self.classes, self.classes))

    def _unlabelled(
        self,
        parts: tuple[Tensor, Tensor, Tensor],
        encoding: TwoPartEncoding,
        batch: Batch,
        rows: Tensor,
    ) -> Tensor:
        """Average the bound of log p(x) over the rows, 0-dim."""
        logits, log_y = encoding.logits, encoding.log_y
        assert logits is not None
        assert log_y is not None
        if not self.settings.objective.marginalise:
            log_q_y = concrete_log_prob(log_y, logits, self.encoder.temperature)
            return mean_of(relaxed_bound(*parts, log_q_y, self.classes), rows)
        if not rows.any():
            return logits.new_zeros(())
        x, logits = batch.x[rows], logits[rows]
        rows = logits.new_empty(*logits.shape, self.encoder.dims)
        noise = normal_like(rows, batch.generator).flatten(0, 1)
        bounds = self._bounds(x, noise)
        return marginal_bound(bounds, logits.log_softmax(1)).mean()

    def _reverse(self, batch: Batch) -> Tensor:
        """Average the bound of log q(y, z) over unfeatured labels, 0-dim.

        These are the classes in turn, as many as the larger of labelled and unlabelled rows. q(x)
        is uniform on binary images; of a table log q(x) is any constant.
        """
        settings, known = self.settings.objective, int((batch.y >= 0).sum())
        rows = world_size() * max(known, len(batch.y) - known)
        labels = rank_shard(torch.arange(rows, device=batch.y.device) % self.classes)
        log_base = -self.dims * log(2) if isinstance(self.likelihood, Bernoulli) else 0.0
        y = close_corners(self.classes, settings.corner, self.pairs)[labels]
        z = self.pairs[labels]
        if not settings.fixed_pairs:
            z = self.encoder.prior_sample(y, batch.generator)
        out = self.decoded(torch.cat((y, z), 1))
        x = self.likelihood.sample(out, batch.generator, settings.sampling)
        log_q_y = concrete_log_prob(y.log(), self.encoder.logits(x), self.encoder.temperature)
        log_q_z = self.encoder.given(x, y).log_prob(z) if settings.z_term else None
        log_x = self.likelihood.log_prob(x, out)
        return reverse_bound(log_q_y, log_q_z, log_x, log_base).mean()

    def _distance(self, batch: Batch, out: Tensor) -> Tensor:
        """Compute ‖x - decoded‖, (B,), of pixels in 0 … 1, or features by standard deviations."""
        settings, likelihood = self.settings.objective, self.likelihood
        decoded = likelihood.mean(out)
        if settings.l2_on_sample:
            decoded = likelihood.sample(out, batch.generator, settings.sampling)
        unit = self.pairs.new_tensor(likelihood.top)
        if likelihood.levels is None and isinstance(likelihood, Gaussian):
            unit = likelihood.scale
        return (batch.x / unit - decoded / unit).flatten(1).norm(dim=1)


def build_untapped(blueprint: Blueprint, settings: UntappedSettings) -> Untapped:
    """Build an untrained Untapped or M2.

    Raises:
        UserError: another latent mixture, or noise that the likelihood does not know.
    """
    if settings.mixture != CORNERS:
        raise UserError("expected no mixture settings: here the classes are one-hot labels")
    if settings.likelihood == "bernoulli" and settings.noise.uniform:
        raise UserError("expected noise.uniform=0 for likelihood=bernoulli, one of grey levels")
    likelihood = make_likelihood(settings.likelihood, blueprint.shape, blueprint.levels)
    encoder, noise = _encoder(blueprint, settings)
    mixture = _corners(blueprint.classes, settings.latent)
    decoder = make_decoder(blueprint, settings.decoder, mixture.dims, likelihood.outputs)
    return Untapped(blueprint, encoder, mixture, noise, settings, decoder, likelihood)


def _encoder(blueprint: Blueprint, settings: UntappedSettings) -> tuple[TwoPartEncoder, Noise]:
    direct = settings.model_copy(update={"latent": None})
    features, _, noise = feed_forward_parts(blueprint, direct, DeltaEncoder)
    preprocess, levels = features.preprocess, blueprint.levels
    # Grey levels to 0 … 1 for preprocess.per=range, as the authors do, instead of ±1: where black
    # is -1 the background is most of what q(y|x) sees, and M2 finds hardly any of the digits that
    # have no labels: accuracy 0.08 instead of 0.59 on 5-9 (two seeds of
    # benchmarks.flowclf.unlabelled_digits with 300 updates of 400 + 400 images, 5000 of each).
    in_range = levels and settings.preprocess.per == "range"
    if in_range and isinstance(preprocess, ElementwiseAffine):
        preprocess.set(torch.tensor(0.0), torch.tensor((levels or 2) - 1.0))
    generator = generator_for(blueprint.seed, "two-part")
    count = feature_count(features.network, blueprint.shape)
    last = kaiming_linear(count, blueprint.classes, generator, gain=0.5**0.5)
    inputs = torch.Size(blueprint.shape).numel() + blueprint.classes
    hidden = settings.style.build((inputs,), generator)
    sizes = settings.style.hidden[-1], settings.latent
    linears = [kaiming_linear(*sizes, generator, gain=0.5**0.5) for _ in range(2)]
    encoder = TwoPartEncoder(
        preprocess,
        nn.Sequential(features.network, last),
        LatentPart(hidden, *linears),
        settings.latent,
        temperature=settings.temperature,
        box=settings.box,
    )
    return encoder, noise


def _corners(classes: int, dims: int) -> GaussianMixture:
    """Build the mixture with one-hot labels and the centre of the box as means, (K, K + D)."""
    mixture = GaussianMixture(classes, classes + dims, means="frozen", start="zero")
    mixture.set_means(torch.cat((torch.eye(classes), torch.zeros(classes, dims)), 1))
    mixture.data_means.copy_(mixture.means)
    return mixture
