"""IB-INN: an invertible encoder trained on the exact information bottleneck.

Ardizzone, Mackowiak, Rother, Köthe: "Training Normalizing Flows with the Information Bottleneck for
Competitive Generative Classification", NeurIPS 2020.
"""

from __future__ import annotations

from math import log, pi
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from couplings import Affine, Invertible, RationalQuadratic, SoftClamp, Univariate
from couplings.core import Shape
from couplings.networks import conv_network, mlp_network, paper_network
from flowclf.classifier import GenerativeClassifier, class_latents
from flowclf.encoders import InvertibleEncoder
from flowclf.mixture import GaussianMixture
from flowclf.noise import Noise
from flowclf.objectives import ib_inn_loss, smooth_labels
from flowclf.preprocessing import fit_preprocess, make_preprocess
from flowclf.settings import (
    ConvSettings,
    Fraction,
    MapSettings,
    MixtureSettings,
    NetworkSettings,
    NoiseSettings,
    PaperSettings,
    PreprocessSettings,
    Section,
)

__all__ = ["IBInn", "IBInnSettings", "build_ib_inn"]


class ObjectiveSettings(Section):
    """Weights of the information bottleneck."""

    beta: Annotated[float, Field(ge=0)] = 1.0  # β̃ of Eq. 14; .inf: only the decision
    label_smoothing: Fraction = 0.0


class IBInnSettings(Section):
    """Everything that defines an IB-INN."""

    preprocess: PreprocessSettings = PreprocessSettings()
    noise: NoiseSettings = NoiseSettings()
    network: NetworkSettings = ConvSettings()
    mixture: MixtureSettings = MixtureSettings()
    objective: ObjectiveSettings = ObjectiveSettings()


class IBInn(GenerativeClassifier):
    """Invertible encoder, latent mixture, and L_X/d - β̃ L_Y."""

    encoder: InvertibleEncoder

    def __init__(
        self,
        shape: Shape,
        encoder: InvertibleEncoder,
        mixture: GaussianMixture,
        noise: Noise,
        settings: IBInnSettings,
    ) -> None:
        super().__init__(shape, encoder, mixture, noise)
        self.settings = settings

    def loss(
        self, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """`rate_per_dim`, `decision` and `total` of Eq. 14 (nats), and the batch's `accuracy`."""
        if not x.is_floating_point():
            x = self.perturb(x, generator)
        encoding = self.encode(x)
        assert encoding.log_det is not None
        objective = self.settings.objective
        # The authors let the class weights learn from the rate alone.
        _, log_prob, log_posterior = self.mixture.densities(encoding.z, learn_weights=False)
        terms = ib_inn_loss(
            log_prob + encoding.log_det,
            log_posterior,
            smooth_labels(y, self.classes, objective.label_smoothing),
            self.dims,
            objective.beta,
        )
        accuracy = (log_posterior.argmax(1) == y).float().mean()
        return {**terms, "accuracy": accuracy}

    def paper_rate_per_dim(self, x: Tensor, log_prob: Tensor | None = None) -> Tensor:
        """L_X/d of the authors' code, (B,): standardised units, without the (d/2) log 2π.

        Their number only: not a likelihood of the data. True bits/dim come from `log_prob`, which
        may be handed in where it is known, to save encoding x again.
        """
        x = self._as_float(x)
        _, log_det_preprocess = self.encoder.preprocess(x)
        log_prob = self.log_prob(x) if log_prob is None else log_prob
        return -(log_prob - log_det_preprocess) / self.dims - 0.5 * log(2 * pi)

    def fit_statistics(self, x: Tensor, y: Tensor) -> None:
        """Fit pre-processing and the unit of the noise; class weights and means if from data."""
        settings = self.settings
        fit_preprocess(self.encoder.preprocess, x, **settings.preprocess.model_dump())
        if x.is_floating_point():
            self.noise.set_unit(x.std(0, correction=0))
        if settings.mixture.weights == "empirical":
            self.mixture.set_weights(y.bincount(minlength=self.classes))
        if settings.mixture.start == "data":
            self.mixture.set_means(class_latents(self, x, y))


def build_ib_inn(
    shape: Shape, classes: int, levels: int | None, settings: IBInnSettings, seed: int
) -> IBInn:
    """An untrained IB-INN.

    Args:
        shape: (C, H, W) or (F,).
        classes: K.
        levels: grey levels of an image, None for a table.
        settings: the rest.
        seed: of weights, rotations and permutations.
    """
    generator = torch.Generator().manual_seed(seed)
    preprocess = make_preprocess(shape, levels, settings.preprocess.marginal)
    encoder = InvertibleEncoder(preprocess, _network(shape, generator, settings.network))
    options = settings.mixture.model_dump(exclude={"start"})
    mixture = GaussianMixture(classes, encoder.network.dims, generator=generator, **options)
    noise = Noise(
        shape, settings.noise.uniform, settings.noise.sigma, unit=levels - 1 if levels else 1.0
    )
    return IBInn(shape, encoder, mixture, noise, settings)


def _network(shape: Shape, generator: torch.Generator, settings: NetworkSettings) -> Invertible:
    own = {"kind", "clamp", *MapSettings.model_fields}
    options = settings.model_dump(exclude=own) | {"univariate": _univariate(settings)}
    if isinstance(settings, PaperSettings):
        return paper_network(shape, generator, **options)
    make = conv_network if isinstance(settings, ConvSettings) else mlp_network
    return make(shape, generator, **options)


def _univariate(settings: NetworkSettings) -> Univariate | None:
    """The map of all couplings; None: the one that is the network's own."""
    if settings.map == "spline":
        return RationalQuadratic(settings.bins, settings.bound)
    if isinstance(settings, PaperSettings):
        return None
    return Affine(SoftClamp(**settings.clamp.model_dump()))
