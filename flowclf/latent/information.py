"""What a Gaussian encoder's latents know of the data: Monte-Carlo estimates, in nats.

Latents z ~ q(z|x_i) = N(m_i, diag s_i²) have the aggregate q(z) = 1/N Σ_i q(z|x_i), and

    mean KL(q(z|x) ‖ p(z)) = MI + MD,   MI = E log q(z|x)/q(z),   MD = E log q(z)/p(z)

A softmax s(i|z) with mean cross-entropy SC gives log N - SC <= MI and KL + SC - log N >= MD,
equalities where s is the posterior q(i|z) = q(z|x_i)/(N q(z)).
"""

from __future__ import annotations

from math import log, pi

import torch
from torch import Tensor

from flowclf.latent.gaussian import GaussianMixture

__all__ = [
    "active_units",
    "aggregate",
    "aggregate_log_prob",
    "gaussian_log_prob",
    "identity_cross_entropy",
    "identity_log_posterior",
    "information",
    "minibatch_information",
]

# Latents times components at once.
NUMBERS = 4_000_000


def gaussian_log_prob(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log N(z; m, diag s²) = -½ Σ ((z - m)²/s² + log s² + log 2π): (…, D) to (…), nats."""
    square = (z - mean).square() * (-log_var).exp()
    return -0.5 * (square + log_var + log(2 * pi)).sum(-1)


@torch.no_grad()
def aggregate(mean: Tensor, log_var: Tensor) -> GaussianMixture:
    """q(z) = 1/N Σ_i N(z; m_i, diag s_i²) of (N, D) each: a mixture of N classes, frozen.

    In float64: narrow Gaussians far apart make numbers of 10⁶ that cancel.

    Raises:
        UserError: a mean that is not finite.
    """
    mixture = GaussianMixture(
        *mean.shape, covariance="per-class", means="frozen", start="normal"
    ).to(mean.device, torch.float64)
    mixture.set_means(mean)
    mixture.log_var.copy_(log_var)
    return mixture.requires_grad_(False)


def aggregate_log_prob(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log q(z) of z (B, D) for components (N, D): (B,), nats, float64; gradients reach z alone."""
    mixture = aggregate(mean, log_var)
    return torch.cat([mixture.log_prob(part) for part in z.split(max(1, NUMBERS // len(mean)))])


def identity_log_posterior(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log q(i|z) of all components, by Bayes' rule: (B, D), (N, D) twice to (B, N), float64.

    The reference for small N. It is a softmax layer on [z, z²].
    """
    return aggregate(mean, log_var).log_posterior(z)


def identity_cross_entropy(z: Tensor, index: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """-log q(index|z) = log N + log q(z) - log q(z|x_index): (B, D), (B,) to (B,), nats."""
    own = gaussian_log_prob(z.double(), mean[index].double(), log_var[index].double())
    return log(len(mean)) + aggregate_log_prob(z, mean, log_var) - own


def information(
    z: Tensor,
    z_mean: Tensor,
    z_log_var: Tensor,
    mean: Tensor,
    log_var: Tensor,
    prior_log_prob: Tensor,
) -> dict[str, float]:
    """Monte-Carlo MI and MD where S Gaussians stand for all that q(z) averages.

    Few or foreign components make q(z) too small, hence MI too large and MD too small; where each
    latent's own Gaussian is among the S, MI <= log S.

    Args:
        z: latents (B, D), drawn from their own Gaussians.
        z_mean, z_log_var: those Gaussians, (B, D).
        mean, log_var: of the components, (S, D).
        prior_log_prob: log p(z), (B,), nats.

    Returns:
        `mi_nats` mean log q(z|x) - log q(z), and `md_nats` mean log q(z) - log p(z).
    """
    own = gaussian_log_prob(z.double(), z_mean.double(), z_log_var.double())
    log_q = aggregate_log_prob(z, mean, log_var)
    return {
        "mi_nats": float((own - log_q).mean().detach()),
        "md_nats": float((log_q - prior_log_prob).mean().detach()),
    }


def minibatch_information(
    z: Tensor, mean: Tensor, log_var: Tensor, prior_log_prob: Tensor, batch: int
) -> dict[str, float]:
    """`information` where q(z) averages the Gaussians of the z's own batch; MI <= log batch.

    Args:
        z: latents (N, D), drawn from their own Gaussians.
        mean, log_var: those Gaussians, (N, D).
        prior_log_prob: log p(z), (N,), nats.
        batch: S; consecutive rows, the last batch may be smaller. Each latent counts once.
    """
    totals = {"mi_nats": 0.0, "md_nats": 0.0}
    split = (tensor.split(batch) for tensor in (z, mean, log_var, prior_log_prob))
    for part, means, log_vars, prior in zip(*split, strict=True):
        found = information(part, means, log_vars, means, log_vars, prior)
        totals = {name: total + found[name] * len(part) for name, total in totals.items()}
    return {name: total / len(z) for name, total in totals.items()}


def active_units(mean: Tensor, threshold: float = 0.01) -> int:
    """Dimensions whose posterior mean has a variance over x of at least `threshold`: (N, D).

    Burda et al., "Importance weighted autoencoders", ICLR 2016, Sec. 5.2.
    """
    return int((mean.var(0, correction=0) >= threshold).sum())
