"""Calibration: pure functions of log-posteriors (N, K) and labels (N,)."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from flowclf.support.errors import UserError

__all__ = [
    "Reliability",
    "bootstrap_interval",
    "brier_score",
    "check_samples",
    "classwise_calibration_error",
    "expected_calibration_error",
    "overconfidence",
    "paper_calibration",
    "reliability",
    "wilson_interval",
]

# IB-INN's bins: edges in 0-5 % and in 95-100 %, edges in between with both ends.
PAPER_EDGES = {"published": (5, 10), "draft": (16, 22)}
PAPER_LEAST_COUNT = 20
PAPER_THRESHOLD = 0.003
PAPER_LAST_EDGE = 0.99667


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy of a predictor, bin by bin; float64, NaN where a bin is empty."""

    confidence: Tensor  # mean predicted probability in each bin (B,)
    accuracy: Tensor  # share of correct predictions in each bin (B,)
    count: Tensor  # samples (B,), integers
    # (B + 1,); bin b holds those in (edges[b], edges[b + 1]], the first also its left end
    edges: Tensor

    @property
    def gap(self) -> Tensor:
        """|accuracy - confidence| (B,), 0 in empty bins."""
        return (self.accuracy - self.confidence).abs().nan_to_num()

    @property
    def expected_error(self) -> float:
        """Σ_b n_b/N |accuracy_b - confidence_b|: with equal-width bins the ECE of Guo et al."""
        return float((self.count * self.gap).sum() / self.count.sum())

    @property
    def maximum_error(self) -> float:
        """max_b |accuracy_b - confidence_b|, often the emptiest bin's: Guo et al. 2017, Eq. 5."""
        return float(self.gap.max())


def reliability(
    log_posterior: Tensor, y: Tensor, bins: int = 15, equal_mass: bool = False
) -> Reliability:
    """Bin the top-1 confidence and compare it with the accuracy.

    Args:
        log_posterior: log q(k|x), (N, K).
        y: labels (N,).
        bins: how many.
        equal_mass: bins between quantiles of the confidence, instead of equal-width ones in [0, 1].
            Equal confidences always share a bin, so that ties make bins unequal or empty.

    Raises:
        UserError: no samples, another number of labels than of samples, or no bins.
    """
    confidence, hit = _top(log_posterior, y)
    return _reliability(confidence, hit, _edges(confidence, bins, equal_mass))


def expected_calibration_error(
    log_posterior: Tensor, y: Tensor, bins: int = 15, equal_mass: bool = False
) -> float:
    """Compute Σ_b n_b/N |accuracy_b - confidence_b| over top-1 bins, those of `reliability`.

    Equal widths: Guo et al., "On calibration of modern neural networks", ICML 2017, Eq. 3. Equal
    masses, "AdaECE": Mukhoti et al. 2020 after Nguyen & O'Connor 2015, who have the root of the
    mean square.
    """
    if equal_mass:
        return reliability(log_posterior, y, bins, equal_mass).expected_error
    # Sums instead of means: equal up to rounding, and the rounding of recorded results.
    confidence, hit = _top(log_posterior, y)
    excess = _bin(confidence, _edges(confidence, bins, equal_mass)).bincount(hit - confidence, bins)
    return float(excess.abs().sum() / len(y))


def classwise_calibration_error(log_posterior: Tensor, y: Tensor, bins: int = 15) -> float:
    """Compute 1/K Σ_k Σ_b n_kb/N |share of class k - mean q(k|x)|, over equal-width bins.

    Kull et al., "Beyond temperature scaling", NeurIPS 2019, Definition of classwise-ECE.
    """
    p, o = _each_class(log_posterior, y)
    edges = _edges(p, bins, equal_mass=False)
    classes = zip(p.unbind(1), o.unbind(1), strict=True)
    errors = [_reliability(*each, edges).expected_error for each in classes]
    return sum(errors) / len(errors)


def brier_score(log_posterior: Tensor, y: Tensor) -> float:
    """Compute mean_n Σ_k (q(k|x_n) - [k = y_n])², in [0, 2]: Brier 1950."""
    p, o = _each_class(log_posterior, y)
    return float((p - o).square().sum(1).mean())


def overconfidence(log_posterior: Tensor, y: Tensor) -> float:
    """Compute mean top-1 confidence - accuracy, positive for an overconfident predictor."""
    confidence, hit = _top(log_posterior, y)
    return float((confidence - hit).mean())


