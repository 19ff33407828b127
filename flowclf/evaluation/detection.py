"""Detection of out-of-distribution samples by a score: measures of two vectors of scores.

Scores have no unit and no bounds here: higher means more outlying, and only their order counts.
Infinite scores are ranked first and last; NaN is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for

__all__ = [
    "Estimate",
    "auroc",
    "aupr",
    "checked_scores",
    "fpr_at_95",
    "roc_points",
    "two_tailed_auroc",
    "typicality",
]


DRAWS = 500
RATE = 0.95
# Half the width of a 95 % interval, in standard errors.
Z = 1.959964


@dataclass(frozen=True)
class Estimate:
    """Estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def auroc(inside: Tensor, outside: Tensor) -> Estimate:
    """Compute P(outside > inside) + ½ P(outside = inside) with DeLong's interval: (N,), (M,).

        variance = var_M(share of inside below) / M + var_N(share of outside above) / N

    The interval is normal, cut at 0 and 1, and has no width where the two are fully apart.

    DeLong, DeLong, Clarke-Pearson, "Comparing the areas under two or more correlated receiver
    operating characteristic curves", Biometrics 1988.

    Raises:
        UserError: no scores, or NaN.
    """
    inside, outside = checked_scores(inside, outside)
    below = _share_below(inside, outside)
    above = 1 - _share_below(outside, inside)
    value = float(below.mean())
    half = Z * sqrt(_variance_of_mean(below) + _variance_of_mean(above))
    return Estimate(value, max(0.0, value - half), min(1.0, value + half))


def aupr(inside: Tensor, outside: Tensor, draws: int = DRAWS) -> Estimate:
    """Compute average precision Σ_t (recall_t - recall_t-1) precision_t: (N,), (M,).

    "AUPR-Out", with `outside` as the positive class: Liang et al., ICLR 2018. Pure chance has the
    positives' share. The interval is that of the bootstrap, each set drawn by itself.

    Args:
        inside, outside: scores.
        draws: of the bootstrap, always the same.

    Raises:
        UserError: no scores, or NaN.
    """
    ranks = _ranks(*checked_scores(inside, outside))
    return _bootstrapped(_average_precision, *ranks, draws)


def fpr_at_95(inside: Tensor, outside: Tensor, draws: int = DRAWS) -> Estimate:
    """Compute the false positive rate at the strictest threshold that 95 % of `outside` reach.

    Hendrycks et al., ICLR 2019. Liang et al., ICLR 2018, and Liu et al., NeurIPS 2020, have
    `inside` as the positive class: that rate is another one.

    Args, errors: as of `aupr`.
    """
    ranks = _ranks(*checked_scores(inside, outside))
    return _bootstrapped(_false_positive_rate, *ranks, draws)


def two_tailed_auroc(inside: Tensor, outside: Tensor, draws: int = DRAWS) -> Estimate:
    """Compute the AUROC of "below q_i or above q_1-i", quantiles of the inside scores.

    97 i: 32 from 0, 32 from 0.1, 33 from 0.9 to 1; of the pairs that cross, all is beyond. It finds
    outliers on both sides, and is 0.5 where the two sets are alike. Quantiles are values of the
    sample (the lower of q_i, the upper of q_1-i). The code of IB-INN (Ardizzone et al. 2020).

    Args, errors: as of `aupr`.
    """
    inside, outside = checked_scores(inside, outside)
    return _bootstrapped(_two_tailed_area, inside, outside, draws)


def typicality(scores: Tensor, centre: float | Tensor) -> Tensor:
    """Compute |S - centre|, (N,): both too high and too low are outlying.

    The centre is the mean score of the training data (IB-INN's authors take that of the test data,
    which is to be judged). Nalisnick et al., "Detecting out-of-distribution inputs to deep
    generative models using typicality", 2019, for single samples.
    """
    return (scores.double() - centre).abs()


