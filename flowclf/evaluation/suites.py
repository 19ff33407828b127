"""The suites of an evaluation: each a function of what it looks at to named numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, latents
from flowclf.data import Split
from flowclf.data.corruptions import CORRUPTIONS, SEVERITIES
from flowclf.data.outliers import Outliers
from flowclf.errors import UserError
from flowclf.evaluation import metrics
from flowclf.evaluation.attacks import AttackKind, AttackLoss, attack_curve
from flowclf.evaluation.calibration import (
    brier_score,
    classwise_calibration_error,
    equal_mass_calibration_error,
    maximum_calibration_error,
    overconfidence,
    paper_calibration,
    reliability,
    wilson_interval,
)
from flowclf.evaluation.clustering import cluster_scores, fitted_accuracy, kmeans
from flowclf.evaluation.detection import aupr, auroc, fpr_at_95, two_tailed_auroc
from flowclf.evaluation.predictions import Predictions, predict_split
from flowclf.evaluation.rate import aggregate_information
from flowclf.evaluation.scores import SCORES, model_scores, training_centre
from flowclf.evaluation.shift import shift_table

__all__ = ["DEFAULT_SUITES", "PLAIN", "SUITES", "Options", "Subject", "calibration"]

DEFAULT_SUITES = ("accuracy", "calibration", "likelihood")
MOST_TRAINING = 10_000
MOST_COMPONENTS = 20_000
BOOTSTRAPS = 100


@dataclass(frozen=True)
class Options:
    """What the suites on other than the test data look at.

    Attributes:
        outliers: of `ood`: sets that are not of the training data.
        families, severities: of `shift`.
        epsilons: of `attack`, as fractions of the range of grey levels.
        samples: at most so many test images for `shift` and `attack`.
        levels: grey levels of images, None for a table.
    """

    outliers: tuple[Outliers, ...] = ()
    families: tuple[str, ...] = tuple(CORRUPTIONS)
    severities: tuple[int, ...] = SEVERITIES
    epsilons: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3)
    samples: int = 1000
    levels: int | None = 256


PLAIN = Options()


@dataclass(frozen=True)
class Subject:
    """What a suite looks at.

    Attributes:
        model: in any mode; it is evaluated in eval mode and put back.
        test: what it is evaluated on.
        training: what it was trained on, where a suite needs that.
        seed: of the dequantisation noise and of all that is drawn.
        options: of the suites on other data.
    """

    model: GenerativeClassifier
    test: Split
    training: Split | None = None
    seed: int = 0
    options: Options = PLAIN

    @cached_property
    def predictions(self) -> Predictions:
        """What the model says of the test split; computed once for all suites."""
        return predict_split(self.model, self.test, self.seed)

    def images(self, suite: str) -> tuple[Split, int]:
        """The first test images, and their grey levels.

        Raises:
            UserError: a table.
        """
        if self.options.levels is None:
            raise UserError(f"the suite {suite!r} needs images, got a table; leave it out")
        return self.test.take(slice(self.options.samples)), self.options.levels

    def needs_training(self, suite: str) -> Split:
        """The labelled training samples.

        Raises:
            UserError: there are none.
        """
        if self.training is None:
            raise UserError(f"the suite {suite!r} needs the training split, too; give training=…")
        return self.training.labelled()


def accuracy_suite(subject: Subject) -> dict[str, Any]:
    """Top-1 accuracy with its 95 % interval (Wilson), within each class, and the area under ROC."""
    p = subject.predictions
    found = metrics.accuracy(p.log_posterior, p.y)
    low, high = wilson_interval(round(found * len(p.y)), len(p.y))
    return {
        "accuracy": found,
        "accuracy_low": low,
        "accuracy_high": high,
        "auroc": metrics.area_under_roc(p.log_posterior, p.y),
        "accuracy_per_class": metrics.accuracy_per_class(p.log_posterior, p.y),
    }


def confusion_suite(subject: Subject) -> dict[str, Any]:
    """Rows of `confusion`: of each class, how many samples were taken for which."""
    p = subject.predictions
    classes = p.log_posterior.shape[1]
    counts = (p.y * classes + p.log_posterior.argmax(1)).bincount(minlength=classes**2)
    table = counts.view(classes, classes).tolist()
    return {
        "confusion": [
            {"class": k, **{str(j): count for j, count in enumerate(row)}}
            for k, row in enumerate(table)
        ]
    }


def calibration_suite(subject: Subject) -> dict[str, Any]:
    """Errors of the top-1 confidence in 15 bins, of all classes, proper scores; see `calibration`.

    ECE also with 20 bins, as VC's authors have it; -log q(y|x) in nats.
    """
    p = subject.predictions
    log_posterior, y = p.log_posterior, p.y
    return {
        **calibration(p),
        "ece_equal_mass": equal_mass_calibration_error(log_posterior, y),
        "mce": maximum_calibration_error(log_posterior, y),
        "ece_classwise": classwise_calibration_error(log_posterior, y),
        "brier": brier_score(log_posterior, y),
        "overconfidence": overconfidence(log_posterior, y),
    }


def calibration(p: Predictions) -> dict[str, Any]:
    """The two ECEs and -log q(y|x), which a summary has."""
    return {
        "ece": metrics.expected_calibration_error(p.log_posterior, p.y),
        "ece_20_bins": metrics.expected_calibration_error(p.log_posterior, p.y, bins=20),
        "negative_log_posterior_nats": metrics.negative_log_posterior(p.log_posterior, p.y),
    }


def paper_calibration_suite(subject: Subject) -> dict[str, Any]:
    """IB-INN's own calibration errors, per cent, as published and as in the draft.

    Not comparable with others: all class probabilities are pooled, and a perfectly calibrated
    predictor has an ECE of about 0.5 %.
    """
    p = subject.predictions
    versions: tuple[Literal["published", "draft"], ...] = ("published", "draft")
    return {
        "paper_calibration": [
            {"version": v, **paper_calibration(p.log_posterior, p.y, v)} for v in versions
        ]
    }


def reliability_suite(subject: Subject) -> dict[str, Any]:
    """Rows of `reliability`: the 15 bins of the ECE; None in empty ones."""
    p = subject.predictions
    found = reliability(p.log_posterior, p.y)
    columns = {
        "low": found.edges[:-1],
        "high": found.edges[1:],
        "count": found.count,
        "confidence": found.confidence,
        "accuracy": found.accuracy,
    }
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return {
        "reliability": [
            {
                name: None if isnan(value) else value
                for name, value in zip(columns, row, strict=True)
            }
            for row in rows
        ]
    }


def likelihood_suite(subject: Subject) -> dict[str, Any]:
    """True bits/dim, mean log q(x) or elbo, and IB-INN's own L_X/d; None where there is none."""
    p = subject.predictions
    likelihood = p.elbo if p.log_prob is None else p.log_prob
    bits = None if likelihood is None else metrics.bits_per_dim(likelihood, p.dims)
    return {
        "bits_per_dim": bits if p.bounds_bits else None,
        "log_prob_nats": _mean(p.log_prob),
        "elbo_nats": _mean(p.elbo),
        "paper_rate_per_dim_nats": _mean(p.paper_rate_per_dim),
    }


