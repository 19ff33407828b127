"""Suites on other data than those of the task: outliers, corrupted and attacked images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from torch import Tensor

from flowclf.classifier import GenerativeClassifier
from flowclf.errors import UserError
from flowclf.evaluation.attacks import AttackKind, AttackLoss, attack_curve
from flowclf.evaluation.detection import aupr, auroc, fpr_at_95, two_tailed_auroc
from flowclf.evaluation.scores import SCORES, ensemble_scores, model_scores, training_centre
from flowclf.evaluation.shift import shift_table
from flowclf.evaluation.subject import MOST_TRAINING, Subject

__all__ = ["attack_suite", "ensemble_rows", "ood_suite", "shift_suite"]

BOOTSTRAPS = 100


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


def ensemble_rows(models: Sequence[GenerativeClassifier], subject: Subject) -> list[dict[str, Any]]:
    """Rows of `ood` by the scores that need several runs; none where a run has no density."""
    if not all(model.has_density or model.has_elbo for model in models):
        return []
    inside = ensemble_scores(models, subject.test.x, seed=subject.seed)
    rows = []
    for each in subject.options.outliers:
        outside = ensemble_scores(models, each.x, seed=subject.seed)
        rows += [
            {"set": each.name, "score": name, **_detection(name, inside[name], outside[name])}
            for name in outside
        ]
    return rows


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
