"""The latent mixture against torch.distributions; its identities are in test_identities.py."""

from math import sqrt
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from couplings.testing import randomize
from flowclf.latent.gaussian import GaussianMixture, equidistant_means
from flowclf.support.errors import UserError

K, D, B = 4, 6, 9

every_covariance = pytest.mark.parametrize("covariance", ["unit", "shared", "per-class"])


def make_mixture(covariance: Any, weights: Any = "learned") -> GaussianMixture:
    mixture = GaussianMixture(K, D, covariance=covariance, weights=weights).double()
    randomize(mixture, torch.Generator().manual_seed(1), 1.0)
    if weights == "empirical":
        mixture.set_weights(torch.arange(1, K + 1))
    return mixture


def variances(mixture: GaussianMixture) -> Tensor:
    if mixture.covariance == "unit":
        return torch.ones_like(mixture.means)
    return mixture.log_var.exp().expand_as(mixture.means)


def reference(mixture: GaussianMixture, weights: str) -> MixtureSameFamily:
    counts = {
        "uniform": torch.ones(K),
        "empirical": torch.arange(1, K + 1),
        "learned": mixture.weight_logits.exp(),
    }[weights].double()
    probabilities = counts / counts.sum()
    components = MultivariateNormal(mixture.means, torch.diag_embed(variances(mixture)))
    return MixtureSameFamily(Categorical(probabilities), components)


@pytest.mark.parametrize("weights", ["uniform", "empirical", "learned"])
@every_covariance
def test_densities_and_posterior_are_those_of_torch_distributions(
    covariance: str, weights: str, generator: Generator
) -> None:
    mixture = make_mixture(covariance, weights)
    z = (2 * torch.randn(B, D, generator=generator, dtype=torch.float64)).requires_grad_()
    expected = reference(mixture, weights)
    given_class = expected.component_distribution.log_prob(z[:, None])
    joint = given_class + expected.mixture_distribution.logits
    exact = {"rtol": 0, "atol": 1e-11}
    assert_close(mixture.log_prob_given_class(z), given_class, **exact)
    assert_close(mixture.log_prob(z), expected.log_prob(z), **exact)
    assert_close(mixture.log_posterior(z), joint.log_softmax(1), **exact)
    inputs = [z, *(p for p in mixture.parameters() if p.numel() and p.requires_grad)]
    totals = (each.log_prob(z).sum() for each in (mixture, expected))
    assert_close(*(torch.autograd.grad(total, inputs) for total in totals), **exact)


