"""Noise: how much, in which units, and for whom."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from flowclf.nn.encoders import Noise

SHAPE = (1, 50, 50)
GREY = torch.full((4, *SHAPE), 7, dtype=torch.uint8)


@pytest.mark.parametrize("width", [1.0, 0.25])
def test_uniform_noise_fills_its_interval(width: float, generator: torch.Generator) -> None:
    noise = Noise(SHAPE, uniform=width, sigma=0.0, unit=255)(GREY, generator) - 7
    assert 0 <= float(noise.min()) < 0.01 * width
    assert 0.99 * width < float(noise.max()) <= width
    assert float(noise.mean()) == pytest.approx(width / 2, rel=0.03)
    assert float(noise.std()) == pytest.approx(width / 12**0.5, rel=0.03)


def test_gaussian_noise_is_a_fraction_of_the_unit(generator: torch.Generator) -> None:
    noise = Noise(SHAPE, uniform=0.0, sigma=0.01, unit=255)(GREY, generator) - 7
    assert float(noise.std()) == pytest.approx(2.55, rel=0.03)
    assert abs(float(noise.mean())) < 0.13
    assert float(noise.min()) < -5  # no uniform: below 7 - 2σ


def test_each_feature_has_a_unit_of_its_own(generator: torch.Generator) -> None:
    noise = Noise((3,), uniform=0.0, sigma=0.5, unit=1.0)
    noise.set_unit(torch.tensor([1.0, 0.0, 100.0], dtype=torch.float64))
    assert noise.unit.dtype == torch.float32
    std = noise(torch.zeros(10_000, 3), generator).std(0)
    torch.testing.assert_close(std, torch.tensor([0.5, 0.0, 50.0]), rtol=0.03, atol=0)


def test_both_kinds_add_up(generator: torch.Generator) -> None:
    noise = Noise(SHAPE, uniform=1.0, sigma=0.01, unit=255)(GREY, generator) - 7
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.13)
    assert float(noise.std()) == pytest.approx((2.55**2 + 1 / 12) ** 0.5, rel=0.03)


def test_floats_are_not_dequantised(generator: torch.Generator) -> None:
    x = torch.randn(5, *SHAPE, generator=generator)
    noise = Noise(SHAPE, uniform=1.0, sigma=0.0, unit=1.0)
    assert torch.equal(noise(x, generator), x)
    assert torch.equal(noise.dequantize(x, generator), x)
    noisy = Noise(SHAPE, uniform=1.0, sigma=0.1, unit=1.0)(x, generator)
    assert float((noisy - x).mean()) == pytest.approx(0.0, abs=0.005)
    assert float((noisy - x).std()) == pytest.approx(0.1, rel=0.03)


def test_dequantisation_is_exact_whatever_the_training_noise(generator: torch.Generator) -> None:
    x = Noise(SHAPE, uniform=0.0, sigma=3.0, unit=255).dequantize(GREY, generator)
    assert torch.equal(x.floor(), GREY.float())
    assert float(x.max() - 7) > 0.99


def test_without_noise_integers_only_change_type() -> None:
    assert torch.equal(Noise(SHAPE, 0.0, 0.0, 1.0)(GREY), GREY.float())


def test_the_generator_decides() -> None:
    noise = Noise(SHAPE, uniform=1.0, sigma=0.1, unit=1.0)
    draws = [noise(GREY, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_comes_in_the_type_of_the_module(
    dtype: torch.dtype, generator: torch.Generator
) -> None:
    noise = Noise(SHAPE, 1.0, 0.1, 1.0).to(dtype)
    for x in (GREY, GREY.long(), GREY.float(), GREY.double()):
        assert noise(x, generator).dtype == dtype


@pytest.mark.parametrize(
    ("uniform", "sigma", "expected"),
    [
        (1.0, 0.0, 0.0),
        (0.25, 0.0, math.log(0.25)),
        (0.0, 0.01, 0.5 * math.log(2 * math.pi * math.e * 2.55**2)),
        (0.0, 0.0, -math.inf),
    ],
)
def test_entropy_of_either_noise_is_known(uniform: float, sigma: float, expected: float) -> None:
    noise = Noise((1, 2, 2), uniform, sigma, unit=255)
    assert noise.entropy() == pytest.approx(4 * expected, rel=1e-6)


def test_entropy_of_both_is_that_of_their_sum(generator: torch.Generator) -> None:
    """Against the mean of -log of the sum's density, by scipy."""
    noise = Noise((1,), uniform=1.0, sigma=0.01, unit=100)
    drawn = noise(torch.zeros(200_000, 1, dtype=torch.uint8), generator)[:, 0].double().numpy()
    density = scipy.stats.norm.cdf(drawn) - scipy.stats.norm.cdf(drawn - 1)
    assert noise.entropy() == pytest.approx(-np.log(density).mean(), abs=0.01)
    assert noise.entropy(floating=True) == pytest.approx(0.5 * math.log(2 * math.pi * math.e))


def test_each_feature_has_the_entropy_of_its_unit() -> None:
    noise = Noise((2,), uniform=0.0, sigma=0.5, unit=1.0)
    noise.set_unit(torch.tensor([2.0, 20.0]))
    ones = math.log(2 * math.pi * math.e)
    assert noise.entropy(floating=True) == pytest.approx(ones + math.log(10), rel=1e-6)
