"""Fitted first stage of an encoder: from data units to about unit variance, or normal marginals.

It is part of the map: its log-determinant counts, so that densities stay in the data's own units.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from couplings import ElementwiseAffine, Invertible, PiecewiseLinear, YeoJohnson
from couplings.core import Shape
from flowclf.settings import Section

__all__ = [
    "PreprocessSettings",
    "fit_marginals",
    "fit_preprocess",
    "level_knots",
    "make_preprocess",
]

CHUNK = 4096  # rows at a time, so that the training set is never copied whole
EXACT_ROWS = 256  # of 8-bit levels, whose squares add up to less than 2²⁴
POWERS = tuple(n / 20 for n in range(1, 40))
POWER_ROWS = 10_000
# Edges of pieces of a level [0, 1], of which a map is nearly the normal quantile function.
HALVES = tuple(2.0**-power for power in range(2, 9))
WITHIN = (*HALVES, 0.375, 0.5, 0.625, *(1 - half for half in HALVES))
NEWTON_STEPS, HALVINGS, TOLERANCE = 50, 30, 1e-9

Per = Literal["dim", "channel", "range"]


class PreprocessSettings(Section):
    """Fitted first stage of the encoder."""

    # Fraction of the way from standardized to normal marginals; images only. More gives better
    # bits/dim, but amplifies dequantization noise in pixels that hardly vary.
    marginal: Annotated[float, Field(ge=0, le=1)] = 0.3
    # Knots of those maps also within the darkest and the brightest level. Without them a pixel that
    # is always black is uniform there, 0.25 bits from normal; with them 0.01. It makes their tails
    # steep: noise beyond the grey levels (noise.sigma) is amplified.
    fine_ends: bool = False
    floor: Annotated[float, Field(gt=0, le=1)] = 0.1  # least std of a pixel, over the largest
    # One mean and scale per dimension or channel; "range": grey levels to ±1, tables untouched.
    per: Per = "dim"
    power: bool = False  # of tables: bend skewed features towards normal marginals (Yeo-Johnson)


def make_preprocess(
    shape: Shape,
    levels: int | None,
    marginal: float,
    power: bool = False,
    fine_ends: bool = False,
) -> Invertible:
    """Return an unfitted first stage: grey levels to [-1, 1], tables (levels None) as they are.

    A standardization, or with `marginal` above 0 for images a monotone piecewise-linear map per
    pixel, which goes this fraction of the way to normal marginals, and has knots within the darkest
    and the brightest level with `fine_ends`; with `power` for tables a power map.
    """
    if power and levels is None:
        return YeoJohnson(shape)
    half = torch.tensor((levels - 1) / 2 if levels else 1.0)
    if not marginal or levels is None:
        return ElementwiseAffine(shape, half if levels else torch.tensor(0.0), half)
    knots = level_knots(levels, fine_ends)
    dims = int(torch.Size(shape).numel())
    return PiecewiseLinear(shape, knots, (knots / half - 1).expand(dims, -1))


def fit_preprocess(
    preprocess: Invertible,
    x: Tensor,
    *,
    marginal: float,
    floor: float,
    per: Per,
) -> None:
    """Fit the stage of `make_preprocess` to training data, in place.

    Args:
        preprocess: the stage.
        x: training data (N, *shape); integers are grey levels.
        marginal: as in `make_preprocess`.
        floor: least standard deviation of an image's pixel, as a fraction of the largest.
        per: one shift and scale per "dim" or "channel"; "range": those of the unfitted stage.
    """
    if per == "range" and isinstance(preprocess, ElementwiseAffine):
        return
    mean, std = _moments(x, floor, per)
    if isinstance(preprocess, YeoJohnson):
        _fit_power(preprocess, x, mean, std)
    elif isinstance(preprocess, ElementwiseAffine):
        preprocess.set(mean, std)
    elif isinstance(preprocess, PiecewiseLinear):
        knots = preprocess.knots
        if per == "range":
            mean = std = (knots[-1:] - 1) / 2
        mean, std = (v.expand(preprocess.in_shape).reshape(-1, 1) for v in (mean, std))
        standardized = (knots - mean) / std
        normal = fit_marginals(x.flatten(1), knots)
        preprocess.set((1 - marginal) * standardized + marginal * normal)


def _fit_power(stage: YeoJohnson, x: Tensor, mean: Tensor, std: Tensor) -> None:
    """Fit the powers that make each feature likeliest as a normal one, then its mean and scale.

    Of `POWERS`, by the log-likelihood -½ log var ψ(u) + mean (λ± - 1) log(1 + |u|). Features that
    hardly vary get the least: what they may be elsewhere is far off, and enters by its logarithm.
    """
    stage.set(shift=mean, scale=std)
    u = (x[:POWER_ROWS].double() - mean) / std
    best, power = torch.full_like(mean, -torch.inf), torch.ones_like(mean)
    for value in POWERS:
        bent, slope = _bent(u, value)
        fit = slope.mean(0) - 0.5 * bent.var(0, correction=0).log()
        better = fit > best
        best, power = torch.where(better, fit, best), torch.where(better, value, power)
    bent, _ = _bent((x.double() - mean) / std, power)
    spread = bent.std(0, correction=0)
    stage.set(power=power, mean=bent.mean(0), std=torch.where(spread > 0, spread, 1.0))


def _bent(u: Tensor, power: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return ψ(u) and log ψ'(u) of the power map, each (N, F)."""
    own = torch.where(u >= 0, power, 2 - power)
    logs = torch.log1p(u.abs())
    return u.sign() * torch.expm1(own * logs) / own, (own - 1) * logs


