"""Kinds of figures that a trained run can give: what each needs, and how it is drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from flowclf.classifier import GenerativeClassifier
from flowclf.data import Dataset, Split
from flowclf.data.outliers import Outliers
from flowclf.evaluation import Options, Subject, evaluate_subject
from flowclf.evaluation.clustering import class_distances, distance_error
from flowclf.evaluation.explain import explanations
from flowclf.evaluation.extraction import average_latent, fit_image_classifier
from flowclf.figures.canonical_images import extracted_digits, extraction_figure
from flowclf.figures.curves import information_figure, learning_figure
from flowclf.figures.evaluation import DRAWN_SCORES, result_figures, score_figures
from flowclf.figures.explain import explain_figure
from flowclf.figures.images import reconstructed, reconstruction_figure
from flowclf.figures.landscape import landscape_figure, loss_landscape
from flowclf.figures.latent import (
    Latents,
    embedded_latents,
    latent_panels,
    principal_figure,
)
from flowclf.figures.run import draw_latents, draw_samples
from flowclf.figures.similarity import similarity_figure
from flowclf.figures.style import Figure, Rows
from flowclf.figures.trajectory import rotation_trajectory, trajectory_figure
from flowclf.support.errors import UserError
from flowclf.systems.autoencoder import LatentVariableModel

__all__ = ["KINDS", "Kind", "Source", "draw_kind"]

IMAGES = 8


@dataclass(frozen=True)
class Source:
    """Trained run and choices of what to show."""

    name: str  # of the system
    model: GenerativeClassifier
    dataset: Dataset
    training: Split
    test: Split
    beta: float | None = None  # its β̃; None where there is none
    classes: tuple[int, int] = (0, 1)  # the sample's class and another one
    image: int = 0  # row of the test split
    rows: Rows = ()  # estimates of information, recorded by a bench
    history: Rows = ()  # of the training, as metrics.jsonl has it
    validation: Split | None = None  # held out from the training
    outliers: tuple[Outliers, ...] = ()  # out-of-distribution data
    score: str = "negative-log-prob"  # that tells these from the test split
    beside: Mapping[str, GenerativeClassifier] = field(default_factory=dict)  # other runs by name

    @property
    def names(self) -> Sequence[str]:
        """Names of the classes."""
        return self.dataset.class_names

    @property
    def subject(self) -> Subject:
        """Subject of an evaluation."""
        options = Options(self.outliers, levels=self.dataset.levels)
        return Subject(self.model, self.test, self.training, self.validation, options=options)

    @property
    def latents(self) -> dict[str, Latents]:
        """Latents of the test split, of this run and of those beside it."""
        models = {self.name: self.model, **self.beside}
        return {name: embedded_latents(model, self.test) for name, model in models.items()}

    @property
    def levels(self) -> int:
        """Grey levels of images."""
        assert self.dataset.levels is not None, "asked of images alone"
        return self.dataset.levels


def _latent(source: Source) -> Figure:
    if not source.beside:
        return draw_latents(source.model, source.test, source.names)
    panels = [(name, f.z, f.y, f.means, f.std) for name, f in source.latents.items()]
    return latent_panels(panels, source.names)


def _reconstructions(source: Source) -> Figure:
    splits = {"test set": source.test, "training set": source.training}
    models = {source.name: source.model}
    blocks = {name: reconstructed(models, split.x[:IMAGES]) for name, split in splits.items()}
    return reconstruction_figure(blocks, source.levels)


def _trajectory(source: Source) -> Figure:
    if source.image >= len(source.test):
        raise UserError(f"expected --image below {len(source.test)}, got {source.image}")
    path = rotation_trajectory(source.model, source.test.x[source.image], source.levels)
    background = embedded_latents(source.model, source.test)
    return trajectory_figure(path, background, source.names, source.levels)


def _similarity(source: Source) -> Figure:
    mixture = source.model.mixture
    means = mixture.embed(mixture.centres()).detach().cpu()
    distances = class_distances(means, mixture.std().detach().cpu())
    return similarity_figure(distances, source.names, distance_error(source.training.labelled().y))


def _evaluated(suite: str, key: str) -> Callable[[Source], Figure]:
    """Return what runs a suite, and draws the rows of a key."""

    def draw(source: Source) -> Figure:
        rows = evaluate_subject(source.subject, [suite])
        return result_figures(source.name, rows, source.names)[key]

    return draw


def _scores(kind: str) -> Callable[[Source], Figure]:
    """Return what draws `roc` or `scores` of the outliers."""

    def draw(source: Source) -> Figure:
        inside, outside = source.subject.outlier_scores
        known = [score for score in DRAWN_SCORES if score in inside]
        if source.score not in known:
            raise UserError(
                f"expected --score to be one of {', '.join(known)}, got {source.score!r}"
            )
        sets = {name: values[source.score] for name, values in outside.items()}
        figures = score_figures(source.score, inside[source.score], sets)
        return figures[f"{kind}-{source.score}"]

    return draw


def _explained(source: Source) -> Figure:
    data, subject = source.dataset, source.subject
    rows = evaluate_subject(subject, ["explain"])["explain"]
    found = explanations(source.model, source.test, rows)
    names = data.vocabulary or data.feature_names
    return explain_figure(found, source.names, data.levels, names)


def _extraction(source: Source) -> Figure:
    """Draw what the labels stand for; known are the first classes with labelled training data."""
    model, labelled = source.model, source.training.labelled()
    if not isinstance(model, LatentVariableModel):
        raise UserError(f"expected a likelihood p(x|z) for --kind extraction, got {source.name}")
    seen = torch.bincount(labelled.y, minlength=model.classes) > 0
    known = int(seen.int().cumprod(0).sum())
    # The test split alone has labels of every class.
    if len(source.test.y.unique()) < model.classes:
        raise UserError("expected test images of every class for --kind extraction, got fewer")
    reader = fit_image_classifier(source.test.x, source.test.y, source.levels - 1)
    z = average_latent(model, labelled.x, labelled.y)
    rows = {source.name: extracted_digits(model, z, reader, known)}
    return extraction_figure(rows, source.names, source.levels, known)


@dataclass(frozen=True)
class Kind:
    """Kind of figure and its needs."""

    draw: Callable[[Source], Figure]  # makes it
    # capabilities of the model and their values
    needs: Mapping[str, bool | str] = field(default_factory=dict)
    system: str = ""  # the same in words
    channels: tuple[int, ...] = ()  # of images that it can draw; none: any data


DECODES = {"can_decode": True}, "an inverse or a decoder"
KINDS: dict[str, Kind] = {
    "latent": Kind(_latent),
    "principal": Kind(lambda s: principal_figure(s.latents, s.names)),
    "samples": Kind(
        lambda s: draw_samples(s.model, s.names, s.levels),
        {"can_sample": True}, "a model of x to draw from", (1, 3),
    ),
    "reconstructions": Kind(_reconstructions, *DECODES, (1, 3)),
    "landscape": Kind(
        lambda s: landscape_figure(loss_landscape(s.model, *s.classes, s.names, beta=s.beta)),
        {"posterior_is_mixture": True}, "the posterior of its mixture",
    ),
    "similarity": Kind(_similarity),
    "reliability": Kind(_evaluated("reliability", "reliability")),
    "confusion": Kind(_evaluated("confusion", "confusion")),
    "explain": Kind(_explained, *DECODES),
    "roc": Kind(_scores("roc")),
    "scores": Kind(_scores("scores")),
    "shift": Kind(_evaluated("shift", "shift"), channels=(1, 3)),
    "attack": Kind(_evaluated("attack", "attack"), channels=(1, 3)),
    "sample-quality": Kind(
        _evaluated("samples", "sample_quality"),
        {"can_sample": True}, "a model of x to draw from", (1, 3),
    ),
    "trajectory": Kind(_trajectory, channels=(3,)),
    "extraction": Kind(
        _extraction, {"encoder_kind": "relaxed-label"}, "a label among its latents", (1, 3)
    ),
    "learning": Kind(lambda s: learning_figure(s.history)),
    "information": Kind(lambda s: information_figure(s.rows, len(s.training), s.name)),
}  # fmt: skip


def draw_kind(name: str, source: Source) -> Figure:
    """Draw a figure of a run.

    Raises:
        UserError: an unknown kind, or a run that lacks what it needs.
    """
    if name not in KINDS:
        raise UserError(f"expected --kind to be one of {', '.join(KINDS)}, got {name!r}")
    kind, data, model = KINDS[name], source.dataset, source.model
    if kind.channels and (not data.levels or data.shape[0] not in kind.channels):
        wanted = "images" if 1 in kind.channels else "RGB images"
        shape = " × ".join(map(str, data.shape))
        raise UserError(f"expected a run on {wanted} for --kind {name}, got data of shape {shape}")
    if any(getattr(model, need) != value for need, value in kind.needs.items()):
        raise UserError(
            f"expected a system with {kind.system} for --kind {name}, got {source.name}; choose "
            "another kind or run"
        )
    return kind.draw(source)
