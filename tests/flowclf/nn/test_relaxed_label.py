"""The two-part encoder: densities of relaxed labels and of latents within a box."""

from math import log
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.distributions import (
    AffineTransform,
    Independent,
    Normal,
    RelaxedOneHotCategorical,
    SigmoidTransform,
    TransformedDistribution,
)
from torch.nn.functional import logsigmoid
from torch.testing import assert_close

from couplings import ElementwiseAffine, Logistic
from couplings.conditioners import kaiming_linear
from couplings.testing import randomize
from flowclf.latent.information import gaussian_log_prob
from flowclf.nn.relaxed_label import (
    LatentPart,
    SquashedGaussian,
    TwoPartEncoder,
    close_corners,
    concrete_log_prob,
    concrete_sample,
    relaxed_label,
)

K, D, F, B = 4, 2, 5, 6
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-10}

every_box = pytest.mark.parametrize("box", [1.5, None], ids=["box", "line"])


def normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def make_encoder(box: float | None = 1.5, *, random: bool = True) -> TwoPartEncoder:
    generator = torch.Generator().manual_seed(3)
    hidden = nn.Sequential(kaiming_linear(F + K, 8, generator), nn.Tanh())
    latent = LatentPart(hidden, *(kaiming_linear(8, D, generator) for _ in range(2)))
    preprocess = ElementwiseAffine((F,), torch.tensor(0.0), torch.tensor(1.0))
    encoder = TwoPartEncoder(preprocess, kaiming_linear(F, K, generator), latent, D, box=box)
    if random:
        randomize(encoder, generator, 0.5)
    return encoder.double()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_concrete_density_is_torchs(temperature: float, generator: Generator) -> None:
    logits = normal(generator, B, K)
    log_y = concrete_sample(logits, temperature, generator)
    reference = RelaxedOneHotCategorical(torch.tensor(temperature).double(), logits=logits)
    got = concrete_log_prob(log_y, logits, temperature)
    assert_close(got, reference.log_prob(log_y.exp()), rtol=1e-8, atol=1e-8)
    assert_close(concrete_log_prob(log_y, logits + 7, temperature), got, **EXACT)
    assert_close(log_y.exp().sum(1), torch.ones(B, dtype=torch.float64), **EXACT)


def test_draws_prefer_a_class_as_often_as_it_is_probable(generator: Generator) -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    log_y = concrete_sample(logits.expand(40_000, -1), 0.7, generator)
    shares = log_y.argmax(1).bincount(minlength=3) / len(log_y)
    assert_close(shares.double(), logits.softmax(1)[0], rtol=0, atol=0.01)


def test_draws_carry_gradients_and_follow_the_generator(generator: Generator) -> None:
    logits = normal(generator, B, K).requires_grad_()
    first, again = (concrete_sample(logits, 1.0, torch.Generator().manual_seed(5)) for _ in "ab")
    assert torch.equal(first, again)
    (gradient,) = torch.autograd.grad(first[:, 0].sum(), logits)
    assert bool(gradient.any())


def test_the_density_at_a_corner_is_largest_where_the_softmax_is_there() -> None:
    corners = close_corners(K, 0.95, torch.zeros((), dtype=torch.float64))
    assert_close(corners.diagonal(), torch.full((K,), 0.95, dtype=torch.float64), **EXACT)
    assert_close(corners.sum(1), torch.ones(K, dtype=torch.float64), **EXACT)
    logits = corners.log().requires_grad_()
    (gradient,) = torch.autograd.grad(concrete_log_prob(corners.log(), logits, 1.0).sum(), logits)
    assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)
    moved = concrete_log_prob(corners.log(), corners.log() * 1.1, 1.0)
    assert bool((moved < concrete_log_prob(corners.log(), corners.log(), 1.0)).all())


def test_known_labels_take_the_place_of_relaxed_ones() -> None:
    y = relaxed_label(torch.tensor([2, -1, 0]), K, torch.full((3, K), 1 / K))
    assert y.tolist() == [[0, 0, 1, 0], [0.25] * 4, [1, 0, 0, 0]]


