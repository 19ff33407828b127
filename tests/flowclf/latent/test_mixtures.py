"""Properties that every latent mixture has: Gaussian, of low rank, on the sphere."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Generator, Tensor
from torch.testing import assert_close

from couplings.testing import randomize
from flowclf.latent.gaussian import GaussianMixture
from flowclf.latent.low_rank import LowRankMixture
from flowclf.latent.vmf import VonMisesFisherMixture
from flowclf.support.errors import UserError

K, D, B = 4, 12, 9
MIXTURES: dict[str, Callable[..., GaussianMixture]] = {
    "unit": partial(GaussianMixture, covariance="unit"),
    "shared": partial(GaussianMixture, covariance="shared"),
    "per-class": partial(GaussianMixture, covariance="per-class"),
    "low-rank": partial(LowRankMixture, rank=3, full_dims=4, covariance="shared"),
    "sphere": partial(VonMisesFisherMixture, concentration="shared"),
    "sphere, per class": partial(VonMisesFisherMixture, concentration="per-class"),
}
every_kind = pytest.mark.parametrize("kind", MIXTURES)


def make_mixture(kind: str, dtype: torch.dtype = torch.float64) -> GaussianMixture:
    mixture = MIXTURES[kind](K, D, weights="learned").to(dtype)
    randomize(mixture, torch.Generator().manual_seed(1), 1.0)
    return mixture


def latents(generator: Generator, batch: int = B) -> Tensor:
    return 2 * torch.randn(batch, D, generator=generator, dtype=torch.float64)


@every_kind
def test_the_posterior_can_leave_the_weights_alone(kind: str, generator: Generator) -> None:
    mixture, z = make_mixture(kind), latents(generator)
    fixed = mixture.log_posterior(z, learn_weights=False)
    assert torch.equal(fixed, mixture.log_posterior(z))
    reached, of = kind in ("unit", "shared"), mixture.weight_logits
    (gradient,) = torch.autograd.grad(fixed[:, 0].sum(), of, allow_unused=not reached)
    assert not gradient.any() if reached else gradient is None


@every_kind
def test_autocast_does_not_reach_the_densities(kind: str, generator: Generator) -> None:
    mixture, z = make_mixture(kind, torch.float32), latents(generator).bfloat16()
    for method in ("log_prob", "log_prob_given_class", "log_posterior"):
        expected = getattr(mixture, method)(z.float())
        with torch.autocast("cpu", torch.bfloat16):
            got = getattr(mixture, method)(z)
        assert got.dtype == torch.float32
        assert torch.equal(got, expected)


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("kind", [kind for kind in MIXTURES if "sphere" not in kind])
def test_float32_is_stable_far_out(kind: str, offset: float, generator: Generator) -> None:
    """‖z‖² = 10⁴ (10⁶ with the offset), squared distances to the classes that differ by 1."""
    z = torch.randn(1000, generator=generator, dtype=torch.float64)
    z *= 100 / z.norm()
    squares = 1e4 + torch.arange(10.0, dtype=torch.float64)
    across = torch.randn(10, 1000, generator=generator, dtype=torch.float64)
    across -= (across @ z)[:, None] * z / 1e4
    across *= 3.5 / across.norm(dim=1, keepdim=True)
    means = across + (1 - (squares - 3.5**2).sqrt() / 100)[:, None] * z + offset
    options = {"rank": 10, "full_dims": 100} if kind == "low-rank" else {}
    single, exact = (MIXTURES[kind](10, 1000, **options) for _ in "ab")
    for name, parameter in single.named_parameters():
        if name == "mean_basis":
            parameter.data.copy_(torch.linalg.qr(means[:, 100:].T).Q.T)
    single.set_means(means.float())
    exact.double().load_state_dict(single.state_dict())
    z32 = (z + offset).float()[None]
    expected = exact.log_posterior(z32.double())
    assert_close(expected, (-squares / 2).log_softmax(0)[None], rtol=0, atol=0.02)
    assert_close(single.log_posterior(z32).double(), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("y", "temperature", "message"),
    [
        ([0, K], 1.0, f"0..{K - 1}, got {K}"),
        ([-1, 0], 1.0, f"0..{K - 1}, got -1"),
        ([0.0], 1.0, "torch.float32"),
        ([0], -0.1, "temperature >= 0, got -0.1"),
        ([0], float("nan"), "temperature >= 0, got nan"),
    ],
)
@every_kind
def test_impossible_samples(kind: str, y: list[float], temperature: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_mixture(kind).sample(torch.tensor(y), temperature)


@pytest.mark.parametrize("means", [torch.ones(K, D + 1), torch.full((K, D), float("nan"))])
@every_kind
def test_impossible_means_are_refused(kind: str, means: Tensor) -> None:
    with pytest.raises(UserError, match=rf"finite means of shape \({K}, {D}\)"):
        make_mixture(kind).set_means(means)


@pytest.mark.parametrize(
    ("y", "missing"), [([0, 3], r"none of \[1, 2\]"), ([0], r"none of \[1, 2, 3\]")]
)
@every_kind
def test_averages_need_samples(kind: str, y: list[int], missing: str, generator: Generator) -> None:
    mixture = make_mixture(kind)
    before = mixture.means.clone()
    with pytest.raises(UserError, match=missing):
        mixture.class_averages([(latents(generator, len(y)), torch.tensor(y))])
    assert torch.equal(mixture.means, before)


@pytest.mark.parametrize("kind", [kind for kind in MIXTURES if kind != "low-rank"])
def test_averages_are_of_what_the_densities_are_of(kind: str, generator: Generator) -> None:
    mixture, z = make_mixture(kind), latents(generator)
    y = torch.tensor([0, 3, 1, 1, 2, 3, 3, 0, 0])
    expected = torch.stack([mixture.embed(z)[y == k].mean(0) for k in range(K)])
    averages = mixture.class_averages([(z[:4], y[:4]), (z[4:], y[4:])])
    assert_close(averages, expected)
    mixture.set_means(averages)
    assert_close(mixture.means, expected)