def _moments(x: Tensor, floor: float, per: str) -> tuple[Tensor, Tensor]:
    """Return mean and floored standard deviation per dimension or channel, shaped to broadcast.

    In float64; integers are at mid-level.
    """
    middle = 0.0 if x.is_floating_point() else 0.5
    mean, variance = _float_moments(x) if x.is_floating_point() else _level_moments(x)
    mean = mean + middle
    if per == "channel" and mean.dim() > 1:
        axes = list(range(1, mean.dim()))
        centre = mean.mean(axes, keepdim=True)
        variance = (variance + (mean - centre).square()).mean(axes, keepdim=True)
        mean = centre
    std = variance.sqrt()
    if x.is_floating_point():
        # Features differ in units: none is small compared to another, at most constant.
        return mean, torch.where(std > 0, std, 1.0)
    largest = float(std.max())
    return mean, std.clamp_min(floor * largest if largest > 0 else 1.0)


def _float_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each dimension, float64."""
    parts, zero = _chunks(x), torch.zeros(x.shape[1:], dtype=torch.float64)
    mean = sum((c.sum(0, dtype=torch.float64) for c in parts), zero) / len(x)
    return mean, sum(((c.double() - mean).square().sum(0) for c in parts), zero) / len(x)


def _level_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each dimension of grey levels, float64.

    The sums of few enough levels and squares are exact in float32, which is fast.
    """
    total = square = torch.zeros(x.shape[1:], dtype=torch.float64)
    for chunk in _chunks(x):
        for part in chunk.split(EXACT_ROWS):
            levels = part.float()
            total = total + levels.sum(0)
            square = square + levels.square().sum(0)
    mean = total / len(x)
    return mean, square / len(x) - mean.square()


def _chunks(x: Tensor) -> Sequence[Tensor]:
    """Return parts of x (N, ...): of streamed data at most a block each."""
    return x.split(min(CHUNK, getattr(x, "block", CHUNK)))


def level_knots(levels: int, fine_ends: bool = False) -> Tensor:
    """Return edges of grey levels, 0…levels.

    All edges up to 32 levels; beyond, single levels at both ends, where images pile up, and
    doubling steps in between. With `fine_ends` also `WITHIN` the first and the last level.
    """
    edges: list[float] = [*range(levels + 1)]
    if levels > 32:
        doubling = [0, *(2**power for power in range(levels.bit_length()) if 2**power < levels / 2)]
        edges = [*doubling, *(levels - step for step in doubling)]
    if fine_ends:
        edges += [*WITHIN, *(levels - edge for edge in WITHIN)]
    return torch.tensor(edges, dtype=torch.float64).unique()


