"""Evaluation of a model on a split by suites, for every system with the common face."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from flowclf.classifier import GenerativeClassifier
from flowclf.data import Split
from flowclf.evaluation.context import PLAIN, Options, Subject, predict_split
from flowclf.evaluation.recalibration import fit_temperature, scale
from flowclf.evaluation.suites import DEFAULT_SUITES, SUITES, calibration
from flowclf.support.errors import UserError

__all__ = ["evaluate", "evaluate_scaled", "evaluate_subject"]


def evaluate(
    model: GenerativeClassifier,
    split: Split,
    suites: Iterable[str] = DEFAULT_SUITES,
    seed: int = 0,
    training: Split | None = None,
    validation: Split | None = None,
    options: Options = PLAIN,
) -> dict[str, Any]:
    """Run suites on a split; return one dictionary of numbers, and of lists of rows.

    Args:
        model: in any mode; it is evaluated in eval mode and put back.
        split: the data.
        suites: names of `SUITES`.
        seed: of the dequantisation noise and of all that is drawn.
        training: the training split, which `clustering`, `information` and `ood` need.
        validation: samples it was not trained on, which `recalibration` needs.
        options: of the suites that look at other data than the split.

    Raises:
        UserError: an unknown suite, an empty split, or one that a suite needs and has not got.
    """
    return evaluate_subject(Subject(model, split, training, validation, seed, options), suites)


def evaluate_subject(subject: Subject, suites: Iterable[str]) -> dict[str, Any]:
    """Run `evaluate` on a subject whose predictions and scores may be needed again.

    Raises:
        UserError: as `evaluate`.
    """
    names = list(suites)
    for name in names:
        if name not in SUITES:
            raise UserError(f"unknown suite {name!r}; choose from: {', '.join(SUITES)}")
    results: dict[str, Any] = {}
    for name in names:
        subject.report(name)
        results |= SUITES[name](subject)
    return results


def evaluate_scaled(
    model: GenerativeClassifier, validation: Split, test: Split, seed: int = 0
) -> dict[str, float]:
    """Evaluate calibration of the test split, temperature scaled on the validation split.

    What VC is compared with: `temperature`, and ECE and -log q(y|x) of the scaled posterior.
    """
    fitted = predict_split(model, validation, seed)
    temperature = fit_temperature(fitted.log_posterior, fitted.y)
    predictions = predict_split(model, test, seed)
    scaled = replace(predictions, log_posterior=scale(predictions.log_posterior, temperature))
    results = {f"{name}_scaled": value for name, value in calibration(scaled).items()}
    return {"temperature": temperature, **results}
