"""A model and a data split in, named results out; for every system with the common face."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier
from flowclf.data import Split
from flowclf.errors import UserError
from flowclf.evaluation import metrics
from flowclf.evaluation.temperature import fit_temperature, scale
from flowclf.seeding import generator_for

__all__ = ["SUITES", "Predictions", "evaluate", "evaluate_scaled", "predict_split"]

BATCH_SIZE = 512


@dataclass(frozen=True)
class Predictions:
    """What a model says of a split.

    Attributes:
        y: labels (N,).
        log_posterior: (N, K), of the noise-free x.
        log_prob: log q(x) (N,) in nats, data units, of the uniformly dequantised x, or None.
        paper_rate_per_dim: L_X/d (N,) in the units of IB-INN's authors, or None.
        dims: dimensions of one sample.
    """

    y: Tensor
    log_posterior: Tensor
    log_prob: Tensor | None
    paper_rate_per_dim: Tensor | None
    dims: int


def evaluate(
    model: GenerativeClassifier,
    split: Split,
    suites: Iterable[str] = ("accuracy", "calibration", "likelihood"),
    seed: int = 0,
) -> dict[str, Any]:
    """The results of each suite on a split, as one flat dictionary.

    Args:
        model: in any mode; it is evaluated in eval mode and put back.
        split: the data.
        suites: names of `SUITES`.
        seed: of the dequantisation noise.

    Raises:
        UserError: an unknown suite, or an empty split.
    """
    suites = list(suites)
    for name in suites:
        if name not in SUITES:
            raise UserError(f"unknown suite {name!r}; choose from: {', '.join(SUITES)}")
    predictions = predict_split(model, split, seed)
    results: dict[str, Any] = {}
    for name in suites:
        results |= SUITES[name](predictions)
    return results


def evaluate_scaled(
    model: GenerativeClassifier, validation: Split, test: Split, seed: int = 0
) -> dict[str, float]:
    """Calibration of the test split once temperature scaled on the validation split.

    What VC is compared with: `temperature`, and ECE and -log q(y|x) of the scaled posterior.
    """
    fitted = predict_split(model, validation, seed)
    temperature = fit_temperature(fitted.log_posterior, fitted.y)
    predictions = predict_split(model, test, seed)
    scaled = replace(predictions, log_posterior=scale(predictions.log_posterior, temperature))
    results = {f"{name}_scaled": value for name, value in calibration_suite(scaled).items()}
    return {"temperature": temperature, **results}


@torch.no_grad()
def predict_split(model: GenerativeClassifier, split: Split, seed: int = 0) -> Predictions:
    """Posteriors and densities of a split, batch by batch on the model's device."""
    if len(split) == 0:
        raise UserError("expected at least one sample to evaluate, got none")
    was_training = model.training
    model.eval()
    try:
        batches = [
            _predict_batch(model, split.x[start : start + BATCH_SIZE], seed, start)
            for start in range(0, len(split), BATCH_SIZE)
        ]
    finally:
        model.train(was_training)
    log_posterior, log_prob, paper = zip(*batches, strict=True)
    return Predictions(split.y, torch.cat(log_posterior), _join(log_prob), _join(paper), model.dims)


def accuracy_suite(p: Predictions) -> dict[str, Any]:
    """Top-1 accuracy, in all and within each class, and the area under the ROC curve."""
    return {
        "accuracy": metrics.accuracy(p.log_posterior, p.y),
        "auroc": metrics.area_under_roc(p.log_posterior, p.y),
        "accuracy_per_class": metrics.accuracy_per_class(p.log_posterior, p.y),
    }


def calibration_suite(p: Predictions) -> dict[str, Any]:
    """ECE with 15 equal-width bins and, as VC's authors have it, 20; -log q(y|x) in nats."""
    return {
        "ece": metrics.expected_calibration_error(p.log_posterior, p.y),
        "ece_20_bins": metrics.expected_calibration_error(p.log_posterior, p.y, bins=20),
        "negative_log_posterior_nats": metrics.negative_log_posterior(p.log_posterior, p.y),
    }


def likelihood_suite(p: Predictions) -> dict[str, Any]:
    """True bits/dim and mean log q(x); beside them IB-INN's own L_X/d. None without a density."""
    paper = p.paper_rate_per_dim
    return {
        "bits_per_dim": None if p.log_prob is None else metrics.bits_per_dim(p.log_prob, p.dims),
        "log_prob_nats": None if p.log_prob is None else float(p.log_prob.double().mean()),
        "paper_rate_per_dim_nats": None if paper is None else float(paper.double().mean()),
    }


SUITES: dict[str, Callable[[Predictions], dict[str, Any]]] = {
    "accuracy": accuracy_suite,
    "calibration": calibration_suite,
    "likelihood": likelihood_suite,
}


def _predict_batch(
    model: GenerativeClassifier, x: Tensor, seed: int, start: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    device = model.mixture.means.device
    x = x.to(device)
    log_posterior = model.log_posterior(x).cpu()
    if not model.has_density:
        return log_posterior, None, None
    generator = generator_for(seed, "evaluate", start, device=device)
    noisy = model.noise.dequantize(x, generator)
    log_prob = model.log_prob(noisy)
    paper = getattr(model, "paper_rate_per_dim", None)
    rate = paper(noisy, log_prob).cpu() if paper else None
    return log_posterior, log_prob.cpu(), rate


def _join(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None
