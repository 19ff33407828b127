"""Where the class means start."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Start", "equidistant_means", "initial_means"]

Start = Literal["equidistant", "sphere", "normal", "linear"]


def initial_means(
    start: Start, classes: int, dims: int, distance: float, generator: torch.Generator | None
) -> Tensor:
    """The means (K, D) that a mixture starts from.

    equidistant: any two `distance` apart (IB-INN); sphere: the same directions at radius √D (its
    regularised class-NLL); normal: N(0, 1) a number (Variational Classification); linear: weights
    of torch's Linear, uniform in ±1/√D.
    """
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
    code's ⌊2D/K⌋ makes it 4.96 for CIFAR-100). Where D < K no such points exist: random directions.
    """
    repeats = dims // classes
    if repeats == 0:
        points = torch.randn(classes, dims, generator=generator, dtype=torch.float64)
        return (points * distance / torch.pdist(points).mean()).float()
    means = torch.zeros(classes, dims)
    blocks = torch.eye(classes).repeat(1, repeats)
    means[:, : repeats * classes] = blocks * distance / (2 * repeats) ** 0.5
    return means
