"""Objectives: pure functions of what encoder and mixture returned; minimised; in nats."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from flowclf.errors import UserError

__all__ = ["class_nll_loss", "ib_weights", "ib_inn_loss", "smooth_labels"]


def smooth_labels(y: Tensor, classes: int, smoothing: float) -> Tensor:
    """(1 - α) one-hot(y) + α/K: labels (B,) to targets (B, K)."""
    one_hot = torch.nn.functional.one_hot(y, classes).to(torch.get_default_dtype())
    return (1 - smoothing) * one_hot + smoothing / classes


def ib_weights(beta: float) -> tuple[float, float]:
    """Weights of L_X/d and -L_Y in Eq. 14: 2/(1+β̃) and 2β̃/(1+β̃); (0, 2) at β̃ = ∞.

    Raises:
        UserError: β̃ < 0.
    """
    if not beta >= 0:
        raise UserError(f"expected beta >= 0, got {beta}")
    return (0.0, 2.0) if beta == inf else (2 / (1 + beta), 2 * beta / (1 + beta))


def ib_inn_loss(
    log_prob: Tensor, log_posterior: Tensor, targets: Tensor, dims: int, beta: float
) -> dict[str, Tensor]:
    """IB-INN's rebalanced loss (Ardizzone et al. 2020, Eq. 14).

        L_X = -mean log q(x),   L_Y = mean Σ_k t_k log q(k|z)
        total = 2/(1+β̃) · (L_X/d - β̃ L_Y)

    Args:
        log_prob: log q(x) of the noisy x, (B,), nats.
        log_posterior: log q(k|z), (B, K).
        targets: t, (B, K), one-hot or smoothed.
        dims: d, the dimensions of x.
        beta: β̃ = β/d.

    Returns:
        `rate_per_dim` L_X/d and `decision` -L_Y, both in nats, and their weighted `total`.
    """
    weight_rate, weight_decision = ib_weights(beta)
    rate = -log_prob.mean() / dims
    decision = -(targets * log_posterior).sum(1).mean()
    total = weight_rate * rate + weight_decision * decision
    return {"rate_per_dim": rate, "decision": decision, "total": total}


def class_nll_loss(log_prob_given_class: Tensor, y: Tensor) -> Tensor:
    """-mean log q(x|y): log-likelihoods (B, K) and labels (B,) to a 0-dim tensor, nats."""
    return -log_prob_given_class.gather(1, y[:, None]).mean()
