"""Information estimates: identities that hold at every latent, bounds, and values known exactly."""

from math import log

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Normal
from torch.testing import assert_close

from couplings.testing import randomize
from flowclf.latent import information as info
from flowclf.nn.sample_softmax import IdentitySoftmax
from flowclf.objectives import gaussian_kl
from flowclf.support.errors import UserError

N, D, DRAWS = 12, 3, 400
EXACT = 1e-10

Encoder = Latents = tuple[Tensor, Tensor]


@pytest.fixture
def encoder(generator: Generator) -> Encoder:
    """Draw means and log-variances of N overlapping Gaussians in float64."""
    mean, log_var = torch.randn(2, N, D, generator=generator, dtype=torch.float64)
    return mean, log_var - 1


@pytest.fixture
def latents(encoder: Encoder, generator: Generator) -> Latents:
    """Draw from each Gaussian; return the draws and the Gaussians' indices."""
    index = torch.arange(N * DRAWS) % N
    mean, log_var = (rows[index] for rows in encoder)
    noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64)
    return mean + (0.5 * log_var).exp() * noise, index


def prior_log_prob(z: Tensor) -> Tensor:
    return info.gaussian_log_prob(z, torch.zeros_like(z), torch.zeros_like(z))


def brute_log_joint(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Return log q(z|x_i)/N of all i, (B, N)."""
    return Normal(mean, (0.5 * log_var).exp()).log_prob(z[:, None]).sum(2) - log(N)


def sampled(z: Tensor, index: Tensor, encoder: Encoder) -> dict[str, float]:
    """Estimate MI and MD with all N components."""
    mean, log_var = encoder
    return info.information(z, mean[index], log_var[index], mean, log_var, prior_log_prob(z))


def close(got: Tensor, expected: Tensor) -> None:
    assert_close(got, expected, rtol=0, atol=EXACT)


def test_densities_are_those_of_torch(
    encoder: Encoder, latents: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    (z, index), joint = latents, brute_log_joint(latents[0], *encoder)
    own = joint.gather(1, index[:, None])[:, 0]
    mean, log_var = encoder
    close(info.gaussian_log_prob(z, mean[index], log_var[index]), own + log(N))
    close(info.aggregate(*encoder).log_posterior(z), joint.log_softmax(1))
    for numbers in (4_000_000, 7 * N, 1):
        monkeypatch.setattr(info, "NUMBERS", numbers)
        part = slice(None, 50)
        close(info.aggregate_log_prob(z[part], *encoder), joint[part].logsumexp(1))


def test_narrow_gaussians_in_float32(generator: Generator) -> None:
    mean = torch.randn(N, 40, generator=generator)
    log_var = 2 * (0.001 + torch.rand(N, 40, generator=generator)).log()
    z = mean + (0.5 * log_var).exp() * torch.randn(N, 40, generator=generator)
    got = info.aggregate_log_prob(z, mean, log_var)
    expected = brute_log_joint(z.double(), mean.double(), log_var.double()).logsumexp(1)
    assert_close(got, expected, rtol=0, atol=1e-6)


def test_the_aggregate_is_frozen_and_draws_like_the_encoder(encoder: Encoder) -> None:
    mixture = info.aggregate(*(rows.float() for rows in encoder))
    assert not any(parameter.requires_grad for parameter in mixture.parameters())
    assert_close(mixture.means, encoder[0].float().double())
    assert_close(mixture.std(), (0.5 * encoder[1].float().double()).exp())
    assert_close(mixture.log_weights.exp(), torch.full((N,), 1 / N, dtype=torch.float64))


def test_gradients_reach_z_alone(encoder: Encoder, latents: Latents) -> None:
    z = latents[0][:5].requires_grad_()
    mean = encoder[0].requires_grad_()
    (got,) = torch.autograd.grad(info.aggregate_log_prob(z, *encoder).sum(), z)
    (expected,) = torch.autograd.grad(brute_log_joint(z, *encoder).logsumexp(1).sum(), z)
    close(got, expected)
    assert not info.aggregate_log_prob(z.detach(), mean, encoder[1]).requires_grad


def test_a_diverged_encoder_is_named(encoder: Encoder) -> None:
    encoder[0][0, 0] = torch.nan
    with pytest.raises(UserError, match="finite means"):
        info.aggregate(*encoder)


def test_kl_is_information_and_marginal_divergence(encoder: Encoder, latents: Latents) -> None:
    z, index = latents
    found = sampled(z, index, encoder)
    own = info.gaussian_log_prob(z, *(rows[index] for rows in encoder))
    pointwise = own - prior_log_prob(z)
    assert found["mi_nats"] + found["md_nats"] == pytest.approx(float(pointwise.mean()), abs=EXACT)
    deviation = float(pointwise.std()) / len(z) ** 0.5
    kl = float(gaussian_kl(*encoder).mean())
    assert abs(float(pointwise.mean()) - kl) < 4 * deviation


def test_the_posterior_makes_both_bounds_equalities(encoder: Encoder, latents: Latents) -> None:
    (z, index), found = latents, sampled(*latents, encoder)
    log_posterior = brute_log_joint(z, *encoder).log_softmax(1)  # by Bayes' rule
    sc = -float(log_posterior.gather(1, index[:, None]).mean())
    assert log(N) - sc == pytest.approx(found["mi_nats"], abs=EXACT)
    kl = found["mi_nats"] + found["md_nats"]
    assert kl + sc - log(N) == pytest.approx(found["md_nats"], abs=EXACT)


def random_softmax(latents: Latents, tags: int = 1) -> tuple[IdentitySoftmax, float]:
    """Return a softmax of random weights and its mean cross-entropy."""
    softmax = IdentitySoftmax(N, D, (6,), tags=tags).double()
    randomize(softmax, torch.Generator().manual_seed(1), 0.3)
    with torch.no_grad():
        return softmax, float(softmax(*latents)[0].mean())


@pytest.mark.parametrize("tags", [1, 2])
def test_any_softmax_bounds_both(tags: int, encoder: Encoder, latents: Latents) -> None:
    found, (softmax, sc) = sampled(*latents, encoder), random_softmax(latents, tags)
    kl = found["mi_nats"] + found["md_nats"]
    assert softmax.log_count - sc < found["mi_nats"]
    assert kl + sc - softmax.log_count > found["md_nats"]


def test_the_posterior_is_a_softmax_layer_on_squares(encoder: Encoder, latents: Latents) -> None:
    """W = [m/s², -½/s²], b = -½ Σ (m²/s² + log s²)."""
    (z, index), (mean, log_var) = latents, encoder
    softmax, precision = IdentitySoftmax(N, D, ()).double(), (-log_var).exp()
    with torch.no_grad():
        softmax.last.weight.copy_(torch.cat((mean * precision, -0.5 * precision), 1))
        softmax.last.bias.copy_(-0.5 * (mean.square() * precision + log_var).sum(1))
    log_posterior = brute_log_joint(z, *encoder).log_softmax(1)
    for i in range(N):
        close(softmax(z, torch.full_like(index, i))[0], -log_posterior[:, i])
    close(softmax(z, index)[1], -(log_posterior.exp() * log_posterior).sum(1))


def test_both_bounds_weighted_make_a_beta_vae(encoder: Encoder, latents: Latents) -> None:
    softmax, sc = random_softmax(latents)
    kl = float(gaussian_kl(*encoder).mean())
    mi, md = softmax.log_count - sc, kl + sc - softmax.log_count
    for alpha, beta in ((1.0, 1.0), (0.3, 2.0), (5.0, 0.1)):
        combined = beta * kl + (beta - alpha) * (sc - log(N))
        assert alpha * mi + beta * md == pytest.approx(combined, abs=EXACT)


def test_distant_gaussians_hold_all_that_can_be_known(generator: Generator) -> None:
    mean = 1000 * torch.arange(N, dtype=torch.float64)[:, None].expand(N, D)
    log_var = torch.zeros(N, D, dtype=torch.float64)
    z = mean + torch.randn(N, D, generator=generator, dtype=torch.float64)
    prior = torch.zeros(N)
    full = info.information(z, mean, log_var, mean, log_var, prior)
    assert info.minibatch_information(z, mean, log_var, prior, N) == pytest.approx(full)
    assert full["mi_nats"] == pytest.approx(log(N))
    for batch in (1, 4, 5):
        found = info.minibatch_information(z, mean, log_var, prior, batch)
        sizes = [batch] * (N // batch) + [N % batch] * (N % batch > 0)
        expected = sum(size * log(size) for size in sizes) / N
        assert found["mi_nats"] == pytest.approx(expected, abs=1e-9)
        total = found["mi_nats"] + found["md_nats"]
        assert total == pytest.approx(full["mi_nats"] + full["md_nats"])


def test_foreign_components_overestimate_information(encoder: Encoder, latents: Latents) -> None:
    (z, index), (mean, log_var) = latents, encoder
    own = (rows[index] for rows in encoder)
    foreign = info.information(z, *own, mean[:1] + 5, log_var[:1], prior_log_prob(z))
    assert foreign["mi_nats"] > sampled(z, index, encoder)["mi_nats"] + 1


def test_identical_gaussians_know_nothing(generator: Generator) -> None:
    z = torch.randn(50, D, generator=generator)
    zeros = torch.zeros(50, D)
    found = info.information(z, zeros, zeros, zeros, zeros, prior_log_prob(z))
    assert found == pytest.approx({"mi_nats": 0.0, "md_nats": 0.0}, abs=1e-6)


def test_active_units() -> None:
    mean = torch.tensor([[1.0, -1.0], [0.3, -0.3], [0.1001, -0.1001], [0.09, -0.09], [0.0, 0.0]]).T
    assert info.active_units(mean + 7) == 3
    assert info.active_units(mean, threshold=0.5) == 1
    assert info.active_units(mean[:1]) == 0
