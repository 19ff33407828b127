"""Objectives: pure functions of log-densities, in nats, to be minimised.

The bounds of M2 and Untapped are forward those of Kingma, Rezende, Mohamed, Welling,
"Semi-supervised learning with deep generative models", NeurIPS 2014, Eqs. 6 and 7; reverse those of
Gemp, Parente, Mahadevan, "Inverting VAEs for improved generative accuracy", 2017, Eqs. 5 and 17.
Their prior of labels is uniform: on the K classes, and on the simplex where y is relaxed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, lgamma, log

import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from flowclf.support.collectives import all_reduce_count, all_reduce_mean
from flowclf.support.errors import UserError

__all__ = [
    "Batch",
    "auxiliary_softmax_terms",
    "class_nll_loss",
    "clipped_cross_entropy",
    "consistency_loss",
    "cross_entropy",
    "discriminator_loss",
    "free_bits",
    "gaussian_kl",
    "gaussian_kl_per_dim",
    "ib_weights",
    "labelled_bound",
    "marginal_bound",
    "mean_of",
    "pseudo_label_loss",
    "relaxed_bound",
    "reverse_bound",
    "trade_off",
    "variational_loss",
    "with_margin",
]

CLIP = 1e-6


@dataclass(frozen=True)
class Batch:
    """Input of a loss."""

    x: Tensor  # samples (B, *shape), floating, in data units
    y: Tensor  # labels (B,), -1 where there is none
    # the samples' numbers in the training set (B,), where they are known
    index: Tensor | None = None
    generator: torch.Generator | None = None  # source of random draws
    # another view of each sample without a label (U, *shape), by which it is guessed
    view: Tensor | None = None


def cross_entropy(
    log_posterior: Tensor, y: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Compute -mean Σ_k t_k log q(k|z) over the labelled samples: (B, K), (B,) to 0-dim, nats.

    The targets are t = (1 - α) one-hot(y) + α/K; samples with the label -1 count nothing.

    Args:
        log_posterior: log q(k|z).
        y: labels.
        smoothing: α.
        weights: of the samples (B,); None: 1.
    """
    classes = log_posterior.shape[1]
    targets = one_hot(y.clamp_min(0), classes).to(log_posterior.dtype)
    targets = ((1 - smoothing) * targets + smoothing / classes) * (y >= 0)[:, None]
    if weights is not None:
        targets = targets * weights[:, None]
    return -(targets * log_posterior).sum() / all_reduce_count(targets.sum())


def ib_weights(beta: float) -> tuple[float, float]:
    """Return the weights of L_X/d and -L_Y in Eq. 14: 2/(1+β̃) and 2β̃/(1+β̃); (0, 2) at β̃ = ∞.

    Raises:
        UserError: β̃ < 0.
    """
    if not beta >= 0:
        raise UserError(f"expected beta >= 0, got {beta}")
    return (0.0, 2.0) if beta == inf else (2 / (1 + beta), 2 * beta / (1 + beta))


def trade_off(rate_per_dim: Tensor, decision: Tensor, beta: float) -> dict[str, Tensor]:
    """Compute IB-INN's rebalanced loss (Ardizzone et al. 2020, Eq. 14) and its terms, 0-dim, nats.

        L_X = -mean log q(x),   L_Y = mean Σ_k t_k log q(k|z)
        total = 2/(1+β̃) · (L_X/d - β̃ L_Y)

    Args:
        rate_per_dim: L_X/d of the noisy x, or another rate per dimension of x.
        decision: -L_Y, the cross-entropy.
        beta: β̃ = β/d.
    """
    weight_rate, weight_decision = ib_weights(beta)
    total = weight_rate * rate_per_dim + weight_decision * decision
    return {"rate_per_dim": rate_per_dim, "decision": decision, "total": total}


def class_nll_loss(log_prob_given_class: Tensor, log_prob: Tensor, y: Tensor) -> Tensor:
    """Compute -mean log q(x|y), of -log q(x) where y is -1: (B, K), (B,), (B,) to 0-dim, nats."""
    labelled = log_prob_given_class.gather(1, y.clamp_min(0)[:, None])[:, 0]
    return -torch.where(y >= 0, labelled, log_prob).mean()


def pseudo_label_loss(guess: Tensor, log_posterior: Tensor, threshold: float) -> Tensor:
    """Compute -mean [q'(ŷ) >= τ] log q(ŷ|z) with ŷ = argmax q': (U, K) twice to 0-dim, nats.

    The mean is over all samples without a label, sure or not: the term grows with the share of the
    guesses that are. Sohn et al., "FixMatch: simplifying semi-supervised learning with consistency
    and confidence", NeurIPS 2020, Eq. 4.

    Args:
        guess: log q'(k) of another view of each sample, which gets no gradient.
        log_posterior: log q(k|z).
        threshold: τ, the least probability that makes a guess a label.
    """
    confidence, y = guess.detach().exp().max(1)
    own = log_posterior.gather(1, y[:, None])[:, 0]
    return -own.where(confidence >= threshold, 0.0).mean()