class LargestTensor(TorchDispatchMode):
    """Mode that remembers the largest tensor of all operations."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        self.numel = max([self.numel, *(tensor.numel() for tensor in tensors)])
        return out


@every_covariance
def test_nothing_larger_than_its_inputs_and_outputs_is_made(covariance: Any) -> None:
    batch, classes, dims = 64, 50, 500
    mixture = GaussianMixture(classes, dims, covariance=covariance, weights="learned")
    z = torch.zeros(batch, dims, requires_grad=True)
    with LargestTensor() as largest:
        total = mixture.log_prob(z).sum() + mixture.log_posterior(z)[:, 0].sum()
        (total + mixture.log_prob_given_class(z).sum()).backward()
    assert mixture.means.grad is not None
    assert largest.numel == batch * dims  # against 50 times as many for (B, K, D)
    with LargestTensor() as largest:
        (z[:, None] - mixture.means).square().sum(2)
    assert largest.numel == batch * classes * dims


@every_covariance
def test_samples_have_the_moments_of_their_class(covariance: str, generator: Generator) -> None:
    mixture, n = make_mixture(covariance), 20_000
    z = mixture.sample(torch.full((n,), 2), generator=generator)
    mean, std = mixture.means[2], variances(mixture)[2].sqrt()
    assert (((z.mean(0) - mean) / std).abs() < 5 / sqrt(n)).all()
    assert ((z.std(0) / std - 1).abs() < 5 / sqrt(2 * n)).all()
    correlations = torch.corrcoef(z.detach().T) - torch.eye(D)
    assert float(correlations.abs().max()) < 5 / sqrt(n)


@every_covariance
def test_temperature_scales_the_deviations_from_the_means(covariance: str) -> None:
    mixture, y = make_mixture(covariance), torch.tensor([3, 0, 0, 2])

    def sample(temperature: float, seed: int = 5) -> Tensor:
        return mixture.sample(y, temperature, torch.Generator().manual_seed(seed))

    assert torch.equal(sample(0.0), mixture.means[y])
    assert torch.equal(sample(1.0), sample(1.0))
    assert not torch.equal(sample(1.0), sample(1.0, seed=6))
    assert_close(sample(0.7) - mixture.means[y], 0.7 * (sample(1.0) - mixture.means[y]))


@pytest.mark.parametrize(
    ("classes", "dims", "side"), [(10, 3072, 0.2018), (10, 784, 0.4003), (100, 3072, 0.6455)]
)
def test_initial_means_are_those_of_the_authors(classes: int, dims: int, side: float) -> None:
    """Compare with their code, whose distance for CIFAR-100 rounds to 4.96 instead of 5."""
    means = equidistant_means(classes, dims, 5.0)
    used = dims // classes * classes
    assert means.shape == (classes, dims)
    assert_close(means.max().item(), side, rtol=0, atol=5e-5)
    for block in means[:, :used].split(classes, dim=1):
        assert torch.equal(block, means.max() * torch.eye(classes))
    assert not means[:, used:].any()
    assert_close(means.norm(dim=1), torch.full((classes,), 3.5355), rtol=0, atol=1e-4)
    assert_close(torch.pdist(means), torch.full((classes * (classes - 1) // 2,), 5.0))


def test_mean_distance_averages_over_pairs() -> None:
    mixture = GaussianMixture(3, 2)
    mixture.set_means(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]))
    assert_close(mixture.mean_distance(), torch.tensor((3 + 4 + 5) / 3))


@pytest.mark.parametrize("counts", [[1, 2, 3, 0], [1, 2, 3], [1, 1, 1, -1]])
def test_counts_that_are_no_weights_are_refused(counts: list[int]) -> None:
    with pytest.raises(UserError, match="4 positive class counts"):
        make_mixture("unit").set_weights(torch.tensor(counts))


def test_what_is_not_learned_gets_no_gradient() -> None:
    z = torch.ones(1, D, requires_grad=True)
    frozen = GaussianMixture(K, D, means="frozen", weights="uniform")
    for mixture in (frozen, GaussianMixture(K, D, means="learned", weights="learned")):
        (mixture.log_prob(z) + mixture.log_posterior(z)[:, 0]).sum().backward()
        assert (mixture.means.grad is None) == (mixture is frozen)
        assert (mixture.weight_logits.grad is None) == (mixture is frozen)


@pytest.mark.parametrize(("classes", "dims"), [(10, 2), (10, 3), (7, 1), (4, 3)])
def test_few_dimensions_have_their_means_spread_over_them(classes: int, dims: int) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    means, again, other = (equidistant_means(classes, dims, 5.0, each) for each in generators)
    assert_close(torch.pdist(means).mean(), torch.tensor(5.0))
    nearest = (torch.cdist(means, means) + 1e9 * torch.eye(classes)).amin(1)
    assert_close(nearest, nearest.mean().expand(classes), rtol=0.02, atol=0)
    assert torch.equal(means, again)
    assert torch.equal(means, equidistant_means(classes, dims, 5.0))
    assert not torch.equal(means, other)


def test_means_start_where_they_are_asked_to() -> None:
    seeded = {"generator": torch.Generator().manual_seed(0)}
    sphere = GaussianMixture(4, 50, start="sphere").means
    assert_close(sphere.norm(dim=1), torch.full((4,), 50**0.5))
    assert_close(sphere @ sphere.T, 50 * torch.eye(4), atol=1e-4, rtol=0)
    linear = GaussianMixture(100, 64, start="linear", **seeded).means
    assert 0.12 < float(linear.detach().abs().max()) <= 1 / 8
    normal = GaussianMixture(100, 64, start="normal", **seeded).means
    assert abs(float(normal.detach().std()) - 1) < 0.05
