"""Recalibration against SciPy and scikit-learn, and on posteriors made wrong in known ways."""

from __future__ import annotations

from collections.abc import Callable
from math import exp

import numpy as np
import pytest
import scipy.optimize
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from torch import Tensor
from torch.testing import assert_close

from flowclf.config import make_config
from flowclf.data import load_dataset
from flowclf.evaluation.calibration import classwise_calibration_error, expected_calibration_error
from flowclf.evaluation.metrics import accuracy, negative_log_posterior
from flowclf.evaluation.recalibration import (
    RECALIBRATIONS,
    IsotonicScaling,
    Recalibration,
    TemperatureScaling,
    VectorScaling,
    fit_temperature,
    scale,
)
from flowclf.support.errors import UserError
from flowclf.training import train

N, K = 6000, 4
SCALES = torch.tensor([0.4, 0.8, 1.0, 1.6], dtype=torch.float64)
BIASES = torch.tensor([1.0, -0.5, 0.5, -1.0], dtype=torch.float64)
Sample = tuple[Tensor, Tensor]


@pytest.fixture
def calibrated(simulate: Callable[..., Sample]) -> Sample:
    return simulate(N, K, 2.0)


def skew(generator: torch.Generator, count: int, size: float = 1) -> Sample:
    """Draw q for which softmax(a/size log q + b) is calibrated, of `SCALES` and `BIASES`."""
    logits = 3 * size * torch.randn(count, K, generator=generator, dtype=torch.float64)
    wrong = logits.log_softmax(1)
    right = (SCALES / size * wrong + BIASES).softmax(1)
    return wrong, torch.multinomial(right, 1, generator=generator)[:, 0]


@pytest.fixture
def skewed(generator: torch.Generator) -> Sample:
    return skew(generator, N)


def halves(sample: Sample) -> tuple[Sample, Sample]:
    log_posterior, y = sample
    return (log_posterior[::2], y[::2]), (log_posterior[1::2], y[1::2])


