"""Density ratios against their formulas, and trained ones against the ratio that they estimate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.testing import assert_close

from couplings.testing import randomize
from flowclf.latent.gaussian import GaussianMixture
from flowclf.nn.density_ratio import DensityRatio
from flowclf.objectives import discriminator_loss

K, D, B, HIDDEN = 3, 4, 7, 5
every_kind = pytest.mark.parametrize("kind", ["affine", "quadratic", "mlp"])


def make_ratio(kind: Any, scale: float = 1.0) -> DensityRatio:
    """Random parameters in float64."""
    ratio = DensityRatio(K, D, kind, HIDDEN).double()
    randomize(ratio, torch.Generator().manual_seed(3), scale)
    return ratio


def make_mixture(covariance: Any = "per-class") -> GaussianMixture:
    mixture = GaussianMixture(K, D, covariance=covariance).double()
    randomize(mixture, torch.Generator().manual_seed(4), 0.8)
    return mixture


def draw(generator: torch.Generator) -> Tensor:
    return 2 * torch.randn(B, D, generator=generator, dtype=torch.float64)


def formula(ratio: DensityRatio, z: Tensor, mean: Tensor, std: Tensor, k: int) -> Tensor:
    """T_k of one z (D,), as the docstring has it."""
    u, weight = (z - mean) / std, ratio.weight[k]
    if ratio.kind == "affine":
        return weight @ u + ratio.bias[k]
    if ratio.kind == "quadratic":
        return weight[:D] @ u + weight[D:] @ u.square() + ratio.bias[k]
    return weight @ torch.tanh(ratio.inner_weight[k] @ u + ratio.inner_bias[k]) + ratio.bias[k]


@pytest.mark.parametrize("covariance", ["unit", "shared", "per-class"])
@every_kind
def test_all_classes_at_once_are_the_classes_one_by_one(
    kind: str, covariance: str, generator: torch.Generator
) -> None:
    ratio, mixture, z = make_ratio(kind), make_mixture(covariance), draw(generator)
    means, stds = mixture.means, mixture.std()
    rows = [[formula(ratio, zi, means[k], stds[k], k) for k in range(K)] for zi in z]
    expected = torch.stack([torch.stack(row) for row in rows])
    got = ratio(z, mixture)
    assert_close(got, expected, rtol=0, atol=1e-11)
    inputs = list(ratio.parameters())
    assert_close(
        torch.autograd.grad(got.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        rtol=1e-10,
        atol=1e-10,
    )


@every_kind
def test_ratios_are_zero_at_first(kind: Any, generator: torch.Generator) -> None:
    ratio = DensityRatio(K, D, kind).double()
    assert not ratio(draw(generator), make_mixture()).any()


def test_inner_weights_come_from_the_generator() -> None:
    def inner(seed: int) -> Tensor:
        return DensityRatio(K, D, "mlp", generator=torch.Generator().manual_seed(seed)).inner_weight

    assert torch.equal(inner(0), inner(0))
    assert not torch.equal(inner(0), inner(1))
    assert not torch.equal(inner(0)[0], inner(0)[1])


@every_kind
def test_gradients_in_z(kind: str, generator: torch.Generator) -> None:
    ratio, mixture = make_ratio(kind), make_mixture()
    z = draw(generator)[:3].requires_grad_()
    assert torch.autograd.gradcheck(lambda z: ratio(z, mixture), z)
    assert torch.autograd.gradcheck(lambda z: ratio.frozen(z, mixture), z)


@every_kind
def test_the_mixture_only_sets_the_units(kind: str, generator: torch.Generator) -> None:
    ratio, mixture = make_ratio(kind), make_mixture()
    ratio(draw(generator), mixture).sum().backward()
    assert all(parameter.grad is None for parameter in mixture.parameters())
    assert all(parameter.grad is not None for parameter in ratio.parameters())


@every_kind
def test_frozen_ratios_teach_z_alone(kind: str, generator: torch.Generator) -> None:
    ratio, mixture = make_ratio(kind), make_mixture()
    z = draw(generator).requires_grad_()
    frozen = ratio.frozen(z, mixture)
    assert torch.equal(frozen, ratio(z, mixture))
    (expected,) = torch.autograd.grad(ratio(z, mixture).sum(), z)
    frozen.sum().backward()
    assert z.grad is not None
    assert torch.equal(z.grad, expected)
    assert all(parameter.grad is None for parameter in ratio.parameters())
    assert all(parameter.requires_grad for parameter in ratio.parameters())


# What discriminators learn.

SAMPLES, STEPS = 2000, 300


def train(kind: Any, mixture: GaussianMixture, q: Normal) -> Tensor:
    """|T - log q/p| of each class at draws from q after training on others, averaged: (K,)."""
    generator = torch.Generator().manual_seed(5)

    def sample_q(y: Tensor) -> Tensor:
        noise = torch.randn(len(y), D, generator=generator, dtype=torch.float64)
        return q.mean[y] + q.stddev[y] * noise

    y = torch.arange(K * SAMPLES) % K
    z, drawn = sample_q(y), mixture.sample(y, generator=generator).detach()
    ratio = DensityRatio(K, D, kind, 16).double()
    optimizer = torch.optim.Adam(ratio.parameters(), lr=0.05)
    for _ in range(STEPS):
        optimizer.zero_grad()
        discriminator_loss(ratio(z, mixture), ratio(drawn, mixture), y).backward()
        optimizer.step()
    with torch.no_grad():
        y = torch.arange(K * 500) % K
        z = sample_q(y)
        log_q = q.log_prob(z[:, None]).sum(2)
        errors = ratio(z, mixture) - (log_q - mixture.log_prob_given_class(z))
        return torch.stack([errors[y == k, k].abs().mean() for k in range(K)])


def spread(mixture: GaussianMixture) -> Normal:
    """q with the means of p and 1.6 times its standard deviations."""
    return Normal(mixture.means.detach(), 1.6 * mixture.std().detach())


def shifted(mixture: GaussianMixture) -> Normal:
    """q with the standard deviations of p, half a one away."""
    std = mixture.std().detach()
    return Normal(mixture.means.detach() + 0.5 * std, std)


def test_quadratic_discriminators_learn_any_ratio_of_gaussians() -> None:
    mixture = make_mixture()
    for q in (spread(mixture), shifted(mixture)):
        assert float(train("quadratic", mixture, q).max()) < 0.25


def test_affine_discriminators_are_blind_to_variances() -> None:
    mixture = make_mixture()
    assert float(train("affine", mixture, shifted(mixture)).max()) < 0.15
    assert float(train("affine", mixture, spread(mixture)).min()) > 1
