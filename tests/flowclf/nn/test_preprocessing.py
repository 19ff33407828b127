"""The fitted first stage: standardisation, and marginals that are as normal as they can be."""

from math import log, pi

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.testing import assert_close

from couplings import ElementwiseAffine, Invertible, PiecewiseLinear, YeoJohnson
from couplings.testing import assert_invertible
from flowclf import build
from flowclf.nn.preprocessing import (
    Per,
    fit_marginals,
    fit_preprocess,
    level_knots,
    make_preprocess,
)
from flowclf.support.errors import UserError

IMAGE = (2, 4, 4)
every_marginal = pytest.mark.parametrize("marginal", [0.0, 0.3, 1.0])


def skewed_images(generator: Generator, count: int, shape: tuple[int, ...] = IMAGE) -> Tensor:
    """Draw images whose pixels differ in mean and width, half of all values black as ink is."""
    centre = torch.rand(shape, generator=torch.Generator().manual_seed(9)) * 256
    values = centre + (5 + 0.3 * centre) * torch.randn(count, *shape, generator=generator)
    ink = torch.rand(count, *shape, generator=generator) < 0.5
    return (values.clamp(0, 255) * ink).round().to(torch.uint8)


def log_density(stage: Invertible, x: Tensor) -> Tensor:
    """Return the log-density of x if the stage's output is standard normal, (B,)."""
    u, log_det = stage(x)
    return (-0.5 * u.square() - 0.5 * log(2 * pi)).flatten(1).sum(1) + log_det


def fitted(
    x: Tensor,
    marginal: float,
    per: Per = "dim",
    floor: float = 0.1,
    levels: int | None = 256,
    fine_ends: bool = False,
) -> Invertible:
    stage = make_preprocess(tuple(x.shape[1:]), levels, marginal, fine_ends=fine_ends).double()
    fit_preprocess(stage, x, marginal=marginal, floor=floor, per=per)
    return stage


def bin_probabilities(x: Tensor, knots: Tensor, pseudo_counts: float) -> Tensor:
    """Count points spread over each level by numpy, and the pseudo-counts evenly over the levels.

    256 of them, as knots within a level are at multiples of 1/256.
    """
    edges, within = knots.numpy(), (np.arange(256) + 0.5) / 256
    points = (column[:, None] + within for column in x.T.numpy())
    counts = np.stack([np.histogram(column, edges)[0] for column in points]) / 256
    smoothed = counts + pseudo_counts * np.diff(edges) / edges[-1]
    return torch.from_numpy(smoothed / (len(x) + pseudo_counts))


def objective(values: Tensor, p: Tensor) -> Tensor:
    a, b = values[:, :-1], values[:, 1:]
    return (p * ((b - a).log() - (a * a + a * b + b * b) / 6)).sum(1)


@pytest.mark.parametrize("fine_ends", [False, True])
@pytest.mark.parametrize("pseudo_counts", [1.0, 20.0])
def test_fitted_marginals_are_the_maximum(
    pseudo_counts: float, fine_ends: bool, generator: Generator
) -> None:
    x, knots = skewed_images(generator, 500, (6,)).long(), level_knots(256, fine_ends)
    values = fit_marginals(x, knots, pseudo_counts)
    assert (values.diff(dim=1) > 0).all()
    p = bin_probabilities(x, knots, pseudo_counts)
    leaf = values.clone().requires_grad_()
    best = objective(leaf, p)
    (gradient,) = torch.autograd.grad(best.sum(), leaf)
    assert float(gradient.abs().max()) < 1e-7
    for scale in [1e-4, 1e-2] * 20:
        noise = torch.randn(values.shape, generator=generator, dtype=values.dtype)
        step = scale * noise * values.diff(dim=1).min(1, keepdim=True).values
        assert (objective(values + step, p) < best).all()


def test_fitted_marginals_are_the_likeliest_of_dequantised_data(generator: Generator) -> None:
    """Without the formula: through the map, on a fine grid within each grey level."""
    x, knots = torch.arange(8)[:, None].repeat(5, 3), level_knots(8)
    x = torch.cat((x, torch.randint(0, 3, (60, 3), generator=generator)))
    grid = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    fine = (x[:, None, :] + grid[:, None]).flatten(0, 1)

    def likelihood(values: Tensor) -> float:
        return float(log_density(PiecewiseLinear((3,), knots, values), fine).mean())

    values = fit_marginals(x, knots, pseudo_counts=1e-6)
    best, gap = likelihood(values), float(values.diff(dim=1).min())
    for _ in range(10):
        noise = torch.randn(values.shape, generator=generator, dtype=values.dtype)
        assert likelihood(values + 0.1 * gap * noise) < best
    assert likelihood(1.05 * values) < best
    assert likelihood(values + 0.05) < best


