"""Parts of the systems: encoder, mixture and noise by their settings."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from couplings import Affine, Invertible, LogisticMixture, RationalQuadratic, SoftClamp, Univariate
from couplings.conditioners import Activation, kaiming_linear
from couplings.core import Shape
from couplings.networks import Mixing, conv_network, mlp_network, paper_network
from flowclf.classifier import ModelSettings
from flowclf.latent import MixtureSettings
from flowclf.latent.beta_conditioned import FEATURES, ConditionedMixture, TradeOff
from flowclf.latent.full import FullMixture
from flowclf.latent.gaussian import GaussianMixture
from flowclf.latent.low_rank import LowRankMixture
from flowclf.latent.vmf import VonMisesFisherMixture
from flowclf.nn.encoders import (
    DeltaEncoder,
    Encoder,
    GaussianEncoder,
    InvertibleEncoder,
    Noise,
    NoiseSettings,
)
from flowclf.nn.learned_noise import LearnedNoise
from flowclf.nn.plain import CNNSettings, PlainSettings, feature_count
from flowclf.nn.preprocessing import PreprocessSettings, make_preprocess
from flowclf.nn.resnet import (
    CifarResNetSettings,
    PaperResidualSettings,
    ResidualSettings,
    WideResNetSettings,
)
from flowclf.nn.whitened_cnn import WhitenedCNNSettings
from flowclf.settings import Depth, Depths, Fraction, Positive, Section, Widths
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for

__all__ = [
    "BackboneSettings",
    "Blueprint",
    "ConvSettings",
    "CustomSettings",
    "FeedForwardSettings",
    "InvertibleSettings",
    "MLPSettings",
    "MapSettings",
    "NetworkSettings",
    "PaperSettings",
    "feed_forward_parts",
    "invertible_parts",
]


class ClampSettings(Section):
    """Soft clamp of the log-scales."""

    limit: Annotated[float, Field(gt=0)] = 1.0
    gain: Annotated[float, Field(gt=0)] = 1.0
    form: Literal["tanh", "atan"] = "tanh"


class MapSettings(Section):
    """Map of each number of the active half of a coupling."""

    map: Literal["affine", "spline", "logistics"] = "affine"
    bins: Annotated[int, Field(gt=0, lt=1000)] = 8  # of a spline
    bound: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0  # a spline ends there
    components: Annotated[int, Field(gt=0, lt=1000)] = 4  # of a mixture of logistics
    # "beta": couplings and class means see log β̃, so that one model serves every β̃ (ib-inn).
    condition: Literal["beta"] | None = None


class ConvSettings(MapSettings):
    """Convolutional couplings, for images."""

    kind: Literal["conv"] = "conv"
    blocks: Depths = (6,)  # couplings at each resolution
    width: Widths = (32,)  # hidden channels at each resolution
    dense_blocks: Annotated[int, Field(ge=0, le=1000)] = 1
    dense_hidden: Widths = (256,)
    dropout: Fraction = 0.0
    batch_norm: bool = True
    activation: Activation = "relu"  # of the convolutional networks
    clamp: ClampSettings = ClampSettings()
    dct: bool = False  # of the last level: with dense_blocks=0 the latent's low frequencies first
    # Above 0 a level begins by decorrelating its channels over the training data, whose variances
    # go to this power of the way to one, and its couplings change the two halves in turn.
    whiten: Annotated[float, Field(ge=0, le=1)] = 0.0
    # Of the channels behind each coupling: fixed, learned, fixed. Where a level is whitened there
    # are no rotations, and the others stand behind every other coupling.
    mixing: Mixing = "rotation"
    split: bool = False  # half of a level's channels do not go on, see `couplings.Split`
    conditioner: Literal["conv", "attention", "mixer"] = "conv"  # patches' features are the tokens
    token_blocks: Depth = 1
    # After so many couplings of channels one of a checkerboard's fields; 0: none.
    spatial: Annotated[int, Field(ge=0, le=1000)] = 0


class MLPSettings(MapSettings):
    """Fully connected couplings, for tables and small images."""

    kind: Literal["mlp"] = "mlp"
    blocks: Depth = 4
    hidden: Widths = (64,)
    dropout: Fraction = 0.0
    batch_norm: bool = False
    clamp: ClampSettings = ClampSettings()
    # Above 0 it begins by decorrelating the features within the classes over the training data,
    # whose variances go to this power of the way to one.
    whiten: Annotated[float, Field(ge=0, le=1)] = 0.0


class PaperSettings(MapSettings):
    """IB-INN's networks as their code has them; `variant` picks the data set they are for."""

    kind: Literal["paper"] = "paper"
    variant: Literal["cifar", "mnist"] = "cifar"
    blocks: Depths | None = None  # couplings at each level; None: (8, 24, 24), mnist (24, 24)
    actnorm: Literal["learned", "fixed"] = "learned"  # published version; "fixed": the draft
    start: Literal["authors", "identity"] = "authors"  # "identity" keeps the inverse exact