def consistency_loss(guess: Tensor, log_prob_given_class: Tensor) -> Tensor:
    """Compute -mean log q(x|ŷ) with ŷ = argmax q': (U, K) twice to 0-dim, nats.

    As log q(x|y) = log q(x) + log q(y|x) - log q(y), it is the likelihood once more, with a
    cross-entropy of every guess, sure or not, that weighs as much as one dimension of x. Izmailov,
    Kirichenko, Finzi, Wilson, "Semi-supervised learning with normalizing flows", ICML 2020 (the
    consistency term of FlowGMM).

    Args:
        guess: log q'(k) of another view of each sample, which gets no gradient.
        log_prob_given_class: log q(x|k).
    """
    return class_nll_loss(log_prob_given_class, log_prob_given_class[:, 0], guess.argmax(1))


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """Compute KL(N(m, diag s²) ‖ N(0, I)) = ½ Σ (m² + s² - log s² - 1), (B, D) to (B,), nats."""
    return gaussian_kl_per_dim(mean, log_var).sum(1)


def gaussian_kl_per_dim(mean: Tensor, log_var: Tensor) -> Tensor:
    """Compute each dimension's share of `gaussian_kl`, (B, D)."""
    return 0.5 * (mean.square() + log_var.exp() - log_var - 1)


def with_margin(
    log_posterior: Tensor, half_mahalanobis: Tensor, y: Tensor, margin: float
) -> Tensor:
    """Compute log p(k|z) with the distance to the true class counted (1 + margin) times, (B, K).

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
    """Compute variational classification (Dhuliawala et al. 2023, Eq. 9), each term weighted.

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
    """Compute the logistic loss of latents of class y against draws of p(z|y); optimum: log q/p.

        mean softplus(-T_y(z)) + mean softplus(T_y(z')),   z of the data, z' ~ p(z|y)

    Args:
        ratio_data, ratio_prior: T_k of both, (B, K).
        y: labels (B,) of both.
    """
    own = y[:, None]
    return softplus(-ratio_data.gather(1, own)).mean() + softplus(ratio_prior.gather(1, own)).mean()


def free_bits(kl_per_dim: Tensor, nats: float) -> Tensor:
    """Sum each dimension's mean KL over the batch, or `nats` if that is more: (B, D) to 0-dim.

    Σ_d max(nats, mean_b KL_bd): below `nats` a dimension costs nothing to use (Kingma et al.,
    "Improved variational inference with inverse autoregressive flow", NeurIPS 2016, App. C.8).
    """
    return all_reduce_mean(kl_per_dim.mean(0)).clamp_min(nats).sum()


def auxiliary_softmax_terms(
    kl: Tensor, identity: Tensor, log_count: float, entropy: Tensor | None = None
) -> dict[str, Tensor]:
    """Bound I(z; x) and KL(q(z) ‖ p(z)) by a sample-identity softmax s: `mi_nats`, `md_nats`.

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


def labelled_bound(log_x: Tensor, log_prior: Tensor, log_q_z: Tensor, classes: int) -> Tensor:
    """Compute log p(x|y,z) + log p(z) - log q(z|x,y) - log K, (B,): on average < log p(x, y)."""
    return log_x + log_prior - log_q_z - log(classes)


def relaxed_bound(
    log_x: Tensor, log_prior: Tensor, log_q_z: Tensor, log_q_y: Tensor, classes: int
) -> Tensor:
    """Bound log p(x) by a relaxed label, (B,), y on the simplex.

        log p(x|y,z) + log p(z) - log q(z|x,y) + log Γ(K) - log q(y|x)

    On average below log p(x) of the model whose labels are uniform on the simplex.
    """
    return log_x + log_prior - log_q_z + lgamma(classes) - log_q_y


def marginal_bound(labelled: Tensor, log_posterior: Tensor) -> Tensor:
    """Sum q(k|x) (bound of log p(x, k) - log q(k|x)) over k: (B, K) to (B,), below log p(x)."""
    return (log_posterior.exp() * (labelled - log_posterior)).sum(1)


def reverse_bound(
    log_q_y: Tensor, log_q_z: Tensor | None, log_x: Tensor, log_base: float
) -> Tensor:
    """Bound log q(y, z) by x' ~ p(x|y,z), (B,).

        log q(y|x') + log q(z|x',y) - log p(x'|y,z) + log q(x')

    On average below log q(y, z); without the z part (None), as in the authors' released code, it
    bounds nothing.

    Args:
        log_q_y: (B,) of the given y.
        log_q_z: (B,) of the given z, or None.
        log_x: log p(x'|y,z), (B,).
        log_base: log q(x') of a uniform q(x).
    """
    known = log_q_y if log_q_z is None else log_q_y + log_q_z
    return known - log_x + log_base


def clipped_cross_entropy(y_sample: Tensor, y: Tensor) -> Tensor:
    """Compute -log max(y_sample[y], 1e-6), (B, K), (B,) to (B,); 0 without a label."""
    own = y_sample.gather(1, y.clamp_min(0)[:, None])[:, 0]
    return -own.clamp_min(CLIP).log() * (y >= 0)


def mean_of(values: Tensor, rows: Tensor) -> Tensor:
    """Average the values (B,) in the rows (B,) bool; 0 without such rows."""
    return values.where(rows, 0.0).sum() / rows.sum().clamp_min(1)
