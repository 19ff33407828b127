"""Selective prediction: what a classifier is worth if it may leave the doubtful samples alone.

Samples are ordered by an uncertainty (N,), any number that is the higher the less sure; a share of
them, the surest, is answered.
"""

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

__all__ = ["RiskCoverage", "accuracy_at_coverage", "balanced_accuracy", "macro_f1", "risk_coverage"]


@dataclass(frozen=True)
class RiskCoverage:
    """Error of the surest samples along the share of them that is answered."""

    coverage: Tensor  # (N,), 1/N to 1
    risk: Tensor  # error rate of that share, (N,)

    @property
    def area(self) -> float:
        """AURC: the mean risk over all coverages (Geifman and El-Yaniv, NeurIPS 2017)."""
        return float(self.risk.mean())

    @property
    def excess_area(self) -> float:
        """E-AURC: `area` above that of the best order, in which all errors come last.

        Geifman, Uziel and El-Yaniv, ICLR 2019.
        """
        errors = round(float(self.risk[-1]) * len(self.risk))
        wrong = torch.zeros(len(self.risk), dtype=torch.float64)
        wrong[len(wrong) - errors :] = 1
        return self.area - float(_running_mean(wrong).mean())


def risk_coverage(uncertainty: Tensor, correct: Tensor) -> RiskCoverage:
    """Compute the risk-coverage curve of (N,), (N,); equally unsure samples share their risk."""
    uncertainty, wrong = uncertainty.double(), 1 - correct.double()
    values, group, count = uncertainty.unique(return_inverse=True, return_counts=True)
    share = torch.zeros_like(values).index_add_(0, group, wrong) / count
    return RiskCoverage(
        torch.arange(1, len(wrong) + 1, dtype=torch.float64) / len(wrong),
        _running_mean(share.repeat_interleave(count)),
    )


def accuracy_at_coverage(curve: RiskCoverage, coverage: float) -> float:
    """Return the accuracy on the surest ⌈coverage · N⌉ samples."""
    return 1 - float(curve.risk[ceil(round(coverage * len(curve.risk), 6)) - 1])


def balanced_accuracy(confusion: Tensor) -> float:
    """Compute the mean over classes of their recall, of counts (K, K): class by prediction."""
    return float((confusion.diag() / confusion.sum(1))[confusion.sum(1) > 0].mean())


def macro_f1(confusion: Tensor) -> float:
    """Compute the mean over classes of 2 TP / (2 TP + FP + FN), of counts (K, K)."""
    both = confusion.sum(0) + confusion.sum(1)
    return float((2 * confusion.diag() / both)[both > 0].double().mean())


def _running_mean(values: Tensor) -> Tensor:
    return values.cumsum(0) / torch.arange(1, len(values) + 1, dtype=torch.float64)
