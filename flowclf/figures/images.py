"""Images in rows: samples of each class, and interpolations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowclf.figures.style import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["image_grid", "interpolation_figure", "sample_figure"]

INCHES = 0.55
GAP = 1


def image_grid(images: Tensor, levels: int) -> Tensor:
    """Images (R, C, channels, H, W) in grey levels side by side: (H', W', 3) in [0, 1].

    Values outside the levels are clipped: what a density makes can lie a little beyond them.
    """
    scaled = (images.floor().clamp(0, levels - 1) / (levels - 1)).cpu()
    padded = torch.nn.functional.pad(scaled, (0, GAP, 0, GAP), value=1.0)
    rows, columns, channels, height, width = padded.shape
    grid = padded.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    grid = grid[:-GAP, :-GAP]
    return grid if channels == 3 else grid[:, :, :1].expand(-1, -1, 3)


def sample_figure(images: Tensor, class_names: Sequence[str], levels: int) -> Figure:
    """Samples (K, n, channels, H, W): a row a class, its name beside it."""
    return _rows_figure(images, levels, labels=class_names, title="samples of each class")


def interpolation_figure(strips: Tensor, levels: int) -> Figure:
    """Strips (P, steps, channels, H, W): a row a pair, from one image to the other."""
    return _rows_figure(strips, levels, labels=None, title="straight lines in latent space")


def _rows_figure(images: Tensor, levels: int, labels: Sequence[str] | None, title: str) -> Figure:
    rows, columns, _, height, width = images.shape
    figure = new_figure(1.2 + INCHES * columns * width / height, 0.5 + INCHES * rows)
    axes = figure.add_subplot()
    axes.imshow(image_grid(images, levels).numpy(), interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    centres = [(height + GAP) * row + (height - 1) / 2 for row in range(rows)]
    axes.set_yticks(centres if labels is not None else [], labels=labels or [], fontsize=8)
    axes.tick_params(length=0)
    return figure
