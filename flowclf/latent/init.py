"""Where the class means start."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["Start", "equidistant_means", "initial_means"]

REPULSIONS = 300

Start = Literal["equidistant", "sphere", "normal", "linear", "zero"]


def initial_means(
    start: Start, classes: int, dims: int, distance: float, generator: torch.Generator | None
) -> Tensor:
    """The means (K, D) that a mixture starts from.

    equidistant: any two `distance` apart (IB-INN); sphere: the same directions at radius √D (its
    regularised class-NLL); normal: N(0, 1) a number (Variational Classification); linear: weights
    of torch's Linear, uniform in ±1/√D; zero: all at the origin.
    """
    if start == "zero":
        return torch.zeros(classes, dims)
    generator = generator or torch.Generator().manual_seed(0)
    if start == "normal":
        return torch.randn(classes, dims, generator=generator)
    if start == "linear":
        return (2 * torch.rand(classes, dims, generator=generator) - 1) / dims**0.5
    means = equidistant_means(classes, dims, distance, generator)
    if start == "sphere":
        means *= dims**0.5 / means.norm(dim=1, keepdim=True)
    return means


def equidistant_means(
    classes: int, dims: int, distance: float, generator: torch.Generator | None = None
) -> Tensor:
    """K points in D dimensions, any two of them `distance` apart (on average, where D < K).

    As in IB-INN's code: scaled identities side by side, means[:, jK:(j+1)K] = s·I, and zeros in
    the last D mod K columns; ours has s = distance / sqrt(2 ⌊D/K⌋), so the distance is exact (the
    code's ⌊2D/K⌋ makes it 4.96 for CIFAR-100). Where D < K no such points exist: there they spread
    over a sphere, or a line.
    """
    repeats = dims // classes
    if repeats == 0:
        generator = generator or torch.Generator().manual_seed(0)
        points = _spread_points(classes, dims, generator)
        return (points * distance / torch.pdist(points).mean()).float()
    means = torch.zeros(classes, dims)
    blocks = torch.eye(classes).repeat(1, repeats)
    means[:, : repeats * classes] = blocks * distance / (2 * repeats) ** 0.5
    return means


def _spread_points(classes: int, dims: int, generator: torch.Generator) -> Tensor:
    """Points on the unit sphere that have repelled each other like charges, in random order."""
    if dims == 1:
        order = torch.randperm(classes, generator=generator)
        return torch.linspace(-1, 1, classes, dtype=torch.float64)[order, None]
    points = torch.randn(classes, dims, generator=generator, dtype=torch.float64)
    for step in range(REPULSIONS):
        points = normalize(points)
        apart = points[:, None] - points
        square = apart.square().sum(2).fill_diagonal_(1)
        force = (apart / square[..., None] ** 1.5).sum(1)
        # Shorter and shorter steps, none longer than a fifth of the way to a neighbour.
        length = 0.2 * square.sqrt().amin(1, keepdim=True) * (1 - step / REPULSIONS)
        points = points + length * normalize(force - (force * points).sum(1, keepdim=True) * points)
    return normalize(points)
