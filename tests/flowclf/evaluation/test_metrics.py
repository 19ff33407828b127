"""Metrics against numpy, by hand, and on predictors whose calibration is known."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from torch import Tensor

from flowclf.evaluation.metrics import (
    accuracy,
    accuracy_per_class,
    bits_per_dim,
    expected_calibration_error,
    negative_log_posterior,
)


def simulate(
    generator: torch.Generator, count: int, classes: int, sharpness: float
) -> tuple[Tensor, Tensor]:
    """Posteriors, and labels drawn from them: a perfectly calibrated predictor."""
    logits = sharpness * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    log_posterior = logits.log_softmax(1)
    y = torch.multinomial(log_posterior.exp(), 1, generator=generator)[:, 0]
    return log_posterior, y


def numpy_ece(log_posterior: Tensor, y: Tensor, bins: int) -> float:
    """Guo et al. 2017, Eqs. 2 and 3: the bin m holds confidences in ((m-1)/M, m/M]."""
    p = np.exp(log_posterior.double().numpy())
    confidence, correct = p.max(1), p.argmax(1) == y.numpy()
    total = 0.0
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return float(total)


@pytest.mark.parametrize("bins", [15, 7])
@pytest.mark.parametrize("sharpness", [0.5, 2.0, 20.0])
def test_ece_is_that_of_guo(sharpness: float, bins: int, generator: torch.Generator) -> None:
    log_posterior, _ = simulate(generator, 400, 5, sharpness)
    y = torch.randint(0, 5, (400,), generator=generator)
    expected = numpy_ece(log_posterior, y, bins)
    got = expected_calibration_error(log_posterior, y, bins)
    assert got == pytest.approx(expected, abs=1e-12)
    assert got > 0.05


def test_ece_by_hand() -> None:
    """Two of three right at confidence 0.9, one of one at 0.6: (3·|2/3-0.9| + |1-0.6|)/4."""
    log_posterior = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.4, 0.6]]).log()
    y = torch.tensor([0, 1, 1, 1])
    expected = (3 * (0.9 - 2 / 3) + 0.4) / 4
    assert expected_calibration_error(log_posterior, y) == pytest.approx(expected, abs=1e-6)


def test_a_confidence_of_one_shares_the_bin_of_those_just_below() -> None:
    """Over- and underconfidence cancel within a bin: 1.0 wrong half the time, 0.95 always right."""
    log_posterior = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.95, 0.05], [0.95, 0.05]]).log()
    y = torch.tensor([0, 1, 0, 0])
    expected = abs(3 / 4 - (1 + 1 + 0.95 + 0.95) / 4)
    assert expected_calibration_error(log_posterior, y) == pytest.approx(expected, abs=1e-6)


def test_bins_are_closed_on_the_right() -> None:
    """Of two bins the lower one holds 0.5: a right guess there and a wrong one at 0.75 add up."""
    log_posterior = torch.tensor([[0.5, 0.5], [0.75, 0.25]], dtype=torch.float64).log()
    y = torch.tensor([0, 1])
    assert expected_calibration_error(log_posterior, y, bins=2) == pytest.approx((0.5 + 0.75) / 2)


@pytest.mark.parametrize("classes", [2, 10])
def test_a_calibrated_predictor_has_no_calibration_error(
    classes: int, generator: torch.Generator
) -> None:
    log_posterior, y = simulate(generator, 100_000, classes, 1.5)
    assert expected_calibration_error(log_posterior, y) < 0.006
    sharper = (3 * log_posterior).log_softmax(1)
    assert expected_calibration_error(sharper, y) > 0.05


def test_accuracy_counts_the_most_probable_class() -> None:
    log_posterior = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.4, 0.5, 0.1]]).log()
    y = torch.tensor([0, 1, 0])
    assert accuracy(log_posterior, y) == pytest.approx(2 / 3)
    assert accuracy_per_class(log_posterior, y) == [0.5, 1.0, None]


def test_negative_log_posterior_is_the_mean_over_samples() -> None:
    log_posterior = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    value = negative_log_posterior(log_posterior, torch.tensor([0, 1]))
    assert value == pytest.approx((log(4) + log(2)) / 2)


@pytest.mark.parametrize("levels", [2, 32, 256])
def test_the_uniform_density_takes_log2_of_the_levels(levels: int) -> None:
    dims = 784
    log_prob = torch.full((10,), -dims * log(levels), dtype=torch.float64)
    assert bits_per_dim(log_prob, dims) == pytest.approx(np.log2(levels), abs=1e-12)


def test_bits_are_averaged_in_float64() -> None:
    log_prob = torch.full((100_000,), -2000.1)
    assert bits_per_dim(log_prob, 1) == pytest.approx(float(log_prob[0]) / -log(2), rel=1e-12)
