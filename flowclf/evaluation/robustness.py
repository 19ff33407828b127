"""Suites on other data: out-of-distribution, corrupted and attacked images."""

from collections.abc import Sequence
from itertools import product
from typing import Any, get_args

from flowclf.classifier import GenerativeClassifier
from flowclf.evaluation.attacks import AttackKind, AttackLoss, attack_curve
from flowclf.evaluation.context import Scores, Subject
from flowclf.evaluation.detection import aupr, auroc, fpr_at_95, two_tailed_auroc
from flowclf.evaluation.probes import outlier_distances
from flowclf.evaluation.recalibration import fit_temperature
from flowclf.evaluation.scores import SCORES, ensemble_scores
from flowclf.evaluation.shift import shift_table

__all__ = ["attack_suite", "ensemble_rows", "ood_suite", "shift_suite"]

BOOTSTRAPS = 100


def ood_suite(subject: Subject) -> dict[str, Any]:
    """Compare each out-of-distribution set with the test split by each score of the system.

    Rows of `ood`: set, score, AUROC, AUPR, FPR at 95 % TPR (outliers positive) and, of scores that
    may be too low, the two-tailed AUROC, with 95 % intervals. Rows of `ood_entropy`: mean entropy
    of q(y|x) in nats, and how far it is above the test split's. Of frozen features there are also
    rows of `outlier_distances`.

    Raises:
        UserError: no outliers, or no training split where the system has a density.
    """
    inside, outside = subject.outlier_scores
    if subject.options.features:
        training = subject.needs_training("ood")
        inside = inside | outlier_distances(training, subject.test.x)
        outside = {
            each.name: outside[each.name] | outlier_distances(training, each.x)
            for each in subject.options.outliers
        }
    means = {k: float(v["entropy"].mean()) for k, v in {"test": inside, **outside}.items()}
    return {
        "ood": [row for name, scores in outside.items() for row in _rows(name, inside, scores)],
        "ood_entropy": [
            {"set": name, "entropy_nats": value, "increase_nats": value - means["test"]}
            for name, value in means.items()
        ],
    }


def shift_suite(subject: Subject) -> dict[str, Any]:
    """Evaluate corrupted images, see `shift_table`: rows of `shift`.

    With a validation split also once temperature scaled on that, clean.
    """
    (split, levels), known, options = subject.images("shift"), subject.held_out, subject.options
    temperature = None if known is None else fit_temperature(known.log_posterior, known.y)
    wanted = options.families, options.severities, subject.seed
    where: dict[str, Any] = {"official": options.official, "report": subject.report}
    table = shift_table(
        subject.model, split, *wanted, levels=levels, temperature=temperature, **where
    )
    return {"shift": table}


def attack_suite(subject: Subject) -> dict[str, Any]:
    """Attack by FGSM and PGD, cross-entropy and margin, see `attack_curve`: rows of `attack`."""
    split, levels = subject.images("attack")
    options, device = {"levels": levels, "seed": subject.seed}, subject.model.mixture.device
    x, y = split.x.to(device), split.y.to(device)
    rows = []
    for kind, loss in product(get_args(AttackKind), get_args(AttackLoss)):
        subject.report(f"attack: {kind} by {loss}")
        epsilons = (0.0, *subject.options.epsilons)
        curve = attack_curve(subject.model, x, y, epsilons, kind, loss, **options)
        rows += [{"kind": kind, "loss": loss, **row} for row in curve]
    return {"attack": rows}


def ensemble_rows(models: Sequence[GenerativeClassifier], subject: Subject) -> list[dict[str, Any]]:
    """Return rows of `ood` by scores of several runs; none where a run has no density."""
    if not all(model.has_elbo for model in models):
        return []
    inside = ensemble_scores(models, subject.test.x)
    return [
        row
        for each in subject.options.outliers
        for row in _rows(each.name, inside, ensemble_scores(models, each.x))
    ]


def _rows(data: str, inside: Scores, outside: Scores) -> list[dict[str, Any]]:
    """Return a row for each score of an out-of-distribution set, with 95 % intervals."""
    rows = []
    for score in outside:
        pair = inside[score], outside[score]
        measures = {"auroc": auroc(*pair), "aupr": aupr(*pair, BOOTSTRAPS)}
        measures["fpr_at_95"] = fpr_at_95(*pair, BOOTSTRAPS)
        if score in SCORES and SCORES[score].direction == "both":
            measures["two_tailed_auroc"] = two_tailed_auroc(*pair, BOOTSTRAPS)
        row: dict[str, Any] = {"set": data, "score": score}
        for name, found in measures.items():
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row)
    return rows
