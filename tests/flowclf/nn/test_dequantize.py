"""Noise: how much, in which units, and for whom."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from flowclf import GenerativeClassifier, build
from flowclf.evaluation.statistics import statistics
from flowclf.export import export_model
from flowclf.nn.encoders import Noise
from flowclf.support.errors import UserError

SHAPE = (1, 50, 50)
GREY = torch.full((4, *SHAPE), 7, dtype=torch.uint8)
NORMAL_ENTROPY = 0.5 * math.log(2 * math.pi * math.e)


@pytest.mark.parametrize(
    ("uniform", "sigma"), [(1.0, 0.0), (0.25, 0.0), (0.0, 0.01), (1.0, 0.01), (0.0, 0.0)]
)
def test_both_have_their_moments(uniform: float, sigma: float, generator: torch.Generator) -> None:
    noise = Noise(SHAPE, uniform, sigma, unit=255)(GREY, generator) - 7
    assert float(noise.mean()) == pytest.approx(uniform / 2, rel=0.03, abs=13 * sigma)
    variance = (255 * sigma) ** 2 + uniform**2 / 12
    assert float(noise.std()) == pytest.approx(variance**0.5, rel=0.03)
    if sigma:
        assert float(noise.min()) < -2 * 2.55 + uniform
    elif uniform:
        assert 0 <= float(noise.min()) < 0.01 * uniform
        assert 0.99 * uniform < float(noise.max()) <= uniform


def test_each_feature_has_a_unit_of_its_own(generator: torch.Generator) -> None:
    noise = Noise((3,), uniform=0.0, sigma=0.5, unit=1.0)
    noise.set_unit(torch.tensor([1.0, 0.0, 100.0], dtype=torch.float64))
    assert noise.unit.dtype == torch.float32
    std = noise(torch.zeros(10_000, 3), generator).std(0)
    assert_close(std, torch.tensor([0.5, 0.0, 50.0]), rtol=0.03, atol=0)


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


def test_the_generator_decides() -> None:
    noise = Noise(SHAPE, uniform=1.0, sigma=0.1, unit=1.0)
    draws = [noise(GREY, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_module_decides_the_type(dtype: torch.dtype, generator: torch.Generator) -> None:
    noise = Noise(SHAPE, 1.0, 0.1, 1.0).to(dtype)
    for x in (GREY, GREY.long(), GREY.float(), GREY.double()):
        assert noise(x, generator).dtype == dtype
        middle = 0.0 if x.is_floating_point() else 0.5
        assert torch.equal(noise.to_points(x), x.to(dtype) + middle)


@pytest.mark.parametrize(
    ("uniform", "sigma", "expected"),
    [
        (1.0, 0.0, 0.0), (0.25, 0.0, math.log(0.25)),
        (0.0, 0.01, NORMAL_ENTROPY + math.log(2.55)), (0.0, 0.0, -math.inf),
    ],
)  # fmt: skip
def test_entropy_of_either_noise_is_known(uniform: float, sigma: float, expected: float) -> None:
    noise = Noise((1, 2, 2), uniform, sigma, unit=255)
    assert noise.entropy() == pytest.approx(4 * expected, rel=1e-6)


def test_entropy_of_both_is_that_of_their_sum(generator: torch.Generator) -> None:
    """Against the mean of -log of the sum's density, by scipy."""
    noise = Noise((1,), uniform=1.0, sigma=0.01, unit=100)
    drawn = noise(torch.zeros(200_000, 1, dtype=torch.uint8), generator)[:, 0].double().numpy()
    density = scipy.stats.norm.cdf(drawn) - scipy.stats.norm.cdf(drawn - 1)
    assert noise.entropy() == pytest.approx(-np.log(density).mean(), abs=0.01)
    assert noise.entropy(floating=True) == pytest.approx(NORMAL_ENTROPY)


def test_each_feature_has_the_entropy_of_its_unit() -> None:
    noise = Noise((2,), uniform=0.0, sigma=0.5, unit=1.0)
    noise.set_unit(torch.tensor([2.0, 20.0]))
    expected = 2 * NORMAL_ENTROPY + math.log(10)
    assert noise.entropy(floating=True) == pytest.approx(expected, rel=1e-6)


