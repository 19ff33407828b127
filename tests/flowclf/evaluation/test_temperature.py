"""Temperature scaling against SciPy's minimiser and against posteriors made wrong on purpose."""

from __future__ import annotations

from math import exp

import pytest
import scipy.optimize
import torch
from torch import Tensor
from torch.testing import assert_close

from flowclf.config import make_config
from flowclf.data import load_dataset
from flowclf.evaluation.metrics import accuracy, expected_calibration_error, negative_log_posterior
from flowclf.evaluation.recalibration import fit_temperature, scale
from flowclf.support.errors import UserError
from flowclf.training import train

N, K = 20_000, 5


@pytest.fixture
def calibrated(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Posteriors, and labels that were drawn from them."""
    log_posterior = (2 * torch.randn(N, K, generator=generator, dtype=torch.float64)).log_softmax(1)
    return log_posterior, torch.multinomial(log_posterior.exp(), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("factor", [0.2, 1.0, 3.0, 40.0])
def test_the_temperature_of_a_multiplied_posterior(
    factor: float, calibrated: tuple[Tensor, Tensor]
) -> None:
    log_posterior, y = calibrated
    fitted = fit_temperature(factor * log_posterior, y)
    assert fitted == pytest.approx(factor, rel=0.03)
    assert fitted == pytest.approx(factor * fit_temperature(log_posterior, y), rel=1e-9)


def test_scaling_calibrates_and_keeps_the_predictions(calibrated: tuple[Tensor, Tensor]) -> None:
    log_posterior, y = calibrated
    confident = (3 * log_posterior).log_softmax(1)
    scaled = scale(confident, fit_temperature(confident, y))
    assert accuracy(scaled, y) == accuracy(confident, y)
    assert torch.equal(scaled.argsort(1), confident.argsort(1))
    assert expected_calibration_error(confident, y) > 0.1
    assert expected_calibration_error(scaled, y) < 0.02
    assert_close(scaled.exp().sum(1), torch.ones(N, dtype=torch.float64))


def test_the_derivative_is_zero_at_the_optimum(calibrated: tuple[Tensor, Tensor]) -> None:
    log_posterior, y = calibrated
    temperature = torch.tensor(
        fit_temperature(3 * log_posterior, y), dtype=torch.float64, requires_grad=True
    )
    scaled = (3 * log_posterior / temperature).log_softmax(1)
    torch.nn.functional.nll_loss(scaled, y).backward()
    assert temperature.grad is not None
    assert abs(temperature.grad.item()) < 1e-13


def test_the_optimum_is_that_of_scipy(calibrated: tuple[Tensor, Tensor]) -> None:
    log_posterior, y = (tensor[:500] for tensor in calibrated)
    found = scipy.optimize.minimize_scalar(
        lambda t: negative_log_posterior(scale(log_posterior, exp(t)), y), tol=1e-12
    )
    # Near its least a loss is flat: half of the digits are lost to SciPy, which compares losses.
    assert fit_temperature(log_posterior, y) == pytest.approx(exp(found.x), rel=1e-6)


def test_constants_of_a_sample_do_not_matter(calibrated: tuple[Tensor, Tensor]) -> None:
    log_posterior, y = calibrated
    shifted = log_posterior + torch.linspace(-50, 50, N, dtype=torch.float64)[:, None]
    expected = fit_temperature(log_posterior, y)
    assert fit_temperature(shifted, y) == pytest.approx(expected, rel=1e-9)
    assert fit_temperature(log_posterior.float(), y) == pytest.approx(expected, rel=1e-6)


def test_bounds_where_there_is_no_optimum() -> None:
    logits, y = torch.eye(3), torch.arange(3)
    assert fit_temperature(logits, y) == pytest.approx(1e-3)
    assert fit_temperature(-logits, y) == pytest.approx(1e3)


@pytest.mark.parametrize(
    ("log_posterior", "y", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "N > 0"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.long), r"\(2, 3\) and \(3,\)"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.long), r"\(2,\) and \(2,\)"),
        (torch.full((1, 2), float("nan")), torch.zeros(1, dtype=torch.long), "finite"),
    ],
)
def test_impossible_samples_are_refused(log_posterior: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_temperature(log_posterior, y)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_impossible_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(UserError, match="temperature > 0"):
        scale(torch.zeros(1, 2), temperature)


def test_a_run_with_a_validation_split_is_also_temperature_scaled() -> None:
    data = load_dataset("digits")
    overrides = [{"train": {"epochs": 3}, "data": {"validation": 0.2}}]
    config = make_config("ce", "digits", data.shape, overrides=overrides)
    results = train(config, data, device="cpu").summary["test"]
    # Three epochs leave it far too unsure.
    assert results["temperature"] < 0.9
    assert results["ece_scaled"] < results["ece"]
    assert results["negative_log_posterior_nats_scaled"] < results["negative_log_posterior_nats"]