def test_normal_marginals_are_left_as_they_are(generator: Generator) -> None:
    """A fine-grained normal marginal is standardised, and the knots lie on one line."""
    x = (16 + 4 * torch.randn(200_000, 1, generator=generator)).round().clamp(0, 31).long()
    knots = level_knots(32)
    line, inner = (knots - x.double().mean() - 0.5) / 4, slice(8, 25)  # ±2σ
    assert_close(fit_marginals(x, knots)[0, inner], line[inner], rtol=0, atol=0.05)


@pytest.mark.parametrize("kind", ["skewed", "constant", "two values"])
def test_likelihood_is_better_than_standardised(kind: str, generator: Generator) -> None:
    train, test = skewed_images(generator, 400), skewed_images(generator, 200)
    if kind != "skewed":
        train, test = ((x > 20).to(torch.uint8) * 255 for x in (train, test))
    if kind == "constant":
        train[:, 0], test[:, 0] = 0, 0
    noisy = test.double() + torch.rand(test.shape, generator=generator, dtype=torch.float64)
    standardised, halfway, normal = (
        log_density(fitted(train, marginal, floor=1e-3), noisy).mean()
        for marginal in (0.0, 0.5, 1.0)
    )
    assert float(normal - standardised) > 0.1 * test[0].numel()
    assert standardised < halfway < normal


@pytest.mark.parametrize(("fine_ends", "bits"), [(False, 0.2546), (True, 0.0104)])
def test_with_fine_ends_a_black_pixel_is_nearly_normal(fine_ends: bool, bits: float) -> None:
    """Its code would need no bits; a uniform one needs log2 √(2πe/12) more than a normal one."""
    black = torch.zeros(1000, 1, 1, 1, dtype=torch.uint8)
    noisy = ((torch.arange(1000) + 0.5) / 1000)[:, None, None, None].double()
    stage = fitted(black, 1.0, fine_ends=fine_ends)
    assert float(-log_density(stage, noisy).mean()) / log(2) == pytest.approx(bits, abs=0.001)


@pytest.mark.parametrize("floor", [1e-3, 0.3])
@pytest.mark.parametrize("per", ["dim", "channel"])
def test_without_marginals_it_standardises(per: Per, floor: float, generator: Generator) -> None:
    x = skewed_images(generator, 100)
    x[:, 0, 0, 0] = 17
    stage = fitted(x, 0.0, per, floor)
    assert isinstance(stage, ElementwiseAffine)
    middle, axes = x.numpy() + 0.5, (0,) if per == "dim" else (0, 2, 3)
    std = middle.std(axes, keepdims=True)
    std = np.maximum(std, floor * std.max())
    expected = (middle - middle.mean(axes, keepdims=True)) / std
    assert_close(stage(x.double() + 0.5)[0], torch.from_numpy(expected), rtol=0, atol=1e-12)
    if per == "dim":
        assert float(stage.scale[0, 0, 0]) == pytest.approx(floor * float(stage.scale.max()))


def test_a_range_stays_as_it_was(generator: Generator) -> None:
    x = torch.tensor([0.0, 127.5, 255.0]).double()[:, None, None, None].expand(3, *IMAGE)
    u, _ = fitted(skewed_images(generator, 20), 0.0, "range")(x)
    assert_close(u[:, 0, 0, 0], torch.tensor([-1.0, 0.0, 1.0]).double())


@pytest.mark.parametrize("per", ["dim", "channel", "range"])
def test_marginals_start_from_that_standardisation(per: Per, generator: Generator) -> None:
    x = skewed_images(generator, 100)
    half, whole = fitted(x, 0.25, per), fitted(x, 1.0, per)
    assert isinstance(half, PiecewiseLinear)
    assert isinstance(whole, PiecewiseLinear)
    at_knots = half.knots[:, None, None, None].expand(-1, *IMAGE)
    standardised = fitted(x, 0.0, per)(at_knots)[0].flatten(1).T
    assert_close(half.values, 0.75 * standardised + 0.25 * whole.values, rtol=0, atol=1e-9)


def test_constant_data_keep_a_finite_scale() -> None:
    x = torch.full((10, *IMAGE), 3, dtype=torch.uint8)
    assert not any(out.any() for out in fitted(x, 0.0)(x.double() + 0.5))


@pytest.mark.parametrize("per", ["dim", "channel"])
def test_tables_are_standardised_by_column(per: Per, generator: Generator) -> None:
    """Features keep their own units, however different: a floor must not reach them."""
    units = torch.tensor([1e-9, 1.0, 1e9, 0.0], dtype=torch.float64)
    x = (torch.randn(50, 4, generator=generator, dtype=torch.float64) + 7) * units
    x[:, 3] = 7.0
    u, _ = fitted(x, 0.3, per, floor=0.1, levels=None)(x)
    assert_close(u[:, :3].mean(0), torch.zeros(3).double(), rtol=0, atol=1e-6)
    assert_close(u[:, :3].std(0, correction=0), torch.ones(3).double())
    assert not u[:, 3].any()


