"""Accuracy and calibration on corrupted test images."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from flowclf.classifier import GenerativeClassifier
from flowclf.data import Split
from flowclf.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt, load_official
from flowclf.evaluation import metrics
from flowclf.evaluation.calibration import expected_calibration_error
from flowclf.evaluation.context import predict_split
from flowclf.evaluation.recalibration import scale
from flowclf.support.errors import UserError

__all__ = ["CLEAN", "MEAN", "METRICS", "shift_table"]

CLEAN, MEAN = "clean", "mean"
METRICS = ("accuracy", "ece", "negative_log_posterior_nats")


def shift_table(
    model: GenerativeClassifier,
    split: Split,
    families: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    *,
    levels: int = 256,
    official: Path | str | None = None,
    temperature: float | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Evaluate each family and severity: `accuracy`, `ece`, `negative_log_posterior_nats`.

    Rows of (`family`, `severity`) in this order: ("clean", 0), the split as it is; every family at
    every severity; ("mean", s), the average over families at each severity; ("mean", None), that
    over all. ECE is of 15 bins.

    Args:
        model: of images; evaluated in eval mode and put back.
        split: the clean images, uint8.
        families: names of `flowclf.data.corruptions.CORRUPTIONS`.
        severities: out of 1 to 5.
        seed: of what the corruptions draw, and of the evaluation.
        levels: grey levels of the images.
        official: the folder of CIFAR-10-C, to take its images instead of our own corruptions.
        temperature: also `ece_scaled`, of the posterior at this temperature (`fit_temperature`).
        report: is told of each family.

    Raises:
        UserError: an unknown family or severity, none of them, no images, or no such files.
    """
    if not (families and severities):
        raise UserError("expected at least one family and one severity, got none")

    def shifted(family: str, severity: int) -> Split:
        if official is not None:
            return load_official(official, family, severity, model.classes)
        return Split(corrupt(split.x, family, severity, seed, levels), split.y)

    clean = {"family": CLEAN, "severity": 0, **_measured(model, split, seed, temperature)}
    rows = []
    for f in families:
        report(f"corruption: {f}")
        rows += [
            {"family": f, "severity": s, **_measured(model, shifted(f, s), seed, temperature)}
            for s in severities
        ]
    return [clean, *rows, *(_average(rows, s) for s in severities), _average(rows, None)]


def _measured(
    model: GenerativeClassifier, split: Split, seed: int, temperature: float | None
) -> dict[str, float]:
    p = predict_split(model, split, seed)
    found = {
        "accuracy": metrics.accuracy(p.log_posterior, p.y),
        "ece": expected_calibration_error(p.log_posterior, p.y),
        "negative_log_posterior_nats": metrics.negative_log_posterior(p.log_posterior, p.y),
    }
    if temperature is not None:
        log_posterior = scale(p.log_posterior, temperature)
        found["ece_scaled"] = expected_calibration_error(log_posterior, p.y)
    return found


def _average(rows: list[dict[str, Any]], severity: int | None) -> dict[str, Any]:
    own = [row for row in rows if severity in (None, row["severity"])]
    names = [name for name in own[0] if name not in ("family", "severity")]
    return {
        "family": MEAN,
        "severity": severity,
        **{name: mean(row[name] for row in own) for name in names},
    }
