"""Monte-Carlo estimates of the information in a Gaussian encoder's latents, in nats.

Latents z ~ q(z|x_i) = N(m_i, diag s_i²) have the aggregate q(z) = 1/N Σ_i q(z|x_i), and

    mean KL(q(z|x) ‖ p(z)) = MI + MD,   MI = E log q(z|x)/q(z),   MD = E log q(z)/p(z)

A softmax s(i|z) with mean cross-entropy SC gives log N - SC <= MI and KL + SC - log N >= MD,
equalities where s is the posterior q(i|z) = q(z|x_i)/(N q(z)).
"""

from math import log, pi

import torch
from torch import Tensor

from flowclf.latent.gaussian import GaussianMixture

__all__ = [
    "active_units",
    "aggregate",
    "aggregate_log_prob",
    "gaussian_log_prob",
    "information",
    "minibatch_information",
]

# Bound on latents times components evaluated at once.
NUMBERS = 4_000_000


def gaussian_log_prob(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Return log N(z; m, diag s²) = -½ Σ ((z - m)²/s² + log s² + log 2π): (…, D) to (…), nats."""
    square = (z - mean).square() * (-log_var).exp()
    return -0.5 * (square + log_var + log(2 * pi)).sum(-1)


@torch.no_grad()
def aggregate(mean: Tensor, log_var: Tensor) -> GaussianMixture:
    """Return q(z) = 1/N Σ_i N(z; m_i, diag s_i²) of (N, D) each as a frozen N-class mixture.

    In float64: terms of narrow Gaussians far apart reach 10⁶ and cancel.

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
    """Return log q(z) of z (B, D), N components (N, D): (B,), nats; gradients in z only."""
    mixture = aggregate(mean, log_var)
    return torch.cat([mixture.log_prob(part) for part in z.split(max(1, NUMBERS // len(mean)))])


def information(
    z: Tensor,
    z_mean: Tensor,
    z_log_var: Tensor,
    mean: Tensor,
    log_var: Tensor,
    prior_log_prob: Tensor,
) -> dict[str, float]:
    """Estimate MI and MD by Monte Carlo, with S Gaussians standing for the N of q(z).

    Components that are few or foreign underestimate q(z), which overestimates MI and underestimates
    MD; with each latent's own Gaussian among the S, MI <= log S.

    Args:
        z: latents (B, D), drawn from their own Gaussians.
        z_mean, z_log_var: those Gaussians, (B, D).
        mean, log_var: of the components, (S, D).
        prior_log_prob: log p(z), (B,), nats.

    Returns:
        `mi_nats`, the mean of log q(z|x) - log q(z), and `md_nats`, of log q(z) - log p(z).
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
    """Estimate `information` with the Gaussians of each latent's own batch; MI <= log batch.

    Latents z (N, D) are drawn from their own Gaussians `mean`, `log_var` (N, D), with log p(z)
    (N,). A batch is consecutive rows; the last may be smaller. Each latent counts once.
    """
    totals = {"mi_nats": 0.0, "md_nats": 0.0}
    split = (tensor.split(batch) for tensor in (z, mean, log_var, prior_log_prob))
    for part, means, log_vars, prior in zip(*split, strict=True):
        found = information(part, means, log_vars, means, log_vars, prior)
        totals = {name: total + found[name] * len(part) for name, total in totals.items()}
    return {name: total / len(z) for name, total in totals.items()}


def active_units(mean: Tensor, threshold: float = 0.01) -> int:
    """Count the dimensions of posterior means (N, D) with a variance of at least `threshold`.

    Burda et al., "Importance weighted autoencoders", ICLR 2016, Sec. 5.2.
    """
    return int((mean.var(0, correction=0) >= threshold).sum())
