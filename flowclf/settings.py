"""The typed settings of a run: every field that `--set` reaches, with its default and reason."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "BackboneSettings",
    "CNNSettings",
    "ConvDecoderSettings",
    "ConvSettings",
    "CustomSettings",
    "DataSettings",
    "DecoderSettings",
    "Depth",
    "Depths",
    "FeedForwardSettings",
    "Fraction",
    "InvertibleSettings",
    "MLPDecoderSettings",
    "MapSettings",
    "MixtureSettings",
    "ModelSettings",
    "NetworkSettings",
    "PaperResidualSettings",
    "PaperSettings",
    "Positive",
    "PreprocessSettings",
    "ResidualSettings",
    "Section",
    "TrainSettings",
    "Weight",
    "Widths",
]


def as_sequence(value: Any) -> Any:
    """6 or "6,6" on the command line mean (6,) and (6, 6)."""
    if isinstance(value, str):
        return [part for part in value.split(",") if part]
    return value if isinstance(value, list | tuple) else [value]


# More than any network or data set has; products of two still fit into 64 bits.
Positive = Annotated[int, Field(gt=0, le=10**9)]
# Deeper ones take minutes to make, and hours to train.
Depth = Annotated[int, Field(gt=0, le=1000)]
Widths = Annotated[tuple[Positive, ...], Field(max_length=100), BeforeValidator(as_sequence)]
Depths = Annotated[tuple[Depth, ...], Field(max_length=100), BeforeValidator(as_sequence)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """Settings are immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True)


class PreprocessSettings(Section):
    """The fitted first stage of the encoder."""

    # Fraction of the way from standardised to normal marginals; images only. More of it: better
    # bits/dim, but dequantisation noise grows in the pixels that hardly vary.
    marginal: Annotated[float, Field(ge=0, le=1)] = 0.3
    floor: Annotated[float, Field(gt=0, le=1)] = 0.1  # least std of a pixel, of the largest
    # One mean and scale a dimension or a channel; "range": grey levels to ±1, tables untouched.
    per: Literal["dim", "channel", "range"] = "dim"


class NoiseSettings(Section):
    """What is added to x before it is encoded."""

    uniform: Weight = 1.0  # in grey levels; 1 makes log-probabilities a bound on the discrete ones
    sigma: Weight = 0.0  # in units of 255 grey levels, or of each feature's standard deviation


class ClampSettings(Section):
    """Soft clamp of the log-scales."""

    limit: Annotated[float, Field(gt=0)] = 1.0
    gain: Annotated[float, Field(gt=0)] = 1.0
    form: Literal["tanh", "atan"] = "tanh"


class MapSettings(Section):
    """What a coupling does to each number of its active half."""

    map: Literal["affine", "spline"] = "affine"
    bins: Annotated[int, Field(gt=0, lt=1000)] = 8  # of a spline
    bound: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0  # a spline ends there
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
    clamp: ClampSettings = ClampSettings()
    dct: bool = False  # of the last level: with dense_blocks=0 the latent's low frequencies first


class MLPSettings(MapSettings):
    """Fully connected couplings, for tables and small images."""

    kind: Literal["mlp"] = "mlp"
    blocks: Depth = 4
    hidden: Widths = (64,)
    dropout: Fraction = 0.0
    batch_norm: bool = False
    clamp: ClampSettings = ClampSettings()


class PaperSettings(MapSettings):
    """IB-INN's networks as their code has them; `variant` picks the data set they are for."""

    kind: Literal["paper"] = "paper"
    variant: Literal["cifar", "mnist"] = "cifar"
    actnorm: Literal["learned", "fixed"] = "learned"  # published version; "fixed": the draft
    start: Literal["authors", "identity"] = "authors"  # "identity" keeps the inverse exact


class CustomSettings(Section):
    """The user's own module, handed over in Python as `backbone`."""

    condition: ClassVar[None] = None
    kind: Literal["custom"] = "custom"


NetworkSettings = Annotated[
    ConvSettings | MLPSettings | PaperSettings | CustomSettings, Field(discriminator="kind")
]


class PlainSettings(Section):
    """Fully connected feed-forward network."""

    kind: Literal["mlp"] = "mlp"
    hidden: Widths = (256, 128)
    dropout: Fraction = 0.0
    nonlinearity: Literal["relu", "tanh"] = "relu"


class CNNSettings(Section):
    """Small convolutional network."""

    kind: Literal["cnn"] = "cnn"
    width: Widths = (32, 64)  # each followed by a pooling
    hidden: Widths = (128,)
    dropout: Fraction = 0.0


class ResNetSettings(Section):
    """ResNet in its CIFAR form."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[10, 18, 34, 50] = 18
    width: Positive = 64


class WideResNetSettings(Section):
    """WideResNet; by default WRN-28-10."""

    kind: Literal["wide-resnet"] = "wide-resnet"
    depth: Depth = 28
    width: Positive = 10
    dropout: Fraction = 0.0


class ResidualSettings(Section):
    """The feed-forward counterpart of the invertible `conv` network, field by field."""

    kind: Literal["residual"] = "residual"
    blocks: Depths = (6,)
    width: Widths = (32,)
    dense_blocks: Annotated[int, Field(ge=0, le=1000)] = 1
    dense_hidden: Widths = (256,)
    dropout: Fraction = 0.0
    batch_norm: bool = True


class PaperResidualSettings(Section):
    """The feed-forward network of IB-INN's authors, counterpart of the invertible `paper`."""

    kind: Literal["paper"] = "paper"
    variant: Literal["cifar", "mnist"] = "cifar"