class CustomSettings(Section):
    """The user's own module, handed over in Python as `backbone`."""

    condition: ClassVar[None] = None
    kind: Literal["custom"] = "custom"


NetworkSettings = Annotated[
    ConvSettings | MLPSettings | PaperSettings | CustomSettings, Field(discriminator="kind")
]
BackboneSettings = Annotated[
    PlainSettings
    | CNNSettings
    | CifarResNetSettings
    | WideResNetSettings
    | ResidualSettings
    | PaperResidualSettings
    | WhitenedCNNSettings
    | CustomSettings,
    Field(discriminator="kind"),
]


class InvertibleSettings(ModelSettings):
    """Settings of systems with an invertible network."""

    network: NetworkSettings = ConvSettings()


# A feed-forward network needs neither normal marginals nor densities of grey levels.
STANDARDISED = PreprocessSettings(marginal=0.0, per="channel")
NOISELESS = NoiseSettings(uniform=0.0)


class FeedForwardSettings(ModelSettings):
    """Settings of systems with a feed-forward network."""

    preprocess: PreprocessSettings = STANDARDISED
    noise: NoiseSettings = NOISELESS
    network: BackboneSettings = CNNSettings()
    latent: Positive | None = None  # width of a linear layer behind the network; None: no layer


@dataclass(frozen=True)
class Blueprint:
    """Facts that building a system needs besides its settings."""

    shape: Shape  # (C, H, W) or (F,)
    classes: int
    levels: int | None  # grey levels of an image, None for a table
    seed: int  # of weights, rotations and permutations
    # The user's own, from (B, *shape) to (B, D), invertible where the system's network is.
    backbone: nn.Module | None = None
    samples: int | None = None  # N of the training set, for systems that tell its samples apart

    def generator(self) -> torch.Generator:
        """Return a fresh generator, from which everything is drawn in order."""
        return torch.Generator().manual_seed(self.seed)


def invertible_parts(
    blueprint: Blueprint, settings: InvertibleSettings, trade_off: TradeOff | None = None
) -> tuple[InvertibleEncoder, GaussianMixture, Noise]:
    """Build encoder, mixture and noise of a system with an invertible network.

    With a trade-off couplings and means are conditioned on it.

    Raises:
        UserError: a backbone that is not invertible, or of other samples; or network.condition of
            a system that has no trade-off to be conditioned on.
    """
    if settings.network.condition and trade_off is None:
        raise UserError(
            "expected no network.condition of a system without a β̃, got network.condition=beta"
        )
    generator = blueprint.generator()
    preprocess = _preprocess(blueprint, settings)
    features = FEATURES if trade_off else 0
    network = _invertible(blueprint, settings.network, generator, features)
    encoder = InvertibleEncoder(preprocess, network, trade_off)
    mixture = _mixture(blueprint.classes, network.dims, settings.mixture, generator, trade_off)
    return encoder, mixture, _noise(blueprint, settings)


def feed_forward_parts(
    blueprint: Blueprint,
    settings: FeedForwardSettings,
    encoder: type[DeltaEncoder | GaussianEncoder],
    **options: float,
) -> tuple[Encoder, GaussianMixture, Noise]:
    """Build encoder, mixture and noise of a system with a feed-forward network.

    A linear layer ends the network where `latent` asks for one, or an encoder that needs mean and
    variance. `options` are the encoder's.
    """
    generator, shape = blueprint.generator(), blueprint.shape
    preprocess = _preprocess(blueprint, settings)
    if isinstance(settings.network, CustomSettings):
        network = _own(blueprint)
    else:
        network = settings.network.build(shape, generator)
    features = feature_count(network, shape)
    latent, numbers = settings.latent or features, 2 if encoder is GaussianEncoder else 1
    if settings.latent or numbers > 1:
        last = kaiming_linear(features, numbers * latent, generator, gain=0.5**0.5)
        last.weight.data[latent:] = 0  # every sample starts with the same variance
        network = nn.Sequential(network, last)
    mixture = _mixture(blueprint.classes, latent, settings.mixture, generator)
    return encoder(preprocess, network, **options), mixture, _noise(blueprint, settings)


