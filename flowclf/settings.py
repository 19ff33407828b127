"""Settings of a run, and the field types of all others, which stand beside what they configure."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from flowclf.support.validate import as_sequence, sample_shape

__all__ = [
    "DataFacts",
    "DataSettings",
    "Depth",
    "Depths",
    "Fraction",
    "ModelInfo",
    "Positive",
    "Precision",
    "Section",
    "TrainSettings",
    "Weight",
    "Widths",
]


# More than any network or data set has; products of two still fit into 64 bits.
Positive = Annotated[int, Field(gt=0, le=10**9)]
# Deeper ones take minutes to make, and hours to train.
Depth = Annotated[int, Field(gt=0, le=1000)]
Widths = Annotated[tuple[Positive, ...], Field(max_length=100), BeforeValidator(as_sequence)]
Depths = Annotated[tuple[Depth, ...], Field(max_length=100), BeforeValidator(as_sequence)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Augment = Literal[
    "none", "flip", "shift", "warp", "flip-crop", "flip-crop-2", "rotate", "paper-cifar"
]


class Section(BaseModel):
    """Immutable settings, in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True)


Size = Annotated[int, Field(gt=0, le=10**9, strict=True)]


# More than any data set has; a file may declare what it likes.
MOST_CLASSES = 100_000
Name = Annotated[str, Field(max_length=1000)]


class DataFacts(Section):
    """Facts of the data that building a model needs; stored with the run."""

    shape: Annotated[tuple[Size, ...], AfterValidator(sample_shape)]  # (C, H, W) or (F,)
    levels: Size | None = None  # grey levels; None: a table
    class_names: Annotated[tuple[Name, ...], Field(min_length=2, max_length=MOST_CLASSES)]
    feature_names: tuple[str, ...] = ()  # of a table's columns, where they are known
    samples: Size | None = None  # N of the training set, where that is known
    features: Name | None = None  # line on the features that x is; None: x is the data
    sha256: str | None = None  # of the data, see `Dataset.sha256`; None: of an older version


class ModelInfo(DataFacts):
    """Origin of a model; `GenerativeClassifier.info`."""

    system: str  # a name of `flowclf systems`
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # of rotations and permutations
    data: str | None = None  # name of the training data
    vocabulary: tuple[Name, ...] = ()  # the words that the inputs of a model of texts stand for
    metrics: dict[str, float] = {}  # on the test set, named as in summary.json and evaluation.json

    @property
    def title(self) -> str:
        """Heading of the model card."""
        return f"{self.system} on {self.data}" if self.data else self.system


class DataSettings(Section):
    """Training data."""

    validation: Fraction = 0.0  # share of the training set held out
    train_size: Positive | None = None  # use only n labelled samples …
    subset: Literal["first", "stratified"] = "first"  # … the first, or drawn by class with the seed
    test_size: Positive | None = None
    labels: Positive | None = None  # keep those of n training samples, drawn by class with the seed
    augment: Augment = "none"
    # Of the view by which a sample without a label is guessed (pseudo_labels); None: the same.
    augment_guess: Augment | None = None
    # Share of training images seen, after `augment`, with less contrast through a smooth grey veil.
    veil: Annotated[float, Field(ge=0, le=1)] = 0.0
    # Images in black and white, after `augment`: by half of the levels, or drawn as bright as they
    # are, once with the seed or, to train on, anew at each step ("resampled").
    binarize: Literal["none", "threshold", "sampled", "resampled"] = "none"
    # Of files of one's own, see `flowclf.data.Reading`.
    target: Annotated[str, BeforeValidator(str)] | None = None  # a table's column of labels
    drop: Annotated[tuple[str, ...], BeforeValidator(as_sequence)] = ()  # columns to leave out
    weight: Annotated[str, BeforeValidator(str)] | None = None  # … and of weights, to train with
    missing: Literal["refuse", "impute"] = "refuse"  # of a table's values
    # Side, or height and width, of pictures.
    size: (
        Annotated[
            tuple[Positive, ...], Field(min_length=1, max_length=2), BeforeValidator(as_sequence)
        ]
        | None
    ) = None
    mode: Literal["as-is", "grey", "rgb"] = "as-is"  # of pictures
    range: (
        Annotated[
            tuple[float, ...], Field(min_length=2, max_length=2), BeforeValidator(as_sequence)
        ]
        | None
    ) = None  # black and white of images of floats
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2  # drawn where there is no test split …
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # … with this seed
    # Of a .csv file with text: columns, by name or number, and the number of words to know.
    text: Annotated[str, BeforeValidator(str)] = "text"
    label: Annotated[str, BeforeValidator(str)] = "label"
    vocabulary: Positive = 2000
    # Frozen features in place of pictures or texts, see `flowclf.data.extractors`: a name, or
    # "module:CLASS", the user's own, that is handed in; and at most so many principal components,
    # None: 192, or a tenth of the training samples that have a label.
    features: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    feature_dims: Positive | None = None


