"""Bounds of log p(x) against numerical integration, and what is drawn from p(x|y)."""

from functools import partial
from math import log
from typing import Any

import pytest
import torch
from small_systems import small
from torch import Tensor
from torch.testing import assert_close

from couplings.testing import randomize
from flowclf import build
from flowclf.nn.label_heads import NetworkBranch
from flowclf.systems.autoencoder import Autoencoder

MIXTURE = {"start": "equidistant", "means": "learned", "distance": 3.0}
WITH_MIXTURE = {
    "mixture": MIXTURE,
    "branch": {"kind": "mixture"},
    "objective": {"branch": 1.0},
}


def tiny(**settings: Any) -> Autoencoder:
    """One latent dimension, float64; q(z|x) is wide enough for importance sampling."""
    networks = small("vae", hidden=6)
    model = build("vae", shape=(1, 2, 2), classes=3, **{"latent": 1, **networks, **settings})
    assert isinstance(model, Autoencoder)
    generator = torch.Generator().manual_seed(1)
    randomize(model.decoder, generator)
    last = list(model.encoder.parameters())[-2:]
    for parameter in last:
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    last[1].data[1] = 1.0 if not settings.get("mixture") else 2.5
    return model.double().eval()


def images(count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return 255 * torch.randint(2, (count, 1, 2, 2), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def integrated(model: Autoencoder, x: Tensor, y: Tensor | None = None) -> Tensor:
    """log ∫ p(x|z) p(z) dz on a grid; with y, p(z|y)."""
    grid = torch.linspace(-12, 12, 6001, dtype=torch.float64)[:, None]
    prior = model.mixture.log_prob(grid)
    if y is not None:
        prior = model.mixture.log_prob_given_class(grid)[:, y[0]]
    rows = [model.log_likelihood(each.double().expand(len(grid), *x.shape[1:]), grid) for each in x]
    return torch.stack([(row + prior).logsumexp(0) + log(24 / 6000) for row in rows])


@pytest.mark.parametrize("mixture", [{}, MIXTURE], ids=["normal", "mixture"])
def test_bounds_close_on_the_integral(mixture: dict[str, Any]) -> None:
    settings = WITH_MIXTURE if mixture else {}
    model, x = tiny(**settings), images()
    truth, elbo = integrated(model, x), model.elbo(x).detach()
    bound = partial(model.importance_bound, x, generator=torch.Generator().manual_seed(0))
    few, many = torch.stack([bound(draws=5) for _ in range(400)]).mean(0), bound(draws=20_000)
    assert bool((elbo < few).all())
    assert bool((few < truth).all())
    assert_close(many, truth, atol=0.02, rtol=0)


def test_conditional_bounds_close_on_theirs_and_sum_to_the_marginal() -> None:
    model, x = tiny(**WITH_MIXTURE), images()

    def bound(y: Tensor | None) -> Tensor:
        return model.importance_bound(x, y, 20_000, torch.Generator().manual_seed(0))

    classes = [torch.full((len(x),), k) for k in range(3)]
    per_class, marginal = [bound(y) for y in classes], bound(None)
    for y, got in zip(classes, per_class, strict=True):
        assert_close(got, integrated(model, x, y), atol=0.05, rtol=0)
    assert_close(torch.stack(per_class).logsumexp(0) - log(3), marginal)


def test_one_draw_is_the_elbo_on_average() -> None:
    model, x = tiny(), images()
    x = x.repeat_interleave(20_000, 0)
    one = model.importance_bound(x, draws=1, generator=torch.Generator().manual_seed(0))
    encoding = model.encode(x[::20_000])
    z = encoding.draw(20_000, torch.Generator().manual_seed(1)).transpose(0, 1).flatten(0, 1)
    rec = model.log_likelihood(x.double(), z).view(5, -1).mean(1)
    assert encoding.mean is not None
    kl = model.kl(encoding, model.densities(encoding.mean))
    assert_close(one.view(5, -1).mean(1), (rec - kl).detach(), atol=0.15, rtol=0)


def test_what_a_sample_is_does_not_depend_on_its_batch() -> None:
    model, x = tiny(), images()
    assert_close(model.elbo(x)[2:3], model.elbo(x[2:3]))
    assert_close(model.log_posterior(x)[2:3], model.log_posterior(x[2:3]))


def test_samples_are_of_the_class_that_the_branch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(branch={"hidden": ()})
    branch = model.heads["branch"]
    assert isinstance(branch, NetworkBranch)
    branch[0].weight.data = torch.tensor([[-9.0], [0.0], [9.0]], dtype=torch.float64)
    monkeypatch.setattr(model, "decode", lambda z: z[:, 0])
    y, generator = torch.tensor([0, 2] * 100), torch.Generator().manual_seed(0)
    z = model.sample(y, generator=generator)
    assert bool((z[y == 0] < 0.2).all())
    assert bool((z[y == 2] > -0.2).all())
    assert not model.sample(y, temperature=0.0, generator=generator).any()
    model.mixture.data_means += torch.tensor([[-5.0], [0.0], [5.0]], dtype=torch.float64)
    z = model.sample(y, 0.5, generator, "data")
    for k, mean in ((0, -5), (2, 5)):
        assert_close(z[y == k].mean(), torch.tensor(mean).double(), atol=0.2, rtol=0)
        assert_close(z[y == k].std(), torch.tensor(0.5).double(), atol=0.15, rtol=0)
    assert model.sample(y[:0]).shape == (0,)


def test_bits_are_bounded_of_black_and_white_alone() -> None:
    model, x = tiny(), images()
    assert (model.bounds_bits(x), model.bounds_bits(x // 2)) == (True, False)
    assert model.interpolate(x, x.flip(0), 3).shape == (3, *x.shape)
