"""Conformal prediction: sets of classes, and p-values, that hold for any model and finite samples.

Everything here is a function of scores: how strange a class is for a sample (nonconformity), higher
being stranger. If the calibration samples and a new one are exchangeable, then

    P(its class is in its set)  >=  coverage,      P(its p-value <= level)  <=  level

whatever the model is worth; a bad model pays with larger sets. Vovk, Gammerman and Shafer,
"Algorithmic learning in a random world", 2005.
"""

from collections.abc import Callable
from fractions import Fraction
from math import ceil, inf
from typing import Literal

import torch
from torch import Tensor

from flowclf.support.errors import UserError

__all__ = [
    "NONCONFORMITIES",
    "Nonconformity",
    "aps",
    "class_thresholds",
    "lac",
    "least_samples",
    "log_doubt",
    "p_values",
    "raps",
    "threshold",
]

Nonconformity = Literal["lac", "aps", "raps"]

# Of RAPS: what each class beyond the first few adds to the score, in probability.
PENALTY, FREE = 0.01, 5


def lac(log_posterior: Tensor, u: Tensor) -> Tensor:
    """Compute log(1 - q(k|x)), (N, K), without rounding to log 0; the smallest sets on average.

    Sets may be empty: of a sample that is less certain than all but a share 1 - coverage of the
    calibration samples. `u` is not used. Sadinle, Lei and Wasserman, "Least ambiguous set-valued
    classifiers with bounded error levels", JASA 2019.
    """
    log_posterior = log_posterior.double()
    rest = torch.log1p(-log_posterior.exp())  # exact where q(k|x) is at most a half
    likeliest = log_posterior.argmax(1, keepdim=True)
    return rest.scatter(1, likeliest, log_doubt(log_posterior)[:, None])


def log_doubt(log_posterior: Tensor) -> Tensor:
    """Compute log(1 - max_k q(k|x)), (N, K) to (N,), without rounding to log 0."""
    likeliest = log_posterior.argmax(1, keepdim=True)
    return log_posterior.scatter(1, likeliest, -inf).logsumexp(1)


def aps(log_posterior: Tensor, u: Tensor) -> Tensor:
    """Compute the probability of all classes likelier than k, and a share u of k's own: (N, K).

        s_k = Σ_{j: q(j|x) > q(k|x)} q(j|x) + u q(k|x),   u in [0, 1), (N,)

    Sets adapt to the sample: large where the posterior is broad. Romano, Sesia and Candès,
    "Classification with valid and adaptive coverage", NeurIPS 2020.
    """
    ordered, order, rank = _ordered(log_posterior)
    before = ordered.cumsum(1) - ordered + u[:, None].double() * ordered
    return before.gather(1, rank)


def raps(log_posterior: Tensor, u: Tensor, penalty: float = PENALTY, free: int = FREE) -> Tensor:
    """Compute `aps` + penalty · max(0, rank of k - free), (N, K): few unlikely classes.

    The rank counts from 1. Angelopoulos, Bates, Malik and Jordan, "Uncertainty sets for image
    classifiers using conformal prediction", ICLR 2021.
    """
    rank = _ordered(log_posterior)[2]
    return aps(log_posterior, u) + penalty * (rank + 1 - free).clamp_min(0)


NONCONFORMITIES: dict[Nonconformity, Callable[[Tensor, Tensor], Tensor]] = {
    "lac": lac,
    "aps": aps,
    "raps": raps,
}


def threshold(scores: Tensor, coverage: float) -> float:
    """Return the ⌈(n + 1) · coverage⌉-th smallest of the scores (n,): sets hold what is not above.

    Raises:
        UserError: fewer scores than the level needs.
    """
    n = len(scores)
    position = _position(n, coverage)
    if position > n:
        raise UserError(
            f"expected at least {least_samples(1 - coverage)} calibration samples for coverage "
            f"{coverage:g}, got {n}; give more, or ask for less coverage"
        )
    return float(scores.kthvalue(position).values)


def class_thresholds(scores: Tensor, y: Tensor, classes: int, coverage: float) -> Tensor:
    """Return the `threshold` of each class's own samples (K,): the coverage then holds in each.

    Vovk, "Conditional validity of inductive conformal predictors", 2012.

    Raises:
        UserError: a class with fewer samples than the level needs.
    """
    counts = y.bincount(minlength=classes)
    least = least_samples(1 - coverage)
    if int(counts.min()) < least:
        k = int(counts.argmin())
        raise UserError(
            f"expected at least {least} calibration samples of each class for coverage "
            f"{coverage:g} in each, got {int(counts[k])} of class {k}; give more, ask for less "
            "coverage, or for coverage over all classes (per_class=False)"
        )
    found = [threshold(scores[y == k], coverage) for k in range(classes)]
    return torch.tensor(found, dtype=torch.float64)


def p_values(calibration: Tensor, scores: Tensor) -> Tensor:
    """Compute (1 + number of calibration scores that are not below) / (n + 1): (n,), (N,) to (N,).

    Small for what is more outlying than the calibration samples. For a sample like them it is at
    most α with a probability of at most α, whatever α is.
    """
    ordered = calibration.double().sort().values
    below = torch.searchsorted(ordered, scores.double().contiguous())
    return (1 + len(ordered) - below).double() / (1 + len(ordered))


def least_samples(level: float) -> int:
    """Return the smallest n with 1 / (n + 1) <= level."""
    return ceil(1 / _exact(level)) - 1


def _position(n: int, coverage: float) -> int:
    return ceil((n + 1) * _exact(coverage))


def _exact(level: float) -> Fraction:
    """Return the decimal fraction that the user wrote: 0.95 · 20 is 19, not a little more."""
    return Fraction(level).limit_denominator(10**9)


def _ordered(log_posterior: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return probabilities from the largest, their classes, and the rank of each class from 0."""
    ordered, order = log_posterior.double().exp().sort(dim=1, descending=True, stable=True)
    return ordered, order, order.argsort(1)
