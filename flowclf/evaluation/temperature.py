"""Temperature scaling, as pure functions: one number that calibrates a posterior after training."""

from __future__ import annotations

from math import exp, log

import torch
from torch import Tensor

from flowclf.support.errors import UserError

__all__ = ["check_samples", "fit_temperature", "scale"]

LEAST, LARGEST = 1e-3, 1e3


def fit_temperature(log_posterior: Tensor, y: Tensor) -> float:
    """The T in [0.001, 1000] of least mean -log softmax(log q / T)_y, by bisection in float64.

    The loss is convex in β = 1/T, with derivative mean_n Σ_k q_nk(β) log q_nk - log q_ny, so that
    no start or step size matters. Where there is no least loss inside (every sample is classified
    correctly, say) T is a bound. To be fitted on samples that neither train nor test.

    Guo et al., "On calibration of modern neural networks", ICML 2017, Sec. 4.2.

    Args:
        log_posterior: log q(k|x), or logits, (N, K).
        y: labels (N,).

    Raises:
        UserError: no samples, another number of labels than of samples, or a log q not finite.
    """
    check_samples(log_posterior, y, "a temperature")
    scores = log_posterior.double().log_softmax(1)
    low, high = log(1 / LARGEST), log(1 / LEAST)
    while low < (middle := (low + high) / 2) < high:
        if _derivative(scores, y, exp(middle)) > 0:
            high = middle
        else:
            low = middle
    return exp(-middle)


def scale(log_posterior: Tensor, temperature: float) -> Tensor:
    """log softmax(log q / T), (B, K) to (B, K); the most probable class stays the same.

    Raises:
        UserError: a temperature that is not positive.
    """
    if not temperature > 0:
        raise UserError(f"expected temperature > 0, got {temperature}")
    return (log_posterior / temperature).log_softmax(1)


def _derivative(scores: Tensor, y: Tensor, inverse: float) -> float:
    """Of the mean loss in 1/T, nats."""
    expected = ((inverse * scores).softmax(1) * scores).sum(1)
    return float((expected - scores.gather(1, y[:, None])[:, 0]).mean())


def check_samples(log_posterior: Tensor, y: Tensor, what: str) -> None:
    """Refuse what nothing can be fitted to.

    Raises:
        UserError: no samples, another number of labels than of samples, or a log q not finite.
    """
    if log_posterior.ndim != 2 or y.shape != log_posterior.shape[:1] or not y.numel():
        raise UserError(
            f"expected {what} to be fitted to (N, K) and (N,) with N > 0, "
            f"got {tuple(log_posterior.shape)} and {tuple(y.shape)}"
        )
    if not bool(torch.isfinite(log_posterior).all()):
        raise UserError("expected finite log-posteriors, got others")
