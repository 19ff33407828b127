"""Suites on decisions: conformal sets, false alarms, and answers to the surest samples alone."""

from itertools import product
from typing import Any

import torch
from torch import Tensor

from flowclf.evaluation.calibration import wilson_interval
from flowclf.evaluation.conformal import (
    NONCONFORMITIES,
    class_thresholds,
    least_samples,
    p_values,
    threshold,
)
from flowclf.evaluation.context import Subject
from flowclf.evaluation.selective import (
    accuracy_at_coverage,
    balanced_accuracy,
    macro_f1,
    risk_coverage,
)
from flowclf.support.errors import UserError
from flowclf.support.seeding import hashed_uniform

__all__ = ["conformal_suite", "selective_suite"]

COVERAGE = 0.95
LEVELS = (0.01, 0.05, 0.1)
ANSWERED = (80, 90, 95, 99)
CURVE = tuple(share / 20 for share in range(1, 21))


def conformal_suite(subject: Subject) -> dict[str, Any]:
    """Measure sets of 95 % coverage and false alarms on the test split, calibrated on validation.

    Rows of `conformal`: each kind of sets, for all classes and per class, with the coverage and its
    95 % interval, the coverage of the worst class, the mean size, and the shares of empty sets and
    of sets of one class. Kinds with too few samples for their level are left out. Rows of
    `false_alarms`: share of test samples whose p-value is at most the level, by the score `auto`.

    Raises:
        UserError: no validation split.
    """
    known, p = subject.held_out, subject.predictions
    if known is None or subject.validation is None:
        raise UserError(
            "the suite 'conformal' needs samples that were held out; train with "
            "--set data.validation=0.1"
        )
    u_known, u = hashed_uniform(subject.validation.x), hashed_uniform(subject.test.x)
    classes = p.log_posterior.shape[1]
    rows = []
    for (name, score), per_class in product(NONCONFORMITIES.items(), (False, True)):
        own = score(known.log_posterior, u_known).gather(1, known.y[:, None])[:, 0]
        try:
            if per_class:
                limit = class_thresholds(own, known.y, classes, COVERAGE)
            else:
                limit = torch.tensor(threshold(own, COVERAGE)).expand(classes)
        except UserError:
            continue
        sets = score(p.log_posterior, u) <= limit
        rows.append({"sets": name, "per_class": per_class, **_measured(sets, p.y)})
    return {"conformal": rows, "false_alarms": _false_alarms(subject)}


def selective_suite(subject: Subject) -> dict[str, Any]:
    """Measure the classifier where it may leave doubtful samples alone.

    Rows of `selective`: each score of the system as a measure of doubt, with the area under the
    risk-coverage curve, its excess over the best order, and the accuracy on the surest 80, 90, 95
    and 99 %. Rows of `risk_coverage`: the curve of `max-probability`. Beside them
    `balanced_accuracy` and `macro_f1`.
    """
    p = subject.predictions
    classes = p.log_posterior.shape[1]
    predicted = p.log_posterior.argmax(1)
    confusion = (p.y * classes + predicted).bincount(minlength=classes**2).view(classes, classes)
    curves = {
        name: risk_coverage(values, predicted == p.y)
        for name, values in subject.test_scores.items()
    }
    plain = curves["max-probability"]
    return {
        "balanced_accuracy": balanced_accuracy(confusion),
        "macro_f1": macro_f1(confusion),
        "selective": [
            {
                "score": name,
                "aurc": curve.area,
                "excess_aurc": curve.excess_area,
                **{
                    f"accuracy_surest_{share}": accuracy_at_coverage(curve, share / 100)
                    for share in ANSWERED
                },
            }
            for name, curve in curves.items()
        ],
        "risk_coverage": [
            {"coverage": share, "risk": 1 - accuracy_at_coverage(plain, share)} for share in CURVE
        ],
    }


def _measured(sets: Tensor, y: Tensor) -> dict[str, Any]:
    """Measure sets (N, K) of samples with labels y (N,)."""
    covered, size = sets.gather(1, y[:, None])[:, 0], sets.sum(1)
    low, high = wilson_interval(int(covered.sum()), len(y))
    worst = min(float(covered[y == k].double().mean()) for k in y.unique().tolist())
    return {
        "coverage": float(covered.double().mean()),
        "coverage_low": low,
        "coverage_high": high,
        "worst_class_coverage": worst,
        "set_size": float(size.double().mean()),
        "empty": float((size == 0).double().mean()),
        "single": float((size == 1).double().mean()),
    }


def _false_alarms(subject: Subject) -> list[dict[str, Any]]:
    """Return rows of `false_alarms`; none without training samples to fit `auto` to."""
    known = subject.held_out_scores or {}
    if "auto" not in known:
        return []
    calibration = known["auto"]
    found = p_values(calibration, subject.test_scores["auto"])
    rows = []
    for level in LEVELS:
        if least_samples(level) > len(calibration):
            continue
        alarms = int((found <= level).sum())
        low, high = wilson_interval(alarms, len(found))
        rows.append(
            {
                "level": level,
                "false_alarm": alarms / len(found),
                "false_alarm_low": low,
                "false_alarm_high": high,
            }
        )
    return rows
