"""Outlier detection of scores whose answer is known: sklearn, naive counts, constructed sets."""

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch import Tensor

from flowclf.evaluation.detection import (
    Estimate,
    aupr,
    auroc,
    fpr_at_95,
    roc_points,
    two_tailed_auroc,
    typicality,
)
from flowclf.support.errors import UserError

Measure = Callable[..., Estimate]
ALL: list[Measure] = [auroc, aupr, fpr_at_95, two_tailed_auroc]
FEW = 20


def normal(count: int, mean: float, generator: torch.Generator, spread: float = 1.0) -> Tensor:
    return mean + spread * torch.randn(count, generator=generator, dtype=torch.float64)


def pair(kind: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw inside and outside of unlike sizes; with ties, or as large as log-likelihoods are."""
    inside, outside = normal(211, 0, generator), normal(97, 1, generator)
    match kind:
        case "ties":
            return (2 * inside).round(), (2 * outside).round()
        case "large":
            return 1e5 + inside, 1e5 + outside
        case "tiny set":
            return inside, outside[:1]
    return inside, outside


@pytest.fixture(params=["plain", "ties", "large", "tiny set"])
def sets(request: pytest.FixtureRequest, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return pair(request.param, generator)


def labelled(negative: Tensor, positive: Tensor) -> tuple[list[int], list[float]]:
    labels = [0] * len(negative) + [1] * len(positive)
    return labels, torch.cat((negative, positive)).tolist()


def naive_fpr(negative: Tensor, positive: Tensor) -> float:
    for threshold in sorted({*negative.tolist(), *positive.tolist()}, reverse=True):
        if sum(p >= threshold for p in positive.tolist()) >= 0.95 * len(positive) - 1e-9:
            return sum(n >= threshold for n in negative.tolist()) / len(negative)
    raise AssertionError


def test_measures_are_those_of_sklearn_of_counting_pairs_and_of_a_loop(
    sets: tuple[Tensor, Tensor],
) -> None:
    inside, outside = sets
    got = auroc(inside, outside)
    differences = outside[:, None] - inside
    counted = ((differences > 0).double() + 0.5 * (differences == 0).double()).mean()
    assert got.value == pytest.approx(float(counted), abs=1e-12)
    assert got.value == pytest.approx(roc_auc_score(*labelled(inside, outside)), abs=1e-12)
    assert 0 <= got.low <= got.value <= got.high <= 1
    found = aupr(inside, outside, draws=FEW).value
    assert found == pytest.approx(average_precision_score(*labelled(inside, outside)), abs=1e-12)
    assert fpr_at_95(inside, outside, draws=FEW).value == naive_fpr(inside, outside)
    expected = roc_curve(*labelled(inside, outside), drop_intermediate=False)[:2]
    for points, wanted in zip(roc_points(inside, outside), expected, strict=True):
        torch.testing.assert_close(points, torch.from_numpy(wanted))


def test_exactly_95_percent_is_enough() -> None:
    outside = torch.arange(100.0)
    inside = torch.tensor([4.5, 5.5, -1.0, -2.0])
    assert fpr_at_95(inside, outside, draws=FEW).value == 0.25


def test_unbounded_scores_are_not_squashed(generator: torch.Generator) -> None:
    inside, outside = normal(300, 0, generator), normal(300, 1, generator)
    large = 1e5 + 1e3 * inside, 1e5 + 1e3 * outside
    assert all(function(*large).value == function(inside, outside).value for function in ALL)


@pytest.mark.parametrize(
    ("function", "best", "worst"),
    [(auroc, 1, 0), (fpr_at_95, 0, 1), (two_tailed_auroc, 1, 1), (aupr, 1, None)],
)
def test_the_ends_of_the_scale(function: Measure, best: float, worst: float | None) -> None:
    low, high = torch.arange(50.0), 100 + torch.arange(30.0)
    apart = function(low, high)
    assert (apart.value, apart.low, apart.high) == pytest.approx((best, best, best))
    if worst is None:
        worst = average_precision_score(*labelled(high, low))
    assert function(high, low).value == pytest.approx(worst)


@pytest.mark.parametrize("function", [auroc, two_tailed_auroc])
def test_equal_sets_are_chance(function: Measure, generator: torch.Generator) -> None:
    scores = normal(500, 3, generator)
    assert function(scores, scores).value == pytest.approx(0.5, abs=1e-12)
    assert function(torch.ones(9), torch.ones(4)).value == 0.5


def test_outliers_on_both_sides_need_two_tails(generator: torch.Generator) -> None:
    inside = normal(2000, 0, generator)
    high = normal(1000, 8, generator)
    outside = torch.cat((high, -high))
    assert auroc(inside, outside).value == pytest.approx(0.5, abs=0.02)
    two = two_tailed_auroc(inside, outside, draws=FEW)
    assert two.value > 0.995
    assert two.low <= two.value <= two.high


def test_two_tails_are_those_of_a_loop(generator: torch.Generator) -> None:
    """The quantile pairs as IB-INN's code has them, with interpolated quantiles."""
    inside, outside = normal(5000, 0, generator), normal(3000, 0.5, generator, spread=2)
    grid = [0.1 * i / 32 for i in range(32)] + [0.1 + 0.8 * i / 32 for i in range(32)]
    grid += [0.9 + 0.1 * i / 32 for i in range(33)]
    points = [(0.0, 0.0)]
    for share in grid:
        bottom, top = inside.quantile(share), inside.quantile(1 - share)
        points.append(
            tuple(float(((s < bottom) | (s > top)).double().mean()) for s in (inside, outside))  # type: ignore[arg-type]
        )
    x, y = torch.tensor([*points, (1.0, 1.0)]).T
    got = two_tailed_auroc(inside, outside, draws=FEW).value
    assert got == pytest.approx(float(torch.trapezoid(y, x)), abs=1e-3)


def test_typicality_repairs_the_likelihood_trap(generator: torch.Generator) -> None:
    """Noise-free images at the mode are likelier than all that was ever drawn: Nalisnick 2019."""
    dims = 100

    def nll(x: Tensor) -> Tensor:
        return 0.5 * x.square().sum(1)

    def draws() -> Tensor:
        return torch.randn(1000, dims, generator=generator)

    train, test, trap = nll(draws()), nll(draws()), nll(0.5 * draws())
    assert auroc(test, trap).value < 0.01
    centre = train.mean()
    assert auroc(typicality(test, centre), typicality(trap, centre)).value > 0.99
    assert typicality(torch.tensor([1.0, 4.0]), 2.0).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("function", "truth"), [(auroc, 0.760250), (fpr_at_95, 0.740490), (aupr, None)]
)
def test_intervals_cover(function: Measure, truth: Any, generator: torch.Generator) -> None:
    """N(0, 1) against N(1, 1): Φ(1/√2), and 1 - Φ(1 + Φ⁻¹(0.05))."""
    settings = {} if function is auroc else {"draws": 100}
    if truth is None:
        many = normal(200_000, 0, generator), normal(200_000, 1, generator)
        truth = function(*many, draws=1).value
    covered = 0
    for _ in range(100):
        got = function(normal(150, 0, generator), normal(150, 1, generator), **settings)
        covered += got.low <= truth <= got.high
    assert 86 <= covered <= 100


