"""Objectives: pure functions of what encoder and mixture returned; minimised; in nats.

A target row of zeros is a sample without a label: it counts in no decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from flowclf.support.collectives import all_reduce_count, all_reduce_mean
from flowclf.support.errors import UserError

__all__ = [
    "auxiliary_softmax_terms",
    "class_nll_loss",
    "decision_loss",
    "discriminator_loss",
    "free_bits",
    "gaussian_kl",
    "gaussian_kl_per_dim",
    "ib_inn_loss",
    "ib_weights",
    "smooth_labels",
    "trade_off",
    "variational_loss",
    "with_margin",
]


def smooth_labels(
    y: Tensor, classes: int, smoothing: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(1 - α) one-hot(y) + α/K: labels (B,) to targets (B, K); zeros for the label -1."""
    known = (y >= 0)[:, None]
    targets = one_hot(y.clamp_min(0), classes).to(dtype)
    return ((1 - smoothing) * targets + smoothing / classes) * known


def decision_loss(log_posterior: Tensor, targets: Tensor) -> Tensor:
    """-mean Σ_k t_k log q(k|z) over the labelled samples: (B, K), (B, K) to a 0-dim tensor."""
    return -(targets * log_posterior).sum() / all_reduce_count(targets.sum())


def ib_weights(beta: float) -> tuple[float, float]:
    """Weights of L_X/d and -L_Y in Eq. 14: 2/(1+β̃) and 2β̃/(1+β̃); (0, 2) at β̃ = ∞.

    Raises:
        UserError: β̃ < 0.
    """
    if not beta >= 0:
        raise UserError(f"expected beta >= 0, got {beta}")
    return (0.0, 2.0) if beta == inf else (2 / (1 + beta), 2 * beta / (1 + beta))


def trade_off(rate_per_dim: Tensor, decision: Tensor, beta: float) -> dict[str, Tensor]:
    """2/(1+β̃) · (rate + β̃ decision) and its two terms, all 0-dim, nats."""
    weight_rate, weight_decision = ib_weights(beta)
    total = weight_rate * rate_per_dim + weight_decision * decision
    return {"rate_per_dim": rate_per_dim, "decision": decision, "total": total}


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
    return trade_off(-log_prob.mean() / dims, decision_loss(log_posterior, targets), beta)


def class_nll_loss(log_prob_given_class: Tensor, log_prob: Tensor, y: Tensor) -> Tensor:
    """-mean log q(x|y), and -log q(x) where y is -1: (B, K), (B,), (B,) to a 0-dim tensor, nats."""
    labelled = log_prob_given_class.gather(1, y.clamp_min(0)[:, None])[:, 0]
    return -torch.where(y >= 0, labelled, log_prob).mean()


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(m, diag s²) ‖ N(0, I)) = ½ Σ (m² + s² - log s² - 1): (B, D), (B, D) to (B,), nats."""
    return gaussian_kl_per_dim(mean, log_var).sum(1)


def gaussian_kl_per_dim(mean: Tensor, log_var: Tensor) -> Tensor:
    """Each dimension's share of it, (B, D)."""
    return 0.5 * (mean.square() + log_var.exp() - log_var - 1)


def with_margin(
    log_posterior: Tensor, half_mahalanobis: Tensor, y: Tensor, margin: float
) -> Tensor:
    """log p(k|z) with the distance to the true class counted (1 + margin) times, (B, K).

    Wan et al., "Rethinking feature distribution for loss functions in image classification", CVPR
    2018, Eq. 11.
    """
    if not margin:
        return log_posterior
    own = one_hot(y, log_posterior.shape[1])
    return (log_posterior - margin * (own * half_mahalanobis)).log_softmax(1)