def test_an_unfitted_table_is_taken_as_it_is(generator: Generator) -> None:
    x = torch.randn(5, 3, generator=generator)
    u, log_det = make_preprocess((3,), None, 0.3)(x)
    assert torch.equal(u, x)
    assert not log_det.any()


@every_marginal
def test_an_unfitted_image_stage_maps_grey_levels_to_one_range(marginal: float) -> None:
    x = torch.linspace(0, 255, 50)[:, None, None, None].expand(-1, *IMAGE)
    u, _ = make_preprocess(IMAGE, 256, marginal)(x)
    assert_close(u[:, 1, 2, 3], torch.linspace(-1, 1, 50))


@pytest.mark.parametrize("fine_ends", [False, True])
@every_marginal
def test_the_fitted_stage_is_invertible(
    marginal: float, fine_ends: bool, generator: Generator
) -> None:
    x = skewed_images(generator, 60)
    x[:, 1] = 0
    points = x[:4].double() + torch.rand(4, *IMAGE, generator=generator, dtype=torch.float64)
    beyond = torch.full((1, *IMAGE), 300.0).double()
    stage = fitted(x, marginal, fine_ends=fine_ends)
    assert_invertible(stage, torch.cat((points, beyond, -beyond)), tolerance=1e-10)


@pytest.mark.parametrize("levels", [2, 16, 32, 33, 100, 256])
def test_few_levels_have_a_knot_each_and_many_fine_ones_at_both_ends(levels: int) -> None:
    knots = level_knots(levels)
    if levels <= 32:
        assert knots.tolist() == list(range(levels + 1))
        return
    assert knots[:4].tolist() == [0, 1, 2, 4]
    assert (knots.diff() > 0).all()
    assert torch.equal(knots, levels - knots.flip(0))
    assert torch.equal(knots, knots.round())
    assert len(knots) < 20


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_fine_ends_are_within_the_first_and_the_last_level(levels: int) -> None:
    knots, fine = level_knots(levels), level_knots(levels, fine_ends=True)
    added = fine[~torch.isin(fine, knots)]
    assert len(fine) == len(knots) + len(added)
    assert ((added < 1) | (added > levels - 1)).all()
    assert torch.equal(fine, levels - fine.flip(0))


@pytest.mark.parametrize(("marginal", "sigma"), [(0.0, 0.0), (1.0, 0.1)])
def test_fine_ends_without_a_map_or_with_noise_beyond_are_refused(
    marginal: float, sigma: float
) -> None:
    own = {"marginal": marginal, "fine_ends": True}
    settings = {"preprocess": own, "noise": {"sigma": sigma}}
    with pytest.raises(UserError, match=f"fine_ends, got {marginal:g} and {sigma:g}"):
        build("ib-inn", shape=(1, 8, 8), classes=2, levels=256, **settings)


def test_skewed_features_become_about_normal(generator: torch.Generator) -> None:
    normal = torch.randn(4000, 4, generator=generator)
    x = torch.stack(
        (5 * normal[:, 0].exp(), normal[:, 1], -(normal[:, 2].exp()), (normal[:, 3] > 1).float()), 1
    )
    stage = make_preprocess((4,), None, 0.3, power=True)
    fit_preprocess(stage, x, marginal=0.3, floor=0.1, per="dim")
    z = stage(x)[0].double()
    torch.testing.assert_close(z.mean(0), torch.zeros(4).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(4).double(), atol=1e-3, rtol=0)
    skew = z.pow(3).mean(0).abs()
    assert (skew[:3] < 1.5).all()  # exp of a normal one had 6
    assert isinstance(stage, YeoJohnson)
    assert stage.power[1] == pytest.approx(1, abs=0.11)
    rare = torch.zeros(1000, 4)
    rare[0, 1:3] = 1
    fit_preprocess(stage, rare, marginal=0.3, floor=0.1, per="dim")
    far = stage(torch.full((1, 4), 9.0))[0][0]  # beyond all that was seen, 280 standard deviations
    assert float(far.abs().max()) < 60
    fit_preprocess(stage, x, marginal=0.3, floor=0.1, per="dim")
    torch.testing.assert_close(stage.inverse(stage(x)[0])[0], x, rtol=1e-4, atol=1e-4)


def test_only_tables_have_powers() -> None:
    assert not isinstance(make_preprocess((1, 4, 4), 256, 0.0, power=True), YeoJohnson)
