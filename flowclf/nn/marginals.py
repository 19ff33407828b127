"""Monotone maps that make the marginals of grey images nearly normal, fitted by likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["chunks", "fit_marginals", "level_knots"]

CHUNK = 4096  # rows at a time: the training set is never copied as a whole
NEWTON_STEPS, HALVINGS, TOLERANCE = 50, 30, 1e-9


def chunks(x: Tensor) -> Sequence[Tensor]:
    """Parts of x (N, ...): of what stays in files a block of them."""
    return x.split(min(CHUNK, getattr(x, "block", CHUNK)))


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
    values = 1.7 * (2 * cumulative - 1)  # nearly right for a single bin: ±√3
    for _ in range(NEWTON_STEPS):
        gradient, hessian = _derivatives(values, p)
        if float(gradient.abs().max()) < TOLERANCE:
            break
        values = _improve(values, torch.linalg.solve(hessian, gradient), p)
    return values


def _improve(values: Tensor, step: Tensor, p: Tensor) -> Tensor:
    """One damped step for each column: halved until the objective does not fall."""
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
    bins, dims = len(knots) - 1, x.shape[1]
    levels = torch.arange(int(knots[-1])) + 0.5
    bin_of_level = torch.bucketize(levels.double(), knots[1:-1])
    offsets = bins * torch.arange(dims)
    counts = torch.zeros(dims * bins, dtype=torch.float64)
    for chunk in chunks(x):
        index = bin_of_level[chunk.long()] + offsets
        counts += index.flatten().bincount(minlength=dims * bins)
    smoothing = pseudo_counts * knots.diff() / (knots[-1] - knots[0])
    return (counts.view(dims, bins) + smoothing) / (len(x) + pseudo_counts)


def _objective(values: Tensor, p: Tensor) -> Tensor:
    """(D,); -inf or NaN where values do not increase."""
    a, b = values[:, :-1], values[:, 1:]
    terms = (b - a).clamp_min(0).log() - (a * a + a * b + b * b) / 6
    return (p * terms).sum(1)


def _derivatives(values: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (D, M) and tridiagonal Hessian (D, M, M) of the objective."""
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