Precision = Literal["32-true", "bf16-mixed", "64-true"]  # as Fabric names them


class TrainSettings(Section):
    """Training loop."""

    epochs: Positive = 30
    least_updates: Positive | None = None  # further epochs of few data, until so many steps
    batch_size: Positive = 128
    # Samples with a label in each batch, the others having none, of which an epoch sees all once;
    # None: as they come.
    labelled: Positive | None = None
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2e-3
    momentum: Fraction = 0.9  # of sgd; beta1 of adamw
    beta2: Fraction = 0.99  # of adamw, as is epsilon; without weight decay it is Adam
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Weight = 0.0
    means_lr_factor: Annotated[float, Field(gt=0)] = 1.0  # learning rate of the means, relative
    mixture_lr_factor: Annotated[float, Field(gt=0)] = 1.0  # of covariances and class weights
    heads_lr_factor: Annotated[float, Field(gt=0)] = 1.0  # of discriminators
    # Of weights that a BatchNorm follows, which Muon turns; all others are AdamW's.
    muon_lr_factor: Annotated[float, Field(gt=0)] = 16.0
    muon_momentum: Fraction = 0.6
    means_momentum: Fraction = 0.9
    weights_momentum: Fraction = 0.9
    schedule: Literal["cosine", "one-cycle", "milestones", "constant"] = "one-cycle"
    warmup: Fraction = 0.05  # share of the run in which the rate rises (cosine, one-cycle)
    milestones: Annotated[
        tuple[Fraction, ...], BeforeValidator(as_sequence)
    ] = ()  # shares of the run after which the rate falls tenfold
    clip_norm: Annotated[float, Field(gt=0)] = 8.0
    clip_value: Annotated[float, Field(gt=0)] | None = None  # of each number, after the norm
    norm_passes: Annotated[int, Field(ge=0)] = 1  # re-estimate BatchNorm statistics at the end
    # Of the products in the networks; densities, losses and evaluation are in float32 or wider.
    precision: Literal["auto", Precision] = "auto"  # bf16-mixed where that is faster, or 32-true
    compile: bool = False
    # What a backward finds: all activations, or those of a few stages, see Chain.set_memory.
    memory: Literal["store", "recompute", "checkpoint"] = "store"
    # CPU threads; small networks are faster on one, as all are where other programs want the cores.
    # auto: the faster number, again and again, at the price that a seed gives other bits; None: all
    threads: Annotated[int, Field(gt=0, le=1024)] | Literal["auto"] | None = None
    evaluate_every: Positive = 5  # epochs, on the validation set
    # End after so many evaluations in a row that are not the best by the monitor, and keep the
    # weights of the best; None: run to the end, and keep the last.
    patience: Positive | None = None
    monitor: Literal["negative_log_posterior_nats", "accuracy", "bits_per_dim"] = (
        "negative_log_posterior_nats"
    )
    # balanced: samples are drawn so that an epoch sees each class equally often.
    class_weight: Literal["none", "balanced"] = "none"
    # Where the history goes beside metrics.jsonl, below the folder of the run; all but csv need a
    # package of that name.
    logger: Annotated[
        tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...], BeforeValidator(as_sequence)
    ] = ()
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 5.0
    cpu_seconds: Annotated[float, Field(gt=0)] | None = None  # end by CPU time instead of epochs
