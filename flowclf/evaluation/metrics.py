"""Metrics as pure functions: probabilities, labels and densities in, floats out."""

from math import log

import torch
from torch import Tensor

__all__ = [
    "accuracy",
    "accuracy_per_class",
    "area_under_roc",
    "bits_per_dim",
    "negative_log_posterior",
    "top_accuracy",
    "variance_ratio",
]


def accuracy(log_posterior: Tensor, y: Tensor) -> float:
    """Return the share of samples whose most probable class is the label: (N, K), (N,)."""
    return float((log_posterior.argmax(1) == y).double().mean())


def top_accuracy(log_posterior: Tensor, y: Tensor, count: int) -> float | None:
    """Return the share with the label among the `count` likeliest classes; None if K <= count."""
    if log_posterior.shape[1] <= count:
        return None
    return float((log_posterior.topk(count, 1).indices == y[:, None]).any(1).double().mean())


def accuracy_per_class(log_posterior: Tensor, y: Tensor) -> list[float | None]:
    """Return the accuracy within each class; None for a class without samples."""
    correct = log_posterior.argmax(1) == y
    classes = range(log_posterior.shape[1])
    return [float(correct[y == k].double().mean()) if (y == k).any() else None for k in classes]


def area_under_roc(scores: Tensor, y: Tensor) -> float | None:
    """Compute the AUROC of scores (N,) of class 1, or of q(k|x) (N, K) one against the rest.

    The mean over classes; with two classes that of the second. None where a class has no sample.
    """
    from sklearn.metrics import roc_auc_score

    classes = scores.shape[1] if scores.ndim == 2 else 2
    if len(y.unique()) < classes:
        return None
    of_class = scores[:, 1] if scores.ndim == classes == 2 else scores
    return float(roc_auc_score(y.numpy(), of_class.double().numpy(), multi_class="ovr"))


def negative_log_posterior(log_posterior: Tensor, y: Tensor) -> float:
    """Compute -mean log q(y|x), nats."""
    return float(torch.nn.functional.nll_loss(log_posterior.double(), y))


def bits_per_dim(log_prob: Tensor, dims: int) -> float:
    """Compute -mean log2 q(x) / d: log_prob (N,) in nats and in data units.

    For integer data with uniform noise of width 1 this bounds the bits that each dimension needs.
    """
    return float(-log_prob.double().mean() / (dims * log(2)))


def variance_ratio(z: Tensor, y: Tensor, means: Tensor, std: Tensor) -> float:
    """Compute the mean of (z_d - μ_yd)²/σ²_yd; 1 where the latents fill q(z|y).

    Latents (N, D), labels (N,), means and standard deviations (K, D) of the mixture. Near 0 the
    classes are peaks in the Gaussians that stand for them: Dhuliawala et al. 2023, Figure 1.
    """
    return float(((z - means[y]) / std[y]).double().square().mean())
