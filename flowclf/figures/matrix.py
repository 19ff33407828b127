"""Numbers for pairs of classes, as a map: confusions and distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowclf.figures.style import new_figure
from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["confusion_figure", "distance_figure"]

# Beyond so many classes neither numbers nor names can be read.
MOST_NUMBERS, MOST_NAMES = 15, 40
FONT = 7


def confusion_figure(counts: Tensor, class_names: Sequence[str]) -> Figure:
    """How many samples of each class (rows) were taken for which (columns): (K, K), integers.

    Colours are shares of the row, the diagonal is left white: what shows are the mistakes.

    Raises:
        UserError: another number of names.
    """
    shares = counts.double() / counts.sum(1, keepdim=True).clamp_min(1)
    figure, axes = _map(shares.fill_diagonal_(0.0), counts.tolist(), class_names, "Reds")
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    total = int(counts.sum())
    axes.set_title(f"{total - int(counts.diagonal().sum())} mistakes in {total}", fontsize=9)
    return figure


def distance_figure(distances: Tensor, class_names: Sequence[str]) -> Figure:
    """Distances of the classes' means (K, K), in standard deviations: the darker, the nearer.

    Raises:
        UserError: another number of names.
    """
    away = distances.clone().fill_diagonal_(torch.nan)
    texts = [[f"{value:.2f}" for value in row] for row in distances.tolist()]
    figure, axes = _map(away, texts, class_names, "Blues_r")
    axes.set_title("distance of the class means, in standard deviations", fontsize=9)
    return figure


def _map(
    values: Tensor, texts: Sequence[Sequence[object]], names: Sequence[str], colors: str
) -> tuple[Figure, Axes]:
    """A square of colours, with the numbers in it and the classes beside it."""
    count = len(values)
    if len(names) != count:
        raise UserError(f"expected {count} class names, got {len(names)}")
    side = 1.6 + min(6.0, 0.36 * count)
    figure = new_figure(side, side)
    axes = figure.add_subplot()
    image = axes.imshow(values.numpy(), cmap=colors)
    ticks = range(count) if count <= MOST_NAMES else []
    turned = 90 if max(map(len, names)) > 2 else 0
    axes.set_xticks(ticks, names if ticks else [], rotation=turned, fontsize=FONT)
    axes.set_yticks(ticks, names if ticks else [], fontsize=FONT)
    if count > MOST_NUMBERS:
        figure.colorbar(image, ax=axes, shrink=0.7)
        return figure, axes
    lightness = image.to_rgba(values.numpy())[..., :3] @ (0.3, 0.59, 0.11)
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            dark = row != column and lightness[row, column] < 0.5
            color = "white" if dark else "black"
            axes.text(column, row, str(text), ha="center", va="center", fontsize=FONT, color=color)
    return figure, axes