def test_the_squashed_density_is_torchs(generator: Generator) -> None:
    mean, log_var = normal(generator, B, D), normal(generator, B, D)
    squashed = SquashedGaussian(mean, log_var, Logistic((D,), -1.5, 1.5))
    z, log_prob = squashed.draw(generator)
    transforms = [SigmoidTransform(), AffineTransform(-1.5, 3.0)]
    base = Normal(mean, (0.5 * log_var).exp())
    reference = Independent(TransformedDistribution(base, transforms), 1)
    assert_close(log_prob, reference.log_prob(z), rtol=0, atol=1e-8)
    assert_close(squashed.log_prob(z), log_prob, rtol=0, atol=1e-8)
    assert bool((z.abs() < 1.5).all())


def test_the_box_cancels_against_its_uniform_prior(generator: Generator) -> None:
    """log q(z) - log U[-b, b]^D = log N(t) - Σ log logistic(t), whatever b."""
    x, y = normal(generator, B, F), normal(generator, B, K).softmax(1)
    noise = normal(generator, B, D)
    t, log_normal = make_encoder(None).given(x, y).at(noise)
    log_logistic = logsigmoid(t) + logsigmoid(-t)
    shares = []
    for box in (0.3, 1.5, 40.0):
        encoder = make_encoder(box)
        z, log_q = encoder.given(x, y).at(noise)
        shares.append(z / box)
        difference = log_q - encoder.prior_log_prob(z)
        assert_close(difference, log_normal - log_logistic.sum(1), **EXACT)
        assert_close(shares[-1], shares[0], **EXACT)


@every_box
def test_the_prior_is_uniform_or_normal(box: float | None, generator: Generator) -> None:
    encoder = make_encoder(box)
    z = encoder.prior_sample(torch.empty(50_000, 1, dtype=torch.float64), generator)
    variance = 1.0 if box is None else (2 * box) ** 2 / 12
    assert_close(z.var(0), torch.full((D,), variance).double(), rtol=0.03, atol=0)
    expected = Normal(torch.zeros(D).double(), 1.0).log_prob(z).sum(1)
    if box is not None:
        assert bool((z.abs() < box).all())
        expected = torch.full_like(expected, -D * log(2 * box))
    assert_close(encoder.prior_log_prob(z), expected, **EXACT)
    finite = encoder.given(z[:, :1].expand(-1, F), torch.full((len(z), K), 0.25).double())
    assert bool(finite.log_prob(z).isfinite().all())


@every_box
def test_training_draws_and_evaluation_does_not(box: float | None, generator: Generator) -> None:
    encoder, x = make_encoder(box), normal(generator, B, F)
    with torch.no_grad():
        first, second = encoder.train()(x, generator), encoder(x, generator)
        still = encoder.eval()(x, generator)
    assert not torch.equal(first.z, second.z)
    assert torch.equal(still.z, encoder(x).z)
    assert_close(still.z[:, :K], encoder.logits(x).softmax(1), **EXACT)
    mean = encoder.given(x, still.z[:, :K]).mean
    expected = mean if box is None else box * (2 * mean.sigmoid() - 1)
    assert_close(still.z[:, K:], expected, **EXACT)
    assert_close(first.log_y.exp(), first.z[:, :K], **EXACT)
    assert torch.equal(first.draw(3), first.z[None])


def test_spreads_start_at_the_logarithm_of_two(generator: Generator) -> None:
    encoder = make_encoder(random=False)
    given = encoder.given(normal(generator, B, F), normal(generator, B, K).softmax(1))
    std = (0.5 * given.log_var).exp()
    assert_close(std, torch.full((B, D), log(2) + 1e-5, dtype=torch.float64), **EXACT)
    assert bool(given.mean.any())
    log_normal = gaussian_log_prob(given.mean, given.mean, given.log_var)
    expected = log_normal - Logistic((D,), -1.5, 1.5)(given.mean)[1]
    assert_close(given.at(torch.zeros(1, D).double())[1], expected, **EXACT)