BackboneSettings = Annotated[
    PlainSettings
    | CNNSettings
    | ResNetSettings
    | WideResNetSettings
    | ResidualSettings
    | PaperResidualSettings
    | CustomSettings,
    Field(discriminator="kind"),
]


class MLPDecoderSettings(Section):
    """Fully connected decoder."""

    kind: Literal["mlp"] = "mlp"
    hidden: Widths = (256, 256)
    nonlinearity: Literal["relu", "tanh"] = "relu"


class ConvDecoderSettings(Section):
    """Convolutional decoder of images."""

    kind: Literal["conv"] = "conv"
    width: Widths = (32, 16)  # channels, each behind an upsampling
    hidden: Widths = (128,)


DecoderSettings = Annotated[MLPDecoderSettings | ConvDecoderSettings, Field(discriminator="kind")]


class MixtureSettings(Section):
    """The latent mixture."""

    kind: Literal["gaussian", "vmf"] = "gaussian"  # vmf: von Mises-Fisher, on the sphere
    means: Literal["learned", "frozen"] = "learned"
    # "data": the untrained network's average latent of each class, which spares few dimensions
    # from having to swap classes; "equidistant": IB-INN's pattern, `distance` apart; "sphere": the
    # same directions at radius √D; "normal": N(0, 1) a number; "linear": as torch's Linear;
    # "zero": all at the origin, which with frozen means is the standard normal prior of a VAE.
    start: Literal["equidistant", "sphere", "normal", "linear", "zero", "data"] = "equidistant"
    covariance: Literal["unit", "shared", "per-class"] = "unit"
    weights: Literal["uniform", "empirical", "learned", "affine"] = "uniform"
    distance: Annotated[float, Field(gt=0)] = 5.0
    # Where a mean a class is too much: free in the first dimensions, of this rank in all others.
    rank: Annotated[int, Field(ge=0)] | None = None  # None: full means
    full_dims: Annotated[int, Field(ge=0)] = 0


class ModelSettings(Section):
    """What every system has: the first stage, the noise and the latent mixture."""

    preprocess: PreprocessSettings = PreprocessSettings()
    noise: NoiseSettings = NoiseSettings()
    mixture: MixtureSettings = MixtureSettings()


class InvertibleSettings(ModelSettings):
    """What a system with an invertible network has besides."""

    network: NetworkSettings = ConvSettings()


# A feed-forward network needs neither normal marginals nor densities of grey levels.
STANDARDISED = PreprocessSettings(marginal=0.0, per="channel")
NOISELESS = NoiseSettings(uniform=0.0)


class FeedForwardSettings(ModelSettings):
    """What a system without an inverse has besides."""

    preprocess: PreprocessSettings = STANDARDISED
    noise: NoiseSettings = NOISELESS
    network: BackboneSettings = CNNSettings()
    latent: Positive | None = None  # width of a linear layer behind the network; None: no layer


class DataSettings(Section):
    """What is trained on."""

    validation: Fraction = 0.0  # share of the training set held out
    train_size: Positive | None = None  # use only n labelled samples …
    subset: Literal["first", "stratified"] = "first"  # … the first, or drawn by class with the seed
    test_size: Positive | None = None
    labels: Positive | None = None  # keep those of n training samples, drawn by class with the seed
    augment: Literal["none", "shift", "flip-crop", "rotate", "paper-cifar"] = "none"
    # Images in black and white, after `augment`: by half of the levels, or drawn as bright as they
    # are, once with the seed or, to train on, anew at each step ("resampled").
    binarize: Literal["none", "threshold", "sampled", "resampled"] = "none"
    # Of a .csv file with text: columns, by name or number, and the number of words to know.
    text: Annotated[str, BeforeValidator(str)] = "text"
    label: Annotated[str, BeforeValidator(str)] = "label"
    vocabulary: Positive = 2000


Precision = Literal["32-true", "bf16-mixed", "64-true"]


class TrainSettings(Section):
    """The loop."""

    epochs: Positive = 30
    batch_size: Positive = 128
    # Samples with a label in each batch, the others having none, of which an epoch sees all once;
    # None: as they come.
    labelled: Positive | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2e-3
    momentum: Fraction = 0.9  # sgd; beta1 of adamw
    weight_decay: Weight = 0.0
    means_lr_factor: Annotated[float, Field(gt=0)] = 1.0  # learning rate of the means, relative
    mixture_lr_factor: Annotated[float, Field(gt=0)] = 1.0  # of covariances and class weights
    heads_lr_factor: Annotated[float, Field(gt=0)] = 1.0  # of discriminators
    means_momentum: Fraction = 0.9
    weights_momentum: Fraction = 0.9
    schedule: Literal["cosine", "one-cycle", "milestones", "constant"] = "one-cycle"
    warmup: Fraction = 0.05  # share of the run in which the rate rises (cosine, one-cycle)
    milestones: Annotated[
        tuple[Fraction, ...], BeforeValidator(as_sequence)
    ] = ()  # shares of the run after which the rate falls tenfold
    clip_norm: Annotated[float, Field(gt=0)] = 8.0
    norm_passes: Annotated[int, Field(ge=0)] = 1  # re-estimate BatchNorm statistics at the end
    precision: Precision = "32-true"
    compile: bool = False
    # What a backward finds: all activations, or those of a few stages, see Chain.set_memory.
    memory: Literal["store", "recompute", "checkpoint"] = "store"
    # CPU threads; small networks are faster on one.
    threads: Annotated[int, Field(gt=0, le=1024)] | None = None
    evaluate_every: Positive = 5  # epochs, on the validation set
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 5.0
    cpu_seconds: Annotated[float, Field(gt=0)] | None = None  # end by CPU time instead of epochs
