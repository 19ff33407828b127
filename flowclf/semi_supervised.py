"""Bounds and discriminative terms of M2 and Untapped: pure functions of log-densities, in nats.

Forward: Kingma, Rezende, Mohamed, Welling, "Semi-supervised learning with deep generative models",
NeurIPS 2014, Eqs. 6 and 7. Reverse: Gemp, Parente, Mahadevan, "Inverting VAEs for improved
generative accuracy", 2017, Eqs. 5 and 17. The prior of labels is uniform: on the K classes, and on
the simplex where y is relaxed.
"""

from __future__ import annotations

from math import lgamma, log

from torch import Tensor

__all__ = [
    "clipped_cross_entropy",
    "image_distance",
    "labelled_bound",
    "marginal_bound",
    "mean_of",
    "relaxed_bound",
    "reverse_bound",
    "semi_supervised_loss",
]

CLIP = 1e-6


def labelled_bound(log_x: Tensor, log_prior: Tensor, log_q_z: Tensor, classes: int) -> Tensor:
    """log p(x|y,z) + log p(z) - log q(z|x,y) - log K, (B,): on average below log p(x, y)."""
    return log_x + log_prior - log_q_z - log(classes)


def relaxed_bound(
    log_x: Tensor, log_prior: Tensor, log_q_z: Tensor, log_q_y: Tensor, classes: int
) -> Tensor:
    """log p(x|y,z) + log p(z) - log q(z|x,y) + log Γ(K) - log q(y|x), (B,), y on the simplex.

    On average below log p(x) of the model whose labels are uniform on the simplex.
    """
    return log_x + log_prior - log_q_z + lgamma(classes) - log_q_y


def marginal_bound(labelled: Tensor, log_posterior: Tensor) -> Tensor:
    """Σ_k q(k|x) (bound of log p(x, k) - log q(k|x)): (B, K), (B, K) to (B,), below log p(x)."""
    return (log_posterior.exp() * (labelled - log_posterior)).sum(1)


def reverse_bound(
    log_q_y: Tensor, log_q_z: Tensor | None, log_x: Tensor, log_base: float
) -> Tensor:
    """log q(y|x') + log q(z|x',y) - log p(x'|y,z) + log q(x'), x' ~ p(x|y,z), (B,).

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
    """-log max(y_sample[y], 1e-6), (B, K), (B,) to (B,); 0 without a label."""
    own = y_sample.gather(1, y.clamp_min(0)[:, None])[:, 0]
    return -own.clamp_min(CLIP).log() * (y >= 0)


def image_distance(x: Tensor, decoded: Tensor) -> Tensor:
    """‖x - decoded‖, the root of the summed squares, (B, *shape) twice to (B,)."""
    return (x - decoded).flatten(1).norm(dim=1)


def mean_of(values: Tensor, rows: Tensor) -> Tensor:
    """Mean of the values (B,) in the rows (B,) bool; 0 where there is none."""
    return values.where(rows, 0.0).sum() / rows.sum().clamp_min(1)


def semi_supervised_loss(
    labelled: Tensor,
    unlabelled: Tensor,
    decision: Tensor,
    reverse: Tensor,
    distance: Tensor,
    weights: dict[str, float],
) -> dict[str, Tensor]:
    """Terms to be minimised, and their weighted `total`; all 0-dim.

        total = w_labelled · labelled + w_unlabelled · unlabelled + w_ce · decision
                + w_reverse · reverse + w_l2 · distance

    Args:
        labelled, unlabelled, reverse: minus the mean bounds, nats.
        decision: cross-entropy of the labels, nats.
        distance: of images, in units of their range.
        weights: `labelled`, `unlabelled`, `ce`, `reverse`, `l2`.
    """
    terms = {
        "labelled_nats": labelled,
        "unlabelled_nats": unlabelled,
        "decision": decision,
        "reverse_nats": reverse,
        "distance": distance,
    }
    names = ("labelled", "unlabelled", "ce", "reverse", "l2")
    parts = [weights[name] * term for name, term in zip(names, terms.values(), strict=True)]
    return {**terms, "total": sum(parts[1:], parts[0])}
