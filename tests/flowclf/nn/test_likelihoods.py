"""p(x|z): against torch.distributions, normalisation over the grey levels, units."""

from math import log

import pytest
import torch
from torch.testing import assert_close

from flowclf.nn.likelihoods import Bernoulli, DiscretizedLogistic, Gaussian, make_likelihood
from flowclf.support.errors import UserError

SHAPE = (1, 2, 3)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_bernoulli_is_that_of_binary_images() -> None:
    out, x = draw(5, 1, *SHAPE), 255.0 * (draw(5, *SHAPE, seed=1) > 0)
    reference = torch.distributions.Bernoulli(logits=out[:, 0]).log_prob(x.double() / 255)
    likelihood = Bernoulli(SHAPE, 256)
    assert_close(likelihood.log_prob(x, out), reference.flatten(1).sum(1))
    assert_close(likelihood.mean(out), 255 * out[:, 0].sigmoid())
    assert likelihood.is_bound(x)
    assert not likelihood.is_bound(x / 2)


def test_gaussian_is_a_density_in_units_of_the_data() -> None:
    likelihood = Gaussian(SHAPE, 256).double()
    likelihood.log_std.data.fill_(log(0.3))
    out, x = draw(4, 1, *SHAPE), 100 * draw(4, *SHAPE, seed=1)
    reference = torch.distributions.Normal(127.5 * (1 + out[:, 0]), 127.5 * 0.3).log_prob(x)
    assert_close(likelihood.log_prob(x, out), reference.flatten(1).sum(1))


def test_gaussian_takes_over_the_units_of_a_table() -> None:
    x, out = 3 + 2 * draw(50, 4), draw(50, 1, 4, seed=1)
    x[:, 3] = 7
    values = []
    for scale in (1.0, 10.0):
        likelihood = Gaussian((4,), None).double()
        likelihood.fit(scale * x)
        # The constant feature has no unit to be rescaled.
        constant = torch.distributions.Normal(scale * x[:, 3] + out[:, 0, 3], 1.0)
        values.append(likelihood.log_prob(scale * x, out) - constant.log_prob(scale * x[:, 3]))
    shift = values[0] - values[1]
    assert_close(shift, torch.full_like(shift, 3 * log(10)))


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_probabilities_of_all_grey_levels_sum_to_one(levels: int) -> None:
    likelihood = DiscretizedLogistic((1, 1, 1), levels)
    out = torch.tensor([[-1.3, 1.0], [0.2, -1.0], [0.9, 3.0], [4.0, -4.0]], dtype=torch.float64)
    out = out[:, :, None, None, None]
    x = torch.arange(float(levels), dtype=torch.float64)[:, None, None, None]
    for each in out:
        log_prob = likelihood.log_prob(x, each.expand(levels, -1, -1, -1, -1))
        assert_close(log_prob.exp().sum(), torch.tensor(1.0, dtype=torch.float64))


def test_the_logistic_is_a_difference_of_sigmoids() -> None:
    likelihood = DiscretizedLogistic(SHAPE, 256)
    # Broad ones, whose sigmoids do not cancel.
    out, x = 0.3 * draw(6, 2, *SHAPE) + 1, torch.arange(1.0, 37.0).double().view(6, *SHAPE) * 7
    mean, scale = 127.5 * (1 + out[:, 0]), 128 * (out[:, 1] - 2).exp()
    upper, lower = ((x + 0.5 - mean) / scale).sigmoid(), ((x - 0.5 - mean) / scale).sigmoid()
    assert_close(likelihood.log_prob(x, out), (upper - lower).log().flatten(1).sum(1))


def test_the_logistic_stays_finite_where_sigmoids_cancel() -> None:
    likelihood = DiscretizedLogistic((1, 1, 1), 256)
    out = torch.tensor([[9.0, -50.0], [-9.0, -50.0], [0.0, 40.0]])[:, :, None, None, None]
    out.requires_grad_()
    for level in (0.0, 1.0, 128.0, 255.0):
        log_prob = likelihood.log_prob(torch.full((3, 1, 1, 1), level), out)
        (gradient,) = torch.autograd.grad(log_prob.sum(), out)
        assert bool(log_prob.isfinite().all())
        assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("kind", ["bernoulli", "logistic"])
def test_tables_have_no_grey_levels(kind: str) -> None:
    with pytest.raises(UserError, match="likelihood=gaussian"):
        make_likelihood(kind, (4,), None)  # type: ignore[arg-type]
