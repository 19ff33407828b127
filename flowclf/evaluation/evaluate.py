"""A model and a data split in, named results out; for every system with the common face."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, evaluating
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
        elbo: its lower bound (N,), where a system has that instead, or None.
        paper_rate_per_dim: L_X/d (N,) in the units of IB-INN's authors, or None.
        dims: dimensions of one sample.
        bounds_bits: whether log_prob or elbo bounds the bits that x takes.
    """

    y: Tensor
    log_posterior: Tensor
    log_prob: Tensor | None
    elbo: Tensor | None
    paper_rate_per_dim: Tensor | None
    dims: int
    bounds_bits: bool


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
    with evaluating(model):
        batches = [
            _predict_batch(model, split.x[start : start + BATCH_SIZE], seed, start)
            for start in range(0, len(split), BATCH_SIZE)
        ]
    log_posterior, log_prob, elbo, paper = map(_join, zip(*batches, strict=True))
    assert log_posterior is not None
    bounds = model.bounds_bits(split.x)
    return Predictions(split.y, log_posterior, log_prob, elbo, paper, model.dims, bounds)


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
    """True bits/dim, mean log q(x) or elbo, and IB-INN's own L_X/d; None where there is none."""
    likelihood = p.elbo if p.log_prob is None else p.log_prob
    bits = None if likelihood is None else metrics.bits_per_dim(likelihood, p.dims)
    return {
        "bits_per_dim": bits if p.bounds_bits else None,
        "log_prob_nats": _mean(p.log_prob),
        "elbo_nats": _mean(p.elbo),
        "paper_rate_per_dim_nats": _mean(p.paper_rate_per_dim),
    }


SUITES: dict[str, Callable[[Predictions], dict[str, Any]]] = {
    "accuracy": accuracy_suite,
    "calibration": calibration_suite,
    "likelihood": likelihood_suite,
}


def _predict_batch(
    model: GenerativeClassifier, x: Tensor, seed: int, start: int
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Posterior, density, its bound and IB-INN's rate of a batch."""
    device = model.mixture.means.device
    x = x.to(device)
    log_posterior = model.log_posterior(x).cpu()
    if not (model.has_density or model.has_elbo):
        return log_posterior, None, None, None
    noisy = model.dequantize(x, generator_for(seed, "evaluate", start, device=device))
    if not model.has_density:
        return log_posterior, None, model.elbo(noisy).cpu(), None
    log_prob = model.log_prob(noisy)
    paper = getattr(model, "paper_rate_per_dim", None)
    rate = paper(noisy, log_prob).cpu() if paper else None
    return log_posterior, log_prob.cpu(), None, rate


def _join(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _mean(values: Tensor | None) -> float | None:
    return None if values is None else float(values.double().mean())
