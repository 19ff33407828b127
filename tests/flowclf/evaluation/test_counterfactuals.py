"""Counterfactuals and contributions: against closed forms of a linear model, and on digits."""

from math import log

import pytest
import torch
from torch.testing import assert_close

import flowclf
from flowclf.classifier import GenerativeClassifier
from flowclf.data import Split
from flowclf.evaluation.counterfactuals import (
    class_change_path,
    counterfactual,
    decision_contributions,
    distances_to_means,
    even_odds,
    pixel_contributions,
)
from flowclf.support.errors import UserError


def linear_flow() -> GenerativeClassifier:
    """z is a rotation of x: couplings start as the identity, the table is in its own units."""
    settings = {"preprocess": {"per": "range"}, "network": {"blocks": 1}}
    model = flowclf.build("ib-inn", shape=(4,), classes=3, **settings)
    model.mixture.set_means(3 * torch.eye(3, 4))
    return model.double().eval()


def points() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 4, generator=generator, dtype=torch.float64)


def test_the_posterior_is_reached_exactly_and_not_before() -> None:
    model, x = linear_flow(), points()
    target = (model.predict(x) + 1) % 3
    found = counterfactual(model, x, target, 0.8)
    reached = found.log_posterior.gather(1, target[:, None])[:, 0]
    assert_close(reached, torch.full_like(reached, log(0.8)), atol=1e-6, rtol=0)
    assert_close(model.log_posterior(found.x), found.log_posterior)
    assert bool((found.shift > 0).all())


def test_at_even_odds_of_two_classes_it_lies_between_the_means() -> None:
    model = linear_flow()
    z = model.mixture.means[:1].detach().clone()
    z[:, 2] = -50.0  # far from the third class
    found = counterfactual(model, model.decode(z), torch.tensor([1]), 0.5)
    assert_close(found.shift, torch.tensor([0.5], dtype=torch.float64), atol=1e-6, rtol=0)


def test_what_is_there_already_stays_and_distances_are_euclidean() -> None:
    model, x = linear_flow(), points()
    z = model.encode(x).z.detach()
    assert_close(distances_to_means(model, x), torch.cdist(z, model.mixture.means.detach()))
    x = model.decode(2 * model.mixture.means.detach())
    found = counterfactual(model, x, torch.arange(3), 0.9)
    assert not found.shift.any()
    assert_close(distances_to_means(model, x).argmin(1), torch.arange(3))


def test_contributions_of_a_linear_decision_are_products() -> None:
    model, x = linear_flow(), points()
    y, other = torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.int64)
    reference = torch.zeros_like(x)
    scale = model.encode(torch.eye(4, dtype=torch.float64)).z - model.encode(reference[:1]).z
    weights = (model.mixture.means[0] - model.mixture.means[1]) @ scale.T
    found = pixel_contributions(model, x, reference, y, other, steps=2)
    assert_close(found, (x * weights).detach())


def test_a_path_without_a_posterior_ends_level_with_the_average_of_the_class() -> None:
    model, x = linear_flow(), points()
    model.mixture.data_means.copy_(2 * model.mixture.means)
    source, target = model.predict(x), (model.predict(x) + 1) % 3
    path, log_posterior = class_change_path(model, x, target, 4, None, source)
    averages = model.mixture.data_means
    direction = averages[target] - averages[source]
    start, end = model.encode(path[0]).z.detach(), model.encode(path[-1]).z.detach()
    assert_close(((end - averages[target]) * direction).sum(1), torch.zeros(6).double())
    across = end - start - ((end - start) * direction).sum(1, keepdim=True) * direction / 36 / 2
    assert_close(across, torch.zeros(6, 4).double())
    assert bool((log_posterior[-1].argmax(1) == target).all())


def test_moving_away_from_a_class_that_is_not_the_likeliest() -> None:
    model, x = linear_flow(), points()
    source, target = (model.predict(x) + 2) % 3, (model.predict(x) + 1) % 3
    found = counterfactual(model, x, target, 0.5, source)
    means, moved = model.mixture.means, found.z - model.encode(x).z
    there = ~found.shift.isnan()
    expected = found.shift[:, None] * (means[target] - means[source])
    assert bool(there.any())
    assert_close(moved[there].detach(), expected[there].detach())


def test_a_decision_is_told_from_where_the_odds_are_even() -> None:
    model, x = linear_flow(), points()
    model.mixture.data_means.copy_(2 * model.mixture.means)
    y, other = torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.int64)
    middle = even_odds(model, y, other)
    expected = model.mixture.data_means[:2].mean(0).expand(6, 4)
    assert_close(middle, expected, atol=1e-9, rtol=0)
    found = decision_contributions(model, x, y, other, steps=2)
    straight = pixel_contributions(model, x, model.decode(middle), y, other, steps=2)
    assert_close(found, straight)
    given = model.log_posterior(x).detach()
    assert_close(found.sum(1), given[:, 0] - given[:, 1], atol=1e-9, rtol=0)


def test_digits_change_into_others(digits_flow: GenerativeClassifier, test_split: Split) -> None:
    model, x = digits_flow, test_split.x[:5]
    y = model.predict(x)
    target = (y + 1) % 10
    images, log_posterior = class_change_path(model, x, target, steps=5)
    assert images.shape == (5, 5, 1, 8, 8)
    assert_close(images[0], x.float() + 0.5, atol=1e-2, rtol=0)
    given = log_posterior.gather(2, target.expand(5, 5)[..., None])[..., 0]
    assert bool((given.diff(dim=0) > -1e-4).all())
    assert_close(given[-1].exp(), torch.full((5,), 0.99), atol=1e-3, rtol=0)
    middle = counterfactual(model, x, target, 0.5).x
    parts = pixel_contributions(model, x.float() + 0.5, middle, y, target, steps=200)
    gained = (model.log_posterior(x.float() + 0.5) - model.log_posterior(middle)).detach()
    odds = (gained.gather(1, y[:, None]) - gained.gather(1, target[:, None]))[:, 0]
    assert_close(parts.flatten(1).sum(1), odds, rtol=0.05, atol=0.1)


def test_what_cannot_decode_says_so() -> None:
    model = flowclf.build("ce", shape=(4,), classes=3).eval()
    with pytest.raises(UserError, match="expected a system that can decode"):
        counterfactual(model, torch.zeros(2, 4), torch.tensor([0, 1]))
    with pytest.raises(UserError, match="between 0 and 1"):
        counterfactual(linear_flow(), points(), torch.zeros(6, dtype=torch.int64), 1.5)
    with pytest.raises(UserError, match="2 steps"):
        class_change_path(linear_flow(), points(), torch.zeros(6, dtype=torch.int64), 1)