def roc_points(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """Return false and true positive rates (T,) of every threshold from (0, 0) to (1, 1).

    Raises:
        UserError: no scores, or NaN.
    """
    false, true = _counts(*_ranks(*checked_scores(inside, outside)))
    start = false.new_zeros(1)
    return torch.cat((start, false / false[-1])), torch.cat((start, true / true[-1]))


def checked_scores(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """Return both vectors (N,), (M,) in float64 on the CPU.

    Raises:
        UserError: no scores, or NaN.
    """
    for name, scores in (("inside", inside), ("outside", outside)):
        if scores.ndim != 1 or not len(scores):
            raise UserError(
                f"expected a vector of {name} scores, got shape {tuple(scores.shape)}; "
                "give one score a sample, and at least one sample"
            )
        if bool(scores.isnan().any()):
            raise UserError(
                f"expected {name} scores that can be ranked, got {int(scores.isnan().sum())} NaN "
                f"of {len(scores)}; a density that overflows is often the cause: train longer, or "
                "leave these samples out"
            )
    return inside.detach().cpu().double(), outside.detach().cpu().double()


def _ranks(negative: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Rank both from 0, the highest score; equal scores share a rank."""
    pooled = -torch.cat((negative, positive))
    negatives, positives = pooled.unique(return_inverse=True)[1].split(
        [len(negative), len(positive)]
    )
    return negatives, positives


def _counts(negative: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Count negatives and positives of at most each rank: (R,), float64."""
    ranks = 1 + int(torch.maximum(negative.max(), positive.max()))
    false, true = (each.bincount(minlength=ranks).cumsum(0) for each in (negative, positive))
    return false.double(), true.double()


def _average_precision(negative: Tensor, positive: Tensor) -> float:
    false, true = _counts(negative, positive)
    gained = true.diff(prepend=true.new_zeros(1))
    # A bootstrap leaves ranks empty; before the first that is not, 0/0.
    precision = true / (true + false).clamp_min(1)
    return float((gained * precision).sum() / len(positive))


def _false_positive_rate(negative: Tensor, positive: Tensor) -> float:
    false, true = _counts(negative, positive)
    strictest = int((true / len(positive) >= RATE).long().argmax())
    return float(false[strictest] / len(negative))


def _two_tailed_area(inside: Tensor, outside: Tensor) -> float:
    ordered, low = inside.sort().values, _quantile_grid()
    place = low * (len(inside) - 1)
    bottom, top = ordered[place.floor().long()], ordered[place.flip(0).ceil().long()]
    rates = [_share_beyond(scores, bottom, top) for scores in (inside, outside)]
    ends = low.new_tensor([0.0, 1.0])
    x, y = (torch.cat((ends[:1], rate, ends[1:])) for rate in rates)
    return float(torch.trapezoid(y, x))


def _quantile_grid() -> Tensor:
    """Return 97 numbers from 0 to 1, symmetric about ½, dense at both ends."""
    end = torch.arange(32, dtype=torch.float64) * (0.1 / 32)
    middle = 0.1 + torch.arange(32, dtype=torch.float64) * (0.8 / 32)
    return torch.cat((end, middle, torch.linspace(0.9, 1, 33, dtype=torch.float64)))


def _share_beyond(scores: Tensor, bottom: Tensor, top: Tensor) -> Tensor:
    """Return shares (T,) of the scores below `bottom` or above `top`, each (T,)."""
    ordered = scores.sort().values
    below = torch.searchsorted(ordered, bottom)
    above = len(ordered) - torch.searchsorted(ordered, top, right=True)
    # Where the pair crosses some scores are both.
    return torch.where(bottom <= top, (below + above).double() / len(ordered), 1.0)


def _share_below(reference: Tensor, scores: Tensor) -> Tensor:
    """Return the share of the reference below each score, ties counting half: (M,)."""
    ordered = reference.sort().values
    below = torch.searchsorted(ordered, scores)
    not_above = torch.searchsorted(ordered, scores, right=True)
    return (below + not_above).double() / (2 * len(ordered))


def _variance_of_mean(values: Tensor) -> float:
    return float(values.var(correction=0)) / max(1, len(values) - 1)


def _bootstrapped(
    statistic: Callable[[Tensor, Tensor], float], first: Tensor, second: Tensor, draws: int
) -> Estimate:
    """Compute the statistic, and the middle 95 % of its values on resampled sets."""
    generator = generator_for(0, "bootstrap")

    def redrawn(values: Tensor) -> Tensor:
        return values[torch.randint(len(values), (len(values),), generator=generator)]

    drawn = [statistic(redrawn(first), redrawn(second)) for _ in range(draws)]
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.tensor(drawn, dtype=torch.float64).quantile(ends).tolist()
    return Estimate(statistic(first, second), low, high)