def clustering_suite(subject: Subject) -> dict[str, Any]:
    """Do latents fall into the classes? k-means, the mixture itself, and neighbours; see there."""
    model, test = subject.model, subject.test
    training = subject.needs_training("clustering").take(slice(MOST_TRAINING))
    z, z_test = (latents(model, split.x) for split in (training, test))
    with torch.no_grad():
        assigned = model.mixture.log_posterior(z_test).argmax(1).cpu()
    z, z_test = (model.mixture.embed(each).cpu() for each in (z, z_test))
    found = cluster_scores(kmeans(z_test, model.classes, subject.seed), test.y)
    by_mixture = cluster_scores(assigned, test.y)
    fitted = (z, training.y), (z_test, test.y)
    return {
        **{f"kmeans_{name}": value for name, value in found.items()},
        **{f"mixture_{name}": value for name, value in by_mixture.items()},
        "knn_accuracy": fitted_accuracy("knn", *fitted, model.classes),
    }


def information_suite(subject: Subject) -> dict[str, Any]:
    """I(Y; Z) by the posterior, and of a Gaussian encoder I(X; Z), KL(q(z) ‖ p(z)), active units.

    I(Y; Z) >= H(Y) - E[-log q(y|x)], nats. I(X; Z) and the divergence are Monte-Carlo, by q(z) of
    at most 20,000 training samples, at one z for each of the first thousand.
    """
    p, model = subject.predictions, subject.model
    about_y = _label_entropy(p.y) - metrics.negative_log_posterior(p.log_posterior, p.y)
    about_x: dict[str, Any] = dict.fromkeys(("mi_nats", "md_nats", "active_units"))
    if _is_gaussian(model, subject.test.x[:1]):
        training = subject.needs_training("information")
        about_x = aggregate_information(model, training.x[:MOST_COMPONENTS], subject.seed)
    return {"label_information_nats": about_y, **about_x}


