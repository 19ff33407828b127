"""Means over seeds, with their standard errors."""

from collections.abc import Sequence
from statistics import mean, stdev

__all__ = ["mean_and_error"]


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and its standard error s/√n, s² unbiased; None for one value."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return mean(values), error
