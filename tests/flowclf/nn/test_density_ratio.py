"""Density ratios against their formulas, and trained ones against the ratio that they estimate."""

from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Normal
from torch.testing import assert_close

from couplings.testing import randomize
from flowclf.latent.gaussian import GaussianMixture
from flowclf.nn.density_ratio import DensityRatio
from flowclf.objectives import discriminator_loss

K, D, B, HIDDEN = 3, 4, 7, 5
every_kind = pytest.mark.parametrize("kind", ["affine", "quadratic", "mlp"])


def make_ratio(kind: Any) -> DensityRatio:
    ratio = DensityRatio(K, D, kind, HIDDEN).double()
    randomize(ratio, torch.Generator().manual_seed(3), 1.0)
    return ratio


def make_mixture(covariance: Any = "per-class") -> GaussianMixture:
    mixture = GaussianMixture(K, D, covariance=covariance).double()
    randomize(mixture, torch.Generator().manual_seed(4), 0.8)
    return mixture


@pytest.fixture
def z(generator: Generator) -> Tensor:
    return 2 * torch.randn(B, D, generator=generator, dtype=torch.float64)


def formula(ratio: DensityRatio, z: Tensor, mean: Tensor, std: Tensor, k: int) -> Tensor:
    """Return T_k of one z (D,), as the docstring has it."""
    u, weight = (z - mean) / std, ratio.weight[k]
    if ratio.kind == "affine":
        return weight @ u + ratio.bias[k]
    if ratio.kind == "quadratic":
        return weight[:D] @ u + weight[D:] @ u.square() + ratio.bias[k]
    return weight @ torch.tanh(ratio.inner_weight[k] @ u + ratio.inner_bias[k]) + ratio.bias[k]


@pytest.mark.parametrize("covariance", ["unit", "shared", "per-class"])
@every_kind
def test_all_classes_at_once_are_each_by_itself(kind: str, covariance: str, z: Tensor) -> None:
    ratio, mixture = make_ratio(kind), make_mixture(covariance)
    means, stds = mixture.means, mixture.std()
    z.requires_grad_()
    rows = [[formula(ratio, zi, means[k], stds[k], k) for k in range(K)] for zi in z]
    expected = torch.stack([torch.stack(row) for row in rows])
    got = ratio(z, mixture)
    assert_close(got, expected, rtol=0, atol=1e-11)
    inputs = [z, *ratio.parameters()]
    gradients = [torch.autograd.grad(each.square().sum(), inputs) for each in (got, expected)]
    assert_close(*gradients, rtol=1e-10, atol=1e-10)


@every_kind
def test_ratios_are_zero_at_first(kind: Any, z: Tensor) -> None:
    assert not DensityRatio(K, D, kind).double()(z, make_mixture()).any()


def test_inner_weights_come_from_the_generator() -> None:
    def inner(seed: int) -> Tensor:
        return DensityRatio(K, D, "mlp", generator=torch.Generator().manual_seed(seed)).inner_weight

    assert torch.equal(inner(0), inner(0))
    assert not torch.equal(inner(0), inner(1))
    assert not torch.equal(inner(0)[0], inner(0)[1])


@every_kind
def test_mixtures_only_set_the_units_and_frozen_ratios_teach_z_alone(kind: str, z: Tensor) -> None:
    ratio, mixture = make_ratio(kind), make_mixture()
    z.requires_grad_()
    frozen = ratio.frozen(z, mixture)
    assert torch.equal(frozen, ratio(z, mixture))
    (expected,) = torch.autograd.grad(ratio(z, mixture).sum(), z)
    frozen.sum().backward()
    assert z.grad is not None
    assert torch.equal(z.grad, expected)
    assert all(parameter.grad is None for parameter in ratio.parameters())
    assert all(parameter.requires_grad for parameter in ratio.parameters())
    ratio(z, mixture).sum().backward()
    assert all(parameter.grad is None for parameter in mixture.parameters())
    assert all(parameter.grad is not None for parameter in ratio.parameters())


SAMPLES, STEPS = 2000, 300


def train(kind: Any, mixture: GaussianMixture, q: Normal) -> Tensor:
    """Train on draws, and return the mean |T - log q/p| of each class at other draws: (K,)."""
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
        z = sample_q(y[: 500 * K])
        log_q = q.log_prob(z[:, None]).sum(2)
        errors = (ratio(z, mixture) - (log_q - mixture.log_prob_given_class(z))).abs()
        return errors.view(500, K, K).mean(0).diagonal()


def test_quadratic_discriminators_learn_ratios_of_which_affine_ones_miss_the_variances() -> None:
    mixture = make_mixture()
    mean, std = mixture.means.detach(), mixture.std().detach()
    shifted, spread = Normal(mean + 0.5 * std, std), Normal(mean, 1.6 * std)
    for q in (shifted, spread):
        assert float(train("quadratic", mixture, q).max()) < 0.25
    assert float(train("affine", mixture, shifted).max()) < 0.15
    assert float(train("affine", mixture, spread).min()) > 1