def _preprocess(blueprint: Blueprint, settings: ModelSettings) -> Invertible:
    own = settings.preprocess
    if own.fine_ends and (not own.marginal or settings.noise.sigma):
        raise UserError(
            "expected preprocess.marginal above 0 and noise.sigma=0 for preprocess.fine_ends, got "
            f"{own.marginal:g} and {settings.noise.sigma:g}"
        )
    levels = blueprint.levels
    return make_preprocess(blueprint.shape, levels, own.marginal, own.power, own.fine_ends)


def _noise(blueprint: Blueprint, settings: ModelSettings) -> Noise:
    unit = blueprint.levels - 1 if blueprint.levels else 1.0
    own, shape, learned = settings.noise, blueprint.shape, None
    if own.denoise and not own.draws:
        raise UserError(
            f"expected noise.draws of at least 1 for noise.denoise={own.denoise:g}, which moves "
            "the noisy copies; set it, 8 for example"
        )
    if own.draws and not own.sigma:
        raise UserError(
            f"expected noise.sigma above 0 for noise.draws={own.draws}, whose copies would all be "
            "the same; set it, 0.1 for example"
        )
    if own.learned:
        if blueprint.levels is None or len(shape) != 3:
            raise UserError(f"expected images for noise.learned, got rows of {shape}; leave it out")
        generator = generator_for(blueprint.seed, "learned noise")
        learned = LearnedNoise(shape, blueprint.levels, own.width, generator)
    return Noise(shape, own.uniform, own.sigma, unit, own.draws, learned, own.denoise)


def _mixture(
    classes: int,
    dims: int,
    settings: MixtureSettings,
    generator: torch.Generator,
    trade_off: TradeOff | None = None,
) -> GaussianMixture:
    """Build the latent mixture; means that start from the data are equidistant until then."""
    low_rank = settings.rank is not None or settings.full_dims > 0
    full = settings.covariance == "full"
    odd = settings.kind == "vmf" or trade_off is not None or full
    if low_rank and (settings.rank is None or odd):
        raise UserError(
            "expected mixture.rank, with or without mixture.full_dims, of a mixture of Gaussians "
            f"without network.condition, got {settings.kind}, rank {settings.rank} and "
            f"full_dims {settings.full_dims}; leave both out for full means"
        )
    if settings.kind == "vmf":
        return VonMisesFisherMixture(
            classes, dims, means=settings.means, weights=settings.weights, generator=generator
        )
    if full and (trade_off is not None or settings.weights == "affine"):
        raise UserError(
            "expected mixture.covariance=full without network.condition and mixture.weights=affine,"
            " whose posterior is linear in z; leave one out"
        )
    start = "equidistant" if settings.start == "data" else settings.start
    own = {"kind", "start", "rank", "full_dims", "predict"}
    options = settings.model_dump(exclude=own) | {"start": start}
    if settings.rank is not None:
        sizes = classes, dims, settings.rank, settings.full_dims
        return LowRankMixture(*sizes, generator=generator, **options)
    if trade_off is not None:
        return ConditionedMixture(trade_off, classes, dims, generator=generator, **options)
    kind = FullMixture if full else GaussianMixture
    return kind(classes, dims, generator=generator, **options)


def _own(blueprint: Blueprint) -> nn.Module:
    if blueprint.backbone is None:
        raise UserError(
            "network.kind=custom: expected a module of yours as backbone=…, got none; "
            "give it to flowclf.build, train or load"
        )
    return blueprint.backbone


def _invertible(
    blueprint: Blueprint, settings: NetworkSettings, generator: torch.Generator, features: int
) -> Invertible:
    shape = blueprint.shape
    if isinstance(settings, CustomSettings):
        network = _own(blueprint)
        if not isinstance(network, Invertible) or network.in_shape != shape:
            got = f"{type(network).__name__} of {getattr(network, 'in_shape', 'any')}"
            raise UserError(
                f"expected a couplings.Invertible of samples {shape} as backbone, got {got}; "
                "systems without an inverse take any network"
            )
        return network
    own = {"kind", "clamp", *MapSettings.model_fields}
    options = settings.model_dump(exclude=own) | {"univariate": _univariate(settings)}
    if isinstance(settings, PaperSettings):
        return paper_network(shape, generator, **options)
    options["context_features"] = features
    make = conv_network if isinstance(settings, ConvSettings) else mlp_network
    return make(shape, generator, **options)


def _univariate(settings: ConvSettings | MLPSettings | PaperSettings) -> Univariate | None:
    """Build the map of all couplings; None: the network's own."""
    if settings.map == "spline":
        return RationalQuadratic(settings.bins, settings.bound)
    if settings.map == "logistics":
        return LogisticMixture(settings.components)
    if isinstance(settings, PaperSettings):
        return None
    return Affine(SoftClamp(**settings.clamp.model_dump()))