def test_the_interval_is_as_wide_as_the_area_varies(generator: torch.Generator) -> None:
    estimates = [auroc(normal(80, 0, generator), normal(120, 1, generator)) for _ in range(300)]
    spread = torch.tensor([e.value for e in estimates]).std()
    width = torch.tensor([(e.high - e.low) / (2 * 1.96) for e in estimates]).mean()
    assert float(width / spread) == pytest.approx(1, abs=0.12)


def test_the_bootstrap_is_always_the_same(generator: torch.Generator) -> None:
    inside, outside = pair("plain", generator)
    before = torch.get_rng_state()
    first, again = (aupr(inside, outside, draws=FEW) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again


@pytest.mark.parametrize("function", ALL)
def test_infinite_scores_are_ranked(function: Measure, generator: torch.Generator) -> None:
    inside, outside = pair("plain", generator)
    inside[:3], outside[:20], inside[3] = -inf, inf, inf
    replaced = [scores.clamp(-1e9, 1e9) for scores in (inside, outside)]
    assert function(inside, outside) == function(*replaced)


@pytest.mark.parametrize("function", ALL)
def test_what_cannot_be_ranked_is_refused(function: Measure) -> None:
    fine = torch.zeros(3)
    with pytest.raises(UserError, match="expected outside scores that can be ranked, got 1 NaN of"):
        function(fine, torch.tensor([0.0, nan]))
    with pytest.raises(UserError, match=r"a vector of inside scores, got shape \(0,\)"):
        function(torch.zeros(0), fine)
    with pytest.raises(UserError, match="a vector of inside scores"):
        function(torch.zeros(3, 2), fine)


def test_scores_that_require_grad_are_fine() -> None:
    scores = torch.arange(4.0, requires_grad=True)
    assert auroc(scores, scores + 10).value == 1
