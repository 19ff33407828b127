"""Definition of `spline_couple` in plain PyTorch; formulas: `spline_planes`, layout: `spline`."""

from math import expm1, log
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from couplings.ops.dispatch import widened
from couplings.ops.reference import join

# As in the authors' code: least width and height of a bin (of the whole), and least slope.
MIN_SIZE = MIN_SLOPE = 1e-3
# Added to raw slopes, so that raw zeros are slopes of 1, and a spline of zeros is the identity.
UNIT_SLOPE = log(expm1(1 - MIN_SLOPE))


def spline_couple(
    active: Tensor, parameters: Tensor, passive: Tensor | None, active_first: bool, *settings: Any
) -> tuple[Tensor, Tensor]:
    """Evaluate a rational-quadratic spline on [-bound, bound], the identity outside."""
    bins, bound, inverse = settings
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    x = active.to(widened(dtype))
    raw = parameters.to(x.dtype).unflatten(1, (3 * bins - 1, active.shape[1]))
    raw_widths, raw_heights, raw_slopes = raw.split((bins, bins, bins - 1), dim=1)
    inner = least_slope(raw) + softplus(raw_slopes + UNIT_SLOPE)
    one = torch.ones_like(raw[:, :1])
    slopes = torch.cat((one, inner, one), dim=1)
    edges_x, edges_y = _edges(raw_widths, bound), _edges(raw_heights, bound)
    inside = (x >= -bound) & (x <= bound)
    u = torch.where(inside, x, 0.0)
    index = (u[:, None] >= (edges_y if inverse else edges_x)[:, 1:-1]).sum(1, keepdim=True)
    x0, x1 = (edges_x.gather(1, index + i).squeeze(1) for i in (0, 1))
    y0, y1 = (edges_y.gather(1, index + i).squeeze(1) for i in (0, 1))
    d0, d1 = (slopes.gather(1, index + i).squeeze(1) for i in (0, 1))
    s = (y1 - y0) / (x1 - x0)
    bend = d0 + d1 - 2 * s
    share = ((u - y0) / (y1 - y0) if inverse else (u - x0) / (x1 - x0)).clamp(0, 1)
    theta = root(share, d0 / s, d1 / s) if inverse else share
    t = theta * (1 - theta)
    denominator = s + bend * t
    if inverse:
        y = x0 + (x1 - x0) * theta
    else:
        y = y0 + (y1 - y0) * (s * theta.square() + d0 * t) / denominator
    least = torch.minimum(torch.minimum(d0, d1), s)
    slope = (d1 - least) * theta.square() + (d0 - least) * (1 - theta).square()
    slope = least + slope + 2 * (s - least) * t
    log_slope = 2 * s.log() + slope.log() - 2 * denominator.log()
    # What is not finite must not pass for a number in the tails: 0 · x keeps it.
    log_slope = torch.where(inside, -log_slope if inverse else log_slope, 0 * x)
    y = torch.where(inside, y, x).to(dtype)
    return join(passive, y, active_first), log_slope.flatten(1).sum(1)


def least_slope(like: Tensor) -> Tensor:
    """Return MIN_SLOPE, rounded so that raw zeros are slopes of exactly 1 in this dtype, (1,)."""
    return 1 - softplus(like.new_full((1,), UNIT_SLOPE))


def _edges(raw: Tensor, bound: float) -> Tensor:
    """Return the bins' K + 1 edges along dimension 1, from -bound to bound exactly."""
    bins = raw.shape[1]
    shares = MIN_SIZE + (1 - MIN_SIZE * bins) * raw.softmax(1)
    inner = 2 * bound * shares.cumsum(1)[:, :-1] - bound
    end = torch.full_like(raw[:, :1], bound)
    return torch.cat((-end, inner, end), dim=1)


def root(share: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Find θ at which the spline has risen by a share ξ of its bin's height; a = d0/s, b = d1/s.

    With v = a (1 - ξ) - b ξ the quadratic's root in [0, 1] is

        θ = 2ξ / (2ξ + v + √(v² + 4ξ (1 - ξ)))

    whose discriminant is a sum of squares: rounding cannot make it negative, as it can b² - 4ac.
    Where v < 0, v + √… = 4ξ (1 - ξ) / (√… - v) does not cancel.
    """
    lead = a * (1 - share) - b * share
    product = 4 * share * (1 - share)
    falling = lead < 0
    large = torch.where(falling, -lead, lead) + (lead.square() + product).sqrt()
    return 2 * share / (2 * share + torch.where(falling, product / large, large))