def ood_suite(subject: Subject) -> dict[str, Any]:
    """Each set of outliers against the test split, by each score that the system can give.

    Rows of `ood`: set, score, AUROC, AUPR, FPR at 95 % TPR (outliers positive) and, of scores that
    may be too low, the two-tailed AUROC, with 95 % intervals. Rows of `ood_entropy`: mean entropy
    of q(y|x) in nats, and how far it is above the test split's.

    Raises:
        UserError: no outliers, or no training split where the system has a density.
    """
    outliers = subject.options.outliers
    if not outliers:
        raise UserError("the suite 'ood' needs outliers; name them, e.g. --outliers noise,flipped")
    model, centre = subject.model, None
    if model.has_density or model.has_elbo:
        known = subject.needs_training("ood").x[:MOST_TRAINING]
        centre = training_centre(model, known, seed=subject.seed)
    inside = model_scores(model, subject.test.x, centre=centre, seed=subject.seed)
    rows, entropies = [], {"test": float(inside["entropy"].mean())}
    for each in outliers:
        outside = model_scores(model, each.x, centre=centre, seed=subject.seed)
        entropies[each.name] = float(outside["entropy"].mean())
        rows += [
            {"set": each.name, "score": name, **_detection(name, inside[name], outside[name])}
            for name in outside
        ]
    return {
        "ood": rows,
        "ood_entropy": [
            {"set": name, "entropy_nats": value, "increase_nats": value - entropies["test"]}
            for name, value in entropies.items()
        ],
    }


def shift_suite(subject: Subject) -> dict[str, Any]:
    """Accuracy and calibration of corrupted images, see `shift_table`; rows of `shift`."""
    split, levels = subject.images("shift")
    options = subject.options
    families, severities = options.families, options.severities
    return {
        "shift": shift_table(
            subject.model, split, families, severities, subject.seed, levels=levels
        )
    }


def attack_suite(subject: Subject) -> dict[str, Any]:
    """FGSM and PGD by cross-entropy and by a margin, see `attack_curve`; rows of `attack`."""
    split, levels = subject.images("attack")
    options, device = {"levels": levels, "seed": subject.seed}, subject.model.mixture.means.device
    x, y = split.x.to(device), split.y.to(device)
    return {
        "attack": [
            {"kind": kind, "loss": loss, **row}
            for kind in get_args(AttackKind)
            for loss in get_args(AttackLoss)
            for row in attack_curve(
                subject.model, x, y, subject.options.epsilons, kind, loss, **options
            )
        ]
    }


SUITES: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "accuracy": accuracy_suite,
    "confusion": confusion_suite,
    "calibration": calibration_suite,
    "reliability": reliability_suite,
    "paper-calibration": paper_calibration_suite,
    "likelihood": likelihood_suite,
    "clustering": clustering_suite,
    "information": information_suite,
    "ood": ood_suite,
    "shift": shift_suite,
    "attack": attack_suite,
}


def _detection(name: str, inside: Tensor, outside: Tensor) -> dict[str, float]:
    """Each measure, with the ends of its 95 % interval."""
    measures = {"auroc": auroc(inside, outside)}
    measures["aupr"] = aupr(inside, outside, draws=BOOTSTRAPS)
    measures["fpr_at_95"] = fpr_at_95(inside, outside, draws=BOOTSTRAPS)
    if SCORES[name].direction == "both":
        measures["two_tailed_auroc"] = two_tailed_auroc(inside, outside, draws=BOOTSTRAPS)
    return {
        f"{measure}{end}": value
        for measure, found in measures.items()
        for end, value in (("", found.value), ("_low", found.low), ("_high", found.high))
    }


def _mean(values: Tensor | None) -> float | None:
    return None if values is None else float(values.double().mean())


def _is_gaussian(model: GenerativeClassifier, x: Tensor) -> bool:
    return model.encode(x.to(model.mixture.means.device)).log_var is not None


def _label_entropy(y: Tensor) -> float:
    """H(Y) of labels (N,), nats."""
    return float(torch.special.entr(y.bincount().double() / len(y)).sum())
