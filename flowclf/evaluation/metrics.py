"""Metrics as pure functions: probabilities, labels and densities in, floats out."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

__all__ = [
    "accuracy",
    "accuracy_per_class",
    "bits_per_dim",
    "expected_calibration_error",
    "negative_log_posterior",
]


def accuracy(log_posterior: Tensor, y: Tensor) -> float:
    """Share of samples whose most probable class is the label: (N, K), (N,)."""
    return float((log_posterior.argmax(1) == y).double().mean())


def accuracy_per_class(log_posterior: Tensor, y: Tensor) -> list[float | None]:
    """The same within each class; None for a class without samples."""
    correct = log_posterior.argmax(1) == y
    classes = range(log_posterior.shape[1])
    return [float(correct[y == k].double().mean()) if (y == k).any() else None for k in classes]


def expected_calibration_error(log_posterior: Tensor, y: Tensor, bins: int = 15) -> float:
    """Σ_b n_b/N |accuracy_b - confidence_b| over equal-width bins of the top-1 confidence.

    Guo et al., "On calibration of modern neural networks", ICML 2017, Eq. 3.
    """
    # Float64: a confidence of one must not round into another bin. Bins are closed on the right.
    confidence, predicted = log_posterior.double().exp().max(1)
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype)[1:-1]
    excess = (predicted == y).double() - confidence
    summed = torch.zeros(bins, dtype=confidence.dtype)
    summed.index_add_(0, torch.bucketize(confidence, edges), excess)
    return float(summed.abs().sum() / len(y))


def negative_log_posterior(log_posterior: Tensor, y: Tensor) -> float:
    """-mean log q(y|x), nats."""
    return float(torch.nn.functional.nll_loss(log_posterior.double(), y))


def bits_per_dim(log_prob: Tensor, dims: int) -> float:
    """-mean log2 q(x) / d: log_prob (N,) in nats and in data units.

    For integer data with uniform noise of width 1 this bounds the bits that each dimension needs.
    """
    return float(-log_prob.double().mean() / (dims * log(2)))