def paper_calibration(
    log_posterior: Tensor, y: Tensor, version: str = "published"
) -> dict[str, float | None]:
    """Compute the numbers of IB-INN's tables (Ardizzone et al. 2020) as their code does.

    All N·K probabilities are pooled, in 17 bins ("published") or 51 ("draft") that are finer below
    5 % and above 95 %; those of at most 20 entries are left out. A bin's share of true classes q is
    compared with its centre p, not with the mean probability: even a calibrated predictor has an
    `ece_percent` of about 0.5 (published), so that none of these compare with other papers'.

    Args:
        log_posterior: log q(k|x) under a uniform prior, (N, K).
        y: labels (N,).
        version: "published" or "draft".

    Returns:
        `ece_percent` Σ n_b |q - p| / Σ n_b, `mce_percent` max |q - p| and `ice_percent`, the
        integral of |q - p| over p by the trapezoid rule; `ovc`, expected at most 1 of a calibrated
        predictor: published, the share of wrong samples among those of a confidence above 99.7 %,
        over 0.3 % (None where no sample is), draft, 1 - mean q of the last two bins, over 0.333 %;
        and `geometric_mean`: of the first three, draft, of ece, mce and max(1, ovc).

    Raises:
        UserError: an unknown version, or too few samples to fill any bin.
    """
    if version not in PAPER_EDGES:
        raise UserError(f"expected version {' or '.join(PAPER_EDGES)}, got {version!r}")
    p, o = _each_class(log_posterior, y)
    binned = _reliability(p.flatten(), o.flatten(), _paper_edges(*PAPER_EDGES[version]))
    kept = binned.count > PAPER_LEAST_COUNT
    if not kept.any():
        raise UserError(
            f"expected a bin of more than {PAPER_LEAST_COUNT} probabilities, got {p.numel()} in all"
        )
    centres, share = ((binned.edges[1:] + binned.edges[:-1]) / 2)[kept], binned.accuracy[kept]
    count, gap = binned.count[kept], 100 * (share - centres).abs()
    ece, mce = float((count * gap).sum() / count.sum()), float(gap.max())
    ice = float(torch.trapezoid(gap, centres))
    if version == "draft":
        ovc: float | None = float(1 - share[-2:].mean()) / (1 - PAPER_LAST_EDGE)
        third = max(1.0, ovc or 0.0)
    else:
        confidence, hit = _top(log_posterior, y)
        wrong = 1 - hit[confidence > 1 - PAPER_THRESHOLD]
        ovc, third = float(wrong.mean()) / PAPER_THRESHOLD if len(wrong) else None, ice
    errors = {"ece_percent": ece, "mce_percent": mce, "ice_percent": ice, "ovc": ovc}
    return errors | {"geometric_mean": (ece * mce * third) ** (1 / 3)}


def bootstrap_interval(
    metric: Callable[[Tensor, Tensor], float],
    log_posterior: Tensor,
    y: Tensor,
    generator: torch.Generator,
    draws: int = 200,
    level: float = 0.95,
) -> tuple[float, float]:
    """Bootstrap a percentile interval of any metric(log_posterior, y): Efron & Tibshirani 1993.

    A binned calibration error grows by resampling noise: its interval lies too high, and may leave
    out the value of the samples themselves.

    Args:
        metric: of (N, K) and (N,).
        log_posterior: (N, K).
        y: labels (N,).
        generator: what draws the samples, on their device.
        draws: bootstrap samples of N each.
        level: share of draws within, half of the others on either side.
    """
    check_samples(log_posterior, y)
    _check_level(level)
    if draws < 1:
        raise UserError(f"expected draws >= 1, got {draws}")
    values = []
    for _ in range(draws):
        drawn = torch.randint(len(y), y.shape, generator=generator, device=y.device)
        values.append(metric(log_posterior[drawn], y[drawn]))
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.tensor(values, dtype=torch.float64).quantile(tails).tolist()
    return low, high


def wilson_interval(correct: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Return the ends of the p with |correct/total - p| ≤ z √(p (1 - p) / total): Wilson 1927."""
    _check_level(level)
    if not 0 <= correct <= total or total < 1:
        raise UserError(f"expected 0 <= correct <= total and total >= 1, got {correct} of {total}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, shrink = correct / total, 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / shrink
    half = z / shrink * (share * (1 - share) / total + (z / (2 * total)) ** 2) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def check_samples(log_posterior: Tensor, y: Tensor) -> None:
    """Refuse log-posteriors and labels of no samples, or of shapes that do not match.

    Raises:
        UserError: they do not.
    """
    if log_posterior.ndim != 2 or y.shape != log_posterior.shape[:1] or not y.numel():
        raise UserError(
            "expected log-posteriors (N, K) and labels (N,) with N > 0, "
            f"got {tuple(log_posterior.shape)} and {tuple(y.shape)}"
        )


def _top(log_posterior: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return confidence and correctness, (N,) each."""
    check_samples(log_posterior, y)
    confidence, predicted = log_posterior.double().exp().max(1)
    return confidence, (predicted == y).double()


def _each_class(log_posterior: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities and one-hot labels, (N, K) each."""
    check_samples(log_posterior, y)
    outcomes = torch.nn.functional.one_hot(y, log_posterior.shape[1])
    return log_posterior.double().exp(), outcomes.double()


def _edges(p: Tensor, bins: int, equal_mass: bool) -> Tensor:
    if bins < 1:
        raise UserError(f"expected bins >= 1, got {bins}")
    even = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    return p.quantile(even) if equal_mass else even


def _paper_edges(outer: int, middle: int) -> Tensor:
    low = torch.linspace(-1e-6, 0.05, outer, dtype=torch.float64)
    between = torch.linspace(0.05, 0.95, middle, dtype=torch.float64)[1:-1]
    return torch.cat([low, between, 1 - low.flip(0)])


def _bin(p: Tensor, edges: Tensor) -> Tensor:
    """Return the index of each one's bin; outside the edges the first or the last."""
    return torch.bucketize(p.contiguous(), edges[1:-1].contiguous())


def _reliability(p: Tensor, o: Tensor, edges: Tensor) -> Reliability:
    """Bin probabilities and outcomes, (N,) each."""
    index, bins = _bin(p, edges), len(edges) - 1
    count = index.bincount(minlength=bins)
    confidence, accuracy = (index.bincount(values, bins) / count for values in (p, o))
    return Reliability(confidence, accuracy, count, edges)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UserError(f"expected 0 < level < 1, got {level}")
