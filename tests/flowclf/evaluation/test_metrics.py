"""Metrics against numpy and by hand."""

from math import log

import numpy as np
import pytest
import torch

from flowclf.evaluation import metrics
from flowclf.evaluation.metrics import accuracy, bits_per_dim


def test_accuracy_counts_the_most_probable_class() -> None:
    log_posterior = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.4, 0.5, 0.1]]).log()
    y = torch.tensor([0, 1, 0])
    assert accuracy(log_posterior, y) == pytest.approx(2 / 3)
    assert metrics.accuracy_per_class(log_posterior, y) == [0.5, 1.0, None]


def test_negative_log_posterior_is_the_mean_over_samples() -> None:
    log_posterior = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    value = metrics.negative_log_posterior(log_posterior, torch.tensor([0, 1]))
    assert value == pytest.approx((log(4) + log(2)) / 2)


@pytest.mark.parametrize("levels", [2, 32, 256])
def test_the_uniform_density_takes_log2_of_the_levels(levels: int) -> None:
    dims = 784
    log_prob = torch.full((10,), -dims * log(levels), dtype=torch.float64)
    assert bits_per_dim(log_prob, dims) == pytest.approx(np.log2(levels), abs=1e-12)


def test_bits_are_averaged_in_float64() -> None:
    log_prob = torch.full((100_000,), -2000.1)
    assert bits_per_dim(log_prob, 1) == pytest.approx(float(log_prob[0]) / -log(2), rel=1e-12)