def fit_marginals(x: Tensor, knots: Tensor, pseudo_counts: float = 1.0) -> Tensor:
    """Return values v (D, M) at the knots that make each column of x most likely under N(0, 1).

    They maximize, for bin probabilities p_b (smoothed by pseudo-counts spread evenly over levels),

        Σ_b p_b [ log(v_{b+1} - v_b) - (v_b² + v_b v_{b+1} + v_{b+1}²)/6 ],

    the expected log-density of uniformly dequantized data, which is concave: Newton's method. x are
    integer grey levels (N, D), the knots (M,) edges of level ranges.
    """
    p = _bin_probabilities(x, knots, pseudo_counts)
    cumulative = torch.nn.functional.pad(p.cumsum(1), (1, 0))
    values = 1.7 * (2 * cumulative - 1)  # nearly right for a single bin: ±√3
    for _ in range(NEWTON_STEPS):
        gradient, hessian = _derivatives(values, p)
        if float(gradient.abs().max()) < TOLERANCE:
            break
        values = _improve(values, torch.linalg.solve(hessian, gradient), p)
    return values


def _improve(values: Tensor, step: Tensor, p: Tensor) -> Tensor:
    """Return values after one Newton step per column, halved until the objective does not fall."""
    before = _objective(values, p)
    size = torch.ones(len(values), 1, dtype=values.dtype)
    for _ in range(HALVINGS):
        proposal = values - size * step
        worse = ~(_objective(proposal, p) >= before - 1e-12)[:, None]
        if not bool(worse.any()):
            break
        size = torch.where(worse, size / 2, size)
    return torch.where(worse, values, proposal)


def _bin_probabilities(x: Tensor, knots: Tensor, pseudo_counts: float) -> Tensor:
    """Return the shares (D, M - 1) of uniformly dequantized data between knots."""
    edges = torch.cat((knots.floor(), knots.ceil())).unique()
    bins, dims = len(edges) - 1, x.shape[1]
    levels = torch.arange(int(knots[-1])) + 0.5
    bin_of_level = torch.bucketize(levels.double(), edges[1:-1])
    offsets = bins * torch.arange(dims)
    counts = torch.zeros(dims * bins, dtype=torch.float64)
    for chunk in _chunks(x):
        index = bin_of_level[chunk.long()] + offsets
        counts += index.flatten().bincount(minlength=dims * bins)
    below = torch.nn.functional.pad(counts.view(dims, bins).cumsum(1), (1, 0))
    bin_of_knot = torch.bucketize(knots, edges[1:-1], right=True)
    share = (knots - edges[bin_of_knot]) / edges.diff()[bin_of_knot]
    at_knots = torch.lerp(below[:, bin_of_knot], below[:, bin_of_knot + 1], share)
    smoothing = pseudo_counts * knots.diff() / (knots[-1] - knots[0])
    return (at_knots.diff(dim=1) + smoothing) / (len(x) + pseudo_counts)


def _objective(values: Tensor, p: Tensor) -> Tensor:
    """Return the objective, (D,); -inf or NaN where values do not increase."""
    a, b = values[:, :-1], values[:, 1:]
    terms = (b - a).clamp_min(0).log() - (a * a + a * b + b * b) / 6
    return (p * terms).sum(1)


def _derivatives(values: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Return gradient (D, M) and tridiagonal Hessian (D, M, M) of the objective."""
    a, b = values[:, :-1], values[:, 1:]
    inverse = 1 / (b - a)
    pad = torch.nn.functional.pad
    gradient = pad(p * (-inverse - (2 * a + b) / 6), (0, 1))
    gradient += pad(p * (inverse - (a + 2 * b) / 6), (1, 0))
    own = p * (-inverse.square() - 1 / 3)
    between = p * (inverse.square() - 1 / 6)
    hessian = torch.diag_embed(pad(own, (0, 1)) + pad(own, (1, 0)))
    hessian += torch.diag_embed(between, offset=1) + torch.diag_embed(between, offset=-1)
    return gradient, hessian