def test_a_posterior_is_averaged_over_the_same_noisy_copies_of_every_input() -> None:
    network = {"kind": "mlp", "blocks": 1, "hidden": [4]}
    settings = {"network": network, "noise": {"sigma": 0.1, "draws": 3}}
    for system in ("ib-inn", "ce", "vib", "untapped"):
        kind = settings if system == "ib-inn" else {"noise": settings["noise"]}
        model = build(system, shape=(1, 4, 4), classes=2, levels=16, **kind).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.05)
        x = torch.randint(16, (6, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
        copies = model.noise.copies(model.noise.to_points(x))
        assert len(copies) == 3
        spread = torch.stack([copy - x for copy in copies]).std()
        assert float(spread) == pytest.approx(0.1 * 15, rel=0.3)
        single = build(system, shape=(1, 4, 4), classes=2, levels=16, **(kind | {"noise": {}}))
        single.load_state_dict(model.state_dict())
        each = torch.stack([single.eval().log_posterior(copy) for copy in copies])
        assert_close(model.log_posterior(x), each.logsumexp(0) - math.log(3))
        assert_close(model.log_posterior(x[2:3]), model.log_posterior(x)[2:3])
        told = statistics(model, x, ("log_posterior",))["log_posterior"]
        assert_close(told, model.log_posterior(x).detach().double())


def test_copies_without_noise_are_refused() -> None:
    with pytest.raises(UserError, match=r"noise.sigma above 0 for noise.draws=4, whose copies"):
        build("ib-inn", shape=(3,), classes=2, noise={"draws": 4, "sigma": 0.0})


def _denoising(share: float) -> GenerativeClassifier:
    network = {"kind": "mlp", "blocks": 2, "hidden": [4]}
    noise = {"sigma": 0.1, "draws": 3, "denoise": share}
    model = build("ib-inn", shape=(1, 4, 4), classes=2, levels=16, network=network, noise=noise)
    for parameter in model.parameters():
        parameter.data.add_(0.05)
    return model.double().eval()


def _central(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Derivatives of the sum of `function` by x (B, *shape), by differences."""
    steps = 1e-4 * torch.eye(x[0].numel(), dtype=x.dtype).view(-1, 1, *x.shape[1:])
    with torch.no_grad():
        found = [(function(x + step) - function(x - step)) / 2e-4 for step in steps]
    return torch.stack(found, 1).view_as(x)


def test_denoising_follows_the_score_and_is_differentiable() -> None:
    model = _denoising(0.5)
    x = 15 * torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    score = _central(model.log_prob, x)
    assert_close(model.denoise(x), x + 1.5**2 * score, rtol=1e-5, atol=1e-5)
    moved = [model.denoise(copy, 0.5) for copy in model.noise.copies(x)]
    plain = _denoising(0)
    plain.noise.draws = 0
    each = torch.stack([plain.log_posterior(each) for each in moved])
    expected = each.logsumexp(0) - math.log(3)
    assert_close(model.log_posterior(x), expected)
    with torch.inference_mode():
        assert_close(model.log_posterior(x.clone()), expected)
    assert_close(statistics(model, x, ("log_posterior",))["log_posterior"], expected.detach())
    at = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.log_posterior(at)[:, 0].sum(), at)
    by_differences = _central(lambda points: model.log_posterior(points)[:, 0], x)
    assert_close(gradient, by_differences, rtol=1e-4, atol=1e-6)


def test_denoising_is_refused_where_it_has_nothing_to_follow() -> None:
    noise = {"denoise": 0.1, "sigma": 0.1}
    with pytest.raises(UserError, match=r"noise.draws of at least 1 for noise.denoise=0.1"):
        build("ib-inn", shape=(3,), classes=2, noise=noise)
    for system in ("ce", "i-revnet", "vae", "m2"):
        with pytest.raises(UserError, match=r"noise.denoise=0 of a system without log q\(x\), got"):
            build(system, shape=(1, 4, 4), classes=2, levels=16, noise=noise | {"draws": 2})
    with pytest.raises(UserError, match=r"noise.denoise=0.5: expected a posterior without a deriv"):
        export_model(_denoising(0.5), Path("model.pt2"), torch.zeros(1, 1, 4, 4))
