"""Piecewise-linear maps against interpolation by numpy, and their tails; logistic maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from couplings import Logistic, PiecewiseLinear, ShapeError
from couplings.testing import assert_invertible

KNOTS = torch.tensor([-1.0, -0.5, 0.25, 1.0], dtype=torch.float64)
VALUES = torch.tensor([[-2.0, 0.0, 0.5, 3.0], [0.0, 0.1, 4.0, 4.5]], dtype=torch.float64)
# A point in the left tail, one in each piece, and one in the right tail.
POINTS = torch.tensor([-2.5, -0.8, 0.1, 0.7, 1.9], dtype=torch.float64)


@pytest.fixture
def map_() -> PiecewiseLinear:
    return PiecewiseLinear((2,), KNOTS, VALUES)


def test_inside_it_interpolates(map_: PiecewiseLinear) -> None:
    x = POINTS[1:-1, None].expand(-1, 2)
    z, _ = map_(x)
    for d in range(2):
        expected = np.interp(x[:, d].numpy(), KNOTS.numpy(), VALUES[d].numpy())
        np.testing.assert_allclose(z[:, d].numpy(), expected, atol=1e-14)


def test_the_end_slopes_go_on_in_the_tails(map_: PiecewiseLinear) -> None:
    x = torch.tensor([[-2.0, -2.0], [2.0, 2.0]], dtype=torch.float64)
    z, log_det = map_(x)
    first, last = VALUES[:, 1] - VALUES[:, 0], VALUES[:, 3] - VALUES[:, 2]
    torch.testing.assert_close(z[0], VALUES[:, 0] - first / 0.5)
    torch.testing.assert_close(z[1], VALUES[:, 3] + last / 0.75)
    slopes = torch.stack((first / 0.5, last / 0.75))
    torch.testing.assert_close(log_det, slopes.log().sum(1))


def test_contract_in_every_piece_and_both_tails(map_: PiecewiseLinear) -> None:
    assert_invertible(map_, torch.cartesian_prod(POINTS, POINTS))


def test_knots_are_hit(map_: PiecewiseLinear) -> None:
    z, _ = map_(KNOTS[:, None].expand(-1, 2))
    torch.testing.assert_close(z, VALUES.T)
    torch.testing.assert_close(map_.inverse(VALUES.T)[0], KNOTS[:, None].expand(-1, 2))


def test_dimensions_of_an_image_keep_their_own_values() -> None:
    values = torch.arange(1.0, 5.0)[:, None] * torch.tensor([0.0, 1.0])
    image = PiecewiseLinear((2, 1, 2), torch.tensor([0.0, 1.0]), values)
    assert image(torch.ones(1, 2, 1, 2))[0].tolist() == [[[[1.0, 2.0]], [[3.0, 4.0]]]]


def test_set_replaces_the_values_in_float64(map_: PiecewiseLinear) -> None:
    map_.float().set(2 * VALUES)
    assert map_.values.dtype == torch.float64
    x = POINTS[:, None].expand(-1, 2)
    torch.testing.assert_close(map_(x)[0], 2 * PiecewiseLinear((2,), KNOTS, VALUES)(x)[0])


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"values of shape \(3, 4\) .* got \(2, 4\)"):
        PiecewiseLinear((3,), KNOTS, VALUES)
    with pytest.raises(ShapeError, match="at least 2 knots"):
        PiecewiseLinear((2,), KNOTS[:1], VALUES[:, :1])


def test_numbers_that_do_not_increase_are_refused() -> None:
    with pytest.raises(ValueError, match="strictly increasing"):
        PiecewiseLinear((2,), KNOTS, -VALUES)
    with pytest.raises(ValueError, match="strictly increasing"):
        PiecewiseLinear((2,), KNOTS.flip(0), VALUES)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.5, 1.5)])
def test_the_logistic_fills_its_interval(low: float, high: float) -> None:
    points = torch.tensor([-20.0, -3.0, -0.1, 0.0, 2.0, 12.0], dtype=torch.float64)
    map_ = Logistic((2,), low, high)
    # Where the interval ends, doubles are as far apart as what is left of it.
    assert_invertible(map_, torch.cartesian_prod(points, points), tolerance=1e-6)
    assert_invertible(map_, torch.cartesian_prod(points[1:5], points[1:5]), tolerance=1e-12)
    ends, _ = map_(torch.tensor([[-800.0, 800.0]], dtype=torch.float64))
    assert ends.tolist() == [[low, high]]


def test_the_interval_cancels_from_a_divergence_on_it() -> None:
    """log q(z) - log U(z) = log N(t) - Σ log logistic(t), t before the map: any interval."""
    t = torch.linspace(-4, 4, 9, dtype=torch.float64)[:, None]
    normal = torch.distributions.Normal(0.3, 0.7).log_prob(t)[:, 0]
    logistic = torch.nn.functional.logsigmoid(t) + torch.nn.functional.logsigmoid(-t)
    for low, high in ((0.0, 1.0), (-1.5, 1.5)):
        _, log_det = Logistic((1,), low, high)(t)
        log_ratio = normal - log_det + np.log(high - low)
        torch.testing.assert_close(log_ratio, normal - logistic[:, 0], rtol=0, atol=1e-14)


def test_an_interval_has_a_length() -> None:
    with pytest.raises(ValueError, match="expected low < high, got 1 and 1"):
        Logistic((2,), 1, 1)