def variational_loss(
    decision: Tensor,
    log_prob_given_class: Tensor,
    ratio: Tensor | None,
    log_weights: Tensor,
    y: Tensor,
    weights: Mapping[str, float],
) -> dict[str, Tensor]:
    """Variational Classification (Dhuliawala et al. 2023), Eq. 9, with a weight for each term.

        total = w_ce · decision - w_prior_logprob · mean log p(z|y) + w_ratio · mean T_y(z)
                - w_class_prior · mean log p(y)

    With w_prior_logprob = w_ratio = λ it is w_ce · decision + λ · KL(q(z|y) ‖ p(z|y)) at the
    optimal T, up to routing (what is detached in the arguments): MLE with neither (CE), MAP with
    the prior alone (GM), Bayesian with both (VC).

    Args:
        decision: -log p(y|z), 0-dim.
        log_prob_given_class: log p(z|k), (B, K), nats.
        ratio: T_k(z), (B, K), or None.
        log_weights: log p(k), (K,).
        y: labels (B,).
        weights: of ce, prior_logprob, ratio and class_prior.

    Returns:
        `decision`, `prior_nats` -log p(z|y), `class_prior` -log p(y), with T `ratio`, and `total`.
    """
    own = y[:, None]
    terms = {
        "decision": decision,
        "prior_nats": -log_prob_given_class.gather(1, own).mean(),
        "class_prior": -log_weights[y].mean(),
    }
    total = (
        weights["ce"] * terms["decision"]
        + weights["prior_logprob"] * terms["prior_nats"]
        + weights["class_prior"] * terms["class_prior"]
    )
    if ratio is not None:
        terms["ratio"] = ratio.gather(1, own).mean()
        total = total + weights["ratio"] * terms["ratio"]
    return {**terms, "total": total}


def discriminator_loss(ratio_data: Tensor, ratio_prior: Tensor, y: Tensor) -> Tensor:
    """Logistic loss that tells latents of class y from draws of p(z|y): its optimum is T = log q/p.

        mean softplus(-T_y(z)) + mean softplus(T_y(z')),   z of the data, z' ~ p(z|y)

    Args:
        ratio_data, ratio_prior: T_k of both, (B, K).
        y: labels (B,) of both.
    """
    own = y[:, None]
    return softplus(-ratio_data.gather(1, own)).mean() + softplus(ratio_prior.gather(1, own)).mean()


def free_bits(kl_per_dim: Tensor, nats: float) -> Tensor:
    """Each dimension's KL, but at least `nats` on average over the batch: (B, D) to 0-dim, nats.

    Σ_d max(nats, mean_b KL_bd): below that a dimension costs nothing more to use (Kingma et al.,
    "Improved variational inference with inverse autoregressive flow", NeurIPS 2016, App. C.8).
    """
    return all_reduce_mean(kl_per_dim.mean(0)).clamp_min(nats).sum()


def auxiliary_softmax_terms(
    kl: Tensor, identity: Tensor, log_count: float, entropy: Tensor | None = None
) -> dict[str, Tensor]:
    """I(z; x) and KL(q(z) ‖ p(z)) by a sample-identity softmax s: VAE-AS's `mi_nats`, `md_nats`.

        MI = max(0, log N - SC),   MD = KL - MI,   SC = -mean log s(i|z_i)

    bounds below and above for any s, exact where s is q(i|z). Without the 0 an encoder whose
    information costs more than its divergence is paid, without end, for misleading s. The paper has
    MI = log N - mean H(s(·|z)) instead (`entropy`), which bounds nothing and whose gradient is not
    MI's, and MD = KL + SC - log N.

    Args:
        kl: mean KL(q(z|x) ‖ p(z)), 0-dim, nats.
        identity: SC, 0-dim, nats.
        log_count: log N, or the entropy of the codes that stand for the samples.
        entropy: mean H(s(·|z)), 0-dim; None: the bound.
    """
    if entropy is None:
        known = (log_count - identity).clamp_min(0)
        return {"mi_nats": known, "md_nats": kl - known}
    return {"mi_nats": log_count - entropy, "md_nats": kl + identity - log_count}
