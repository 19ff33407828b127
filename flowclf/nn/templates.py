"""Template images, one per class: the outputs of a fixed-output VAE."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from couplings.core import Shape

__all__ = ["blobs", "class_means"]

SPREAD = 0.12


def class_means(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """Return the average x of each class, (K, *shape), of x (N, *shape) with labels y (N,)."""
    members = one_hot(y, classes).float()
    sums = members.T @ x.flatten(1).float()
    return (sums / members.sum(0)[:, None]).unflatten(1, x.shape[1:])


def blobs(shape: Shape, classes: int, top: float) -> Tensor:
    """Return Gaussian blobs of height `top` on a circle around the centre: (K, C, H, W)."""
    rows, columns = (torch.linspace(-1, 1, side) for side in shape[-2:])
    angles = 2 * pi * torch.arange(classes) / classes
    vertical = (rows - 0.6 * angles.sin()[:, None]).square()
    horizontal = (columns - 0.6 * angles.cos()[:, None]).square()
    square = vertical[:, :, None] + horizontal[:, None, :]
    blob = top * (-0.5 * square / SPREAD**2).exp()
    return blob[:, None].expand(classes, *shape).clone()