@pytest.mark.parametrize("name", RECALIBRATIONS)
def test_every_recalibration_calibrates_unseen_samples(name: str, calibrated: Sample) -> None:
    log_posterior, y = calibrated
    fitted_on, (held, held_y) = halves(((3 * log_posterior).log_softmax(1), y))
    step = RECALIBRATIONS[name]()
    got = step.fit(*fitted_on).transform(held)
    assert got.dtype == torch.float64
    assert bool(torch.isfinite(got).all())
    assert_close(got.exp().sum(1), torch.ones(N // 2, dtype=torch.float64))
    assert expected_calibration_error(got, held_y) < 0.03
    assert expected_calibration_error(held, held_y) > 0.1
    assert negative_log_posterior(got, held_y) < negative_log_posterior(held, held_y) - 0.1


@pytest.mark.parametrize("name", RECALIBRATIONS)
def test_a_fit_is_the_same_in_any_surroundings(name: str, skewed: Sample) -> None:
    log_posterior, y = skewed
    state = torch.get_rng_state()
    expected = RECALIBRATIONS[name]().fit(log_posterior, y).transform(log_posterior)
    with torch.no_grad():
        again = RECALIBRATIONS[name]().fit(log_posterior, y).transform(log_posterior)
    assert torch.equal(again, expected)
    assert not expected.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    shifted = log_posterior.float() + 5
    if name == "temperature":
        return
    got = RECALIBRATIONS[name]().fit(shifted, y).transform(shifted)
    assert_close(got.exp(), expected.exp(), rtol=0, atol=1e-3)


def test_temperature_scaling_is_that_of_its_functions(skewed: Sample) -> None:
    log_posterior, y = skewed
    step = TemperatureScaling().fit(log_posterior, y)
    assert step.temperature == fit_temperature(log_posterior, y)
    assert torch.equal(step.transform(log_posterior), scale(log_posterior, step.temperature))


def test_vector_scaling_recovers_scales_and_biases(generator: torch.Generator) -> None:
    log_posterior, y = skew(generator, 40_000)
    step = VectorScaling().fit(log_posterior, y)
    assert step.scale is not None
    assert step.bias is not None
    assert_close(step.scale, SCALES, rtol=0, atol=0.08)
    assert_close(step.bias, BIASES - BIASES.mean(), rtol=0, atol=0.08)
    right = (SCALES * log_posterior + BIASES).log_softmax(1)
    got = step.transform(log_posterior)
    assert negative_log_posterior(got, y) < negative_log_posterior(right, y)
    by_temperature = TemperatureScaling().fit(log_posterior, y).transform(log_posterior)
    assert negative_log_posterior(got, y) < negative_log_posterior(by_temperature, y) - 0.02
    assert classwise_calibration_error(got, y) < classwise_calibration_error(by_temperature, y)


def test_the_vector_is_that_of_scipy(skewed: Sample) -> None:
    log_posterior, y = (tensor[:300] for tensor in skewed)
    step = VectorScaling().fit(log_posterior, y)

    def loss(parameters: np.ndarray) -> float:
        factor, bias = torch.from_numpy(parameters).reshape(2, K)
        return negative_log_posterior((factor * log_posterior + bias).log_softmax(1), y)

    start = np.concatenate([np.ones(K), np.zeros(K)])
    found = scipy.optimize.minimize(loss, start, method="BFGS", tol=1e-7)
    assert negative_log_posterior(step.transform(log_posterior), y) <= found.fun + 1e-10
    assert step.scale is not None
    assert_close(step.scale, torch.from_numpy(found.x[:K]), rtol=0, atol=1e-3)


def test_temperature_scaling_is_a_special_case_of_vectors(calibrated: Sample) -> None:
    """The fit of a temperature is the same map with equal scales, and where that is right, near."""
    log_posterior, y = calibrated
    wrong = 3 * log_posterior
    by_temperature = TemperatureScaling().fit(wrong, y)
    assert by_temperature.temperature is not None
    same = VectorScaling()
    same.scale = torch.full((K,), 1 / by_temperature.temperature, dtype=torch.float64)
    same.bias = torch.zeros(K, dtype=torch.float64)
    assert_close(same.transform(wrong), by_temperature.transform(wrong))
    step = VectorScaling().fit(wrong, y)
    assert step.scale is not None
    assert_close(step.scale, same.scale, rtol=0.15, atol=0)


@pytest.mark.parametrize("size", [1, 300])
def test_the_gradient_is_zero_at_the_optimum(size: int, generator: torch.Generator) -> None:
    """Optimum for log-posteriors of a few nats, and of a thousand."""
    wrong, y = skew(generator, N, size)
    step = VectorScaling().fit(wrong, y)
    assert step.scale is not None
    assert step.bias is not None
    errors = step.transform(wrong).exp() - torch.nn.functional.one_hot(y, K)
    assert float(errors.mean(0).abs().max()) < 1e-6
    assert float((errors * wrong).mean(0).abs().max()) < 1e-6 * size
    assert_close(size * step.scale, SCALES, rtol=0, atol=0.3)


@pytest.mark.parametrize("name", RECALIBRATIONS)
def test_separated_samples_stay_finite(name: str) -> None:
    log_posterior = torch.eye(3).mul(4).log_softmax(1).repeat(5, 1)
    step = RECALIBRATIONS[name]().fit(log_posterior, torch.arange(3).repeat(5))
    got = step.transform(log_posterior)
    assert bool(torch.isfinite(got).all())
    assert bool((got.argmax(1) == torch.arange(3).repeat(5)).all())


class Softmax(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose posterior is the softmax of its input."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> Softmax:
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return torch.from_numpy(x).softmax(1).numpy()

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x.argmax(1)


def test_isotonic_scaling_is_that_of_scikit_learn(skewed: Sample) -> None:
    (log_posterior, y), (held, _) = halves(skewed)
    inner = Softmax().fit(log_posterior.numpy(), y.numpy())
    # Around a frozen classifier its regressions are fitted once, to all samples.
    reference = CalibratedClassifierCV(FrozenEstimator(inner), method="isotonic")
    reference.fit(log_posterior.numpy(), y.numpy())
    expected = torch.from_numpy(reference.predict_proba(held.numpy()))
    step = IsotonicScaling().fit(log_posterior, y)
    got = step.transform(held).exp()
    clear = (expected > 0.01).all(1)
    assert int(clear.sum()) > 50
    assert_close(got[clear], expected[clear], rtol=0, atol=1e-6)
    assert_close(got, expected, rtol=0, atol=2 * K * step.floor)


def test_an_isotonic_zero_becomes_half_a_sample() -> None:
    p = torch.tensor([0.1, 0.2, 0.8, 0.9], dtype=torch.float64)
    log_posterior, y = torch.stack([1 - p, p], 1).log(), torch.tensor([0, 0, 1, 1])
    got = IsotonicScaling().fit(log_posterior, y).transform(log_posterior).exp()
    assert_close(got[0], torch.tensor([1, 1 / 8], dtype=torch.float64) / (9 / 8))
    nowhere = torch.tensor([[-float("inf"), 0.0]])
    assert bool(torch.isfinite(IsotonicScaling().fit(log_posterior, y).transform(nowhere)).all())


@pytest.mark.parametrize("step", [kind() for kind in RECALIBRATIONS.values()])
def test_what_is_not_fitted_does_not_transform(step: Recalibration) -> None:
    with pytest.raises(UserError, match=f"fitted {type(step).__name__}.*call fit"):
        step.transform(torch.zeros(1, 2))


@pytest.mark.parametrize("name", ["vector", "isotonic"])
def test_classes_without_samples_are_refused(name: str, calibrated: Sample) -> None:
    log_posterior, y = calibrated
    seen = (y == 0) | (y == 3)
    step = RECALIBRATIONS[name]()
    with pytest.raises(UserError, match=r"none of \[1, 2\]"):
        step.fit(log_posterior[seen], y[seen])
    step.fit(log_posterior, y)
    with pytest.raises(UserError, match=r"\(B, 4\) as fitted, got \(2, 3\)"):
        step.transform(torch.zeros(2, 3))


@pytest.mark.parametrize("name", RECALIBRATIONS)
@pytest.mark.parametrize(
    ("log_posterior", "y", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "N > 0"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.long), r"\(2, 3\) and \(3,\)"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.long), r"\(2,\) and \(2,\)"),
        (torch.full((1, 2), float("nan")), torch.zeros(1, dtype=torch.long), "finite"),
    ],
)
def test_impossible_samples_are_refused(
    name: str, log_posterior: Tensor, y: Tensor, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        RECALIBRATIONS[name]().fit(log_posterior, y)


def test_a_factor_is_in_the_temperature_and_constants_of_a_sample_are_not(
    calibrated: Sample,
) -> None:
    log_posterior, y = calibrated
    plain = fit_temperature(log_posterior, y)
    for factor in (0.2, 1.0, 3.0, 40.0):
        fitted = fit_temperature(factor * log_posterior, y)
        assert fitted == pytest.approx(factor, rel=0.03)
        assert fitted == pytest.approx(factor * plain, rel=1e-9)
    shifted = log_posterior + torch.linspace(-50, 50, N, dtype=torch.float64)[:, None]
    assert fit_temperature(shifted, y) == pytest.approx(plain, rel=1e-9)
    assert fit_temperature(log_posterior.float(), y) == pytest.approx(plain, rel=1e-6)


def test_scaling_keeps_the_predictions_and_is_the_optimum(calibrated: Sample) -> None:
    log_posterior, y = calibrated
    confident = (3 * log_posterior).log_softmax(1)
    fitted = fit_temperature(confident, y)
    scaled = scale(confident, fitted)
    assert accuracy(scaled, y) == accuracy(confident, y)
    assert torch.equal(scaled.argsort(1), confident.argsort(1))
    assert expected_calibration_error(scaled, y) < 0.02
    temperature = torch.tensor(fitted, dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.nll_loss((confident / temperature).log_softmax(1), y)
    assert abs(torch.autograd.grad(loss, temperature)[0].item()) < 1e-13


def test_the_temperature_is_that_of_scipy(calibrated: Sample) -> None:
    log_posterior, y = (tensor[:500] for tensor in calibrated)
    found = scipy.optimize.minimize_scalar(
        lambda t: negative_log_posterior(scale(log_posterior, exp(t)), y), tol=1e-12
    )
    # Near its least a loss is flat: half of the digits are lost to SciPy, which compares losses.
    assert fit_temperature(log_posterior, y) == pytest.approx(exp(found.x), rel=1e-6)


def test_bounds_where_there_is_no_optimum() -> None:
    logits, y = torch.eye(3), torch.arange(3)
    assert fit_temperature(logits, y) == pytest.approx(1e-3)
    assert fit_temperature(-logits, y) == pytest.approx(1e3)


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
