"""The first, fitted stage of an invertible encoder: from data units to about unit variance.

It is part of the map: its log-determinant counts, so densities stay in the data's own units.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from couplings import ElementwiseAffine, Invertible, PiecewiseLinear
from couplings.core import Shape

__all__ = ["fit_marginals", "fit_preprocess", "level_knots", "make_preprocess"]

CHUNK = 4096  # rows at a time: the training set is never copied as a whole

Per = Literal["dim", "channel", "range"]


def make_preprocess(shape: Shape, levels: int | None, marginal: float) -> Invertible:
    """An unfitted first stage: grey levels to [-1, 1]; tables as they are.

    Args:
        shape: shape of one sample.
        levels: grey levels of an image; None for a table.
        marginal: 0: standardisation; above 0, for images: a monotone piecewise-linear map per
            pixel that takes this fraction of the way to the one making each marginal normal.
    """
    half = torch.tensor((levels - 1) / 2 if levels else 1.0)
    if not marginal or levels is None:
        return ElementwiseAffine(shape, half if levels else torch.tensor(0.0), half)
    knots = level_knots(levels)
    dims = int(torch.Size(shape).numel())
    return PiecewiseLinear(shape, knots, (knots / half - 1).expand(dims, -1))


def level_knots(levels: int) -> Tensor:
    """Edges of grey levels, 0…levels: all where they are few, else single levels at both ends
    (where images pile up) and doubling steps between."""
    if levels <= 32:
        return torch.arange(levels + 1, dtype=torch.float64)
    steps = [0]
    while (step := 2 ** (len(steps) - 1)) < levels / 2:
        steps.append(step)
    half = torch.tensor(steps, dtype=torch.float64)
    return torch.cat((half, levels - half.flip(0))).unique()


def fit_preprocess(
    preprocess: Invertible, x: Tensor, *, marginal: float, floor: float, per: Per
) -> None:
    """Fit the stage of `make_preprocess` to training data, in place.

    Args:
        preprocess: the stage.
        x: training data (N, *shape); integers are taken as grey levels.
        marginal: as in `make_preprocess`.
        floor: least standard deviation, as a fraction of the largest.
        per: one shift and scale a "dim", or a "channel"; "range": those of the unfitted stage.
    """
    if per == "range" and not marginal:
        return
    mean, std = _moments(x, floor, per)
    if isinstance(preprocess, ElementwiseAffine):
        preprocess.set(mean, std)
    elif isinstance(preprocess, PiecewiseLinear):
        knots = preprocess.knots
        if per == "range":
            mean = std = (knots[-1:] - 1) / 2
        mean, std = (v.expand(preprocess.in_shape).reshape(-1, 1) for v in (mean, std))
        standardised = (knots - mean) / std
        normal = fit_marginals(x.flatten(1), knots)
        preprocess.set((1 - marginal) * standardised + marginal * normal)


def fit_marginals(x: Tensor, knots: Tensor, pseudo_counts: float = 1.0) -> Tensor:
    """Values v (D, M) at the knots that make each column of x most likely under N(0, 1).

    Maximises, for bin probabilities p_b (smoothed by pseudo-counts spread evenly over levels),

        Σ_b p_b [ log(v_{b+1} - v_b) - (v_b² + v_b v_{b+1} + v_{b+1}²)/6 ],

    the expected log-density of uniformly dequantised data: concave, so Newton's method finds it.

    Args:
        x: (N, D) integer grey levels.
        knots: (M,) edges of level ranges.
        pseudo_counts: weight of the smoothing, in samples.
    """
    p = _bin_probabilities(x, knots, pseudo_counts)
    cumulative = torch.nn.functional.pad(p.cumsum(1), (1, 0))
    v = 1.7 * (2 * cumulative - 1)
    value, gradient, hessian = _marginal_objective(v, p)
    for _ in range(50):
        step = torch.linalg.solve(hessian, gradient)
        size = torch.ones(len(v), 1, dtype=v.dtype)
        for _ in range(30):
            proposal = v - size * step
            new_value = _marginal_value(proposal, p)
            worse = ~(new_value >= value - 1e-12)
            if not bool(worse.any()):
                break
            size = torch.where(worse[:, None], size / 2, size)
        v = torch.where(worse[:, None], v, proposal)
        value, gradient, hessian = _marginal_objective(v, p)
        if float(gradient.abs().max()) < 1e-9:
            break
    return v


def _moments(x: Tensor, floor: float, per: str) -> tuple[Tensor, Tensor]:
    """Mean and floored standard deviation of each dimension or channel, (C, H, W) or (C, 1, 1)."""
    mean, variance = _moments_per_dim(x)
    if per == "channel" and mean.dim() > 1:
        axes = list(range(1, mean.dim()))
        centre = mean.mean(axes, keepdim=True)
        variance = (variance + (mean - centre).square()).mean(axes, keepdim=True)
        mean = centre
    std = variance.sqrt()
    largest = float(std.max())
    return mean, std.clamp_min(floor * largest if largest > 0 else 1.0)


def _moments_per_dim(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over the first dimension, float64; integers at mid-level."""
    middle = 0.0 if x.is_floating_point() else 0.5
    chunks = x.split(CHUNK)
    zero = torch.zeros(x.shape[1:], dtype=torch.float64)
    mean = sum((c.sum(0, dtype=torch.float64) for c in chunks), zero) / len(x)
    square = sum(((c.double() - mean).square().sum(0) for c in chunks), zero) / len(x)
    return mean + middle, square


def _bin_probabilities(x: Tensor, knots: Tensor, pseudo_counts: float) -> Tensor:
    bins, dims = len(knots) - 1, x.shape[1]
    levels = torch.arange(int(knots[-1])) + 0.5
    bin_of_level = torch.bucketize(levels.double(), knots[1:-1])
    offsets = bins * torch.arange(dims)
    counts = torch.zeros(dims * bins, dtype=torch.float64)
    for chunk in x.split(CHUNK):
        index = bin_of_level[chunk.long()] + offsets
        counts += index.flatten().bincount(minlength=dims * bins)
    smoothing = pseudo_counts * knots.diff() / (knots[-1] - knots[0])
    return (counts.view(dims, bins) + smoothing) / (len(x) + pseudo_counts)


def _marginal_value(v: Tensor, p: Tensor) -> Tensor:
    width = v.diff(dim=1)
    a, b = v[:, :-1], v[:, 1:]
    terms = width.clamp_min(0).log() - (a * a + a * b + b * b) / 6
    return (p * terms).sum(1)


def _marginal_objective(v: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    width = v.diff(dim=1)
    a, b = v[:, :-1], v[:, 1:]
    gradient = torch.zeros_like(v)
    gradient[:, :-1] += p * (-1 / width - (2 * a + b) / 6)
    gradient[:, 1:] += p * (1 / width - (a + 2 * b) / 6)
    diagonal = p * (-1 / width.square() - 1 / 3)
    off = p * (1 / width.square() - 1 / 6)
    hessian = torch.diag_embed(off, offset=1) + torch.diag_embed(off, offset=-1)
    main = torch.nn.functional.pad(diagonal, (0, 1)) + torch.nn.functional.pad(diagonal, (1, 0))
    return _marginal_value(v, p), gradient, hessian + torch.diag_embed(main)
