"""Squares of classes by classes: how far apart their means are in latent space."""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from torch import Tensor

from flowclf.figures.style import Figure, new_figure
from flowclf.support.errors import UserError

__all__ = ["color_numbers", "similarity_figure", "square_figure"]

# Beyond so many classes neither numbers nor names can be read.
MOST_NUMBERS, MOST_NAMES = 15, 40
FONT = 7
# Standard errors that a scale spans at least, and that the distances of ten classes may span by
# chance.
WIDEST, NOISE = 10, 5


def similarity_figure(
    distances: Tensor, class_names: Sequence[str], error: float | None = None
) -> Figure:
    """Draw distances of the classes' means (K, K), in standard deviations: the darker, the nearer.

    `error` is a distance's standard error. The scale spans the distances, and at least ten
    standard errors, so that mere noise looks even; the diagonal is left out. IB-INN (Ardizzone et
    al. 2020), Figure 10, finds cats by dogs and cars by trucks.

    Raises:
        UserError: another number of names.
    """
    own = torch.eye(len(distances), dtype=torch.bool)
    others = distances[~own]
    texts = [["" if i == j else f"{value:.1f}" for j, value in enumerate(row)]
             for i, row in enumerate(distances.tolist())]  # fmt: skip
    away = distances.double().masked_fill(own, torch.nan)
    figure, axes, image = square_figure(away, texts, class_names, "YlGnBu_r")
    low, high = (float(others.min()), float(others.max())) if len(others) else (0.0, 1.0)
    margin = max(0.0, WIDEST * (error or 0.0) - (high - low)) / 2
    image.set_clim(low - margin, high + margin)
    figure.colorbar(
        image, ax=axes, shrink=0.7, label="distance of the means in standard deviations"
    )
    axes.set_title(_heading(away, class_names, error), fontsize=9)
    color_numbers(axes, image)
    return figure


def _heading(away: Tensor, names: Sequence[str], error: float | None) -> str:
    if bool(away.isnan().all()):
        return ""
    spread = f" ± {error:.2f}" if error is not None else ""
    low, high = away.nan_to_num(torch.inf).min(), away.nan_to_num(-torch.inf).max()
    if error is not None and float(high - low) < NOISE * error:
        return f"no classes are nearer than others: a distance has an error of{spread}"
    a, b = divmod(int(away.nan_to_num(torch.inf).argmin()), len(away))
    return f"nearest to each other: {names[a]} and {names[b]}, {float(low):.1f}{spread}"


def square_figure(
    values: Tensor, texts: Sequence[Sequence[str]], names: Sequence[str], colors: str
) -> tuple[Figure, Axes, AxesImage]:
    """Draw a square (K, K) of colours, with texts in it and classes beside; NaN is not painted.

    Where the scale is settled, `color_numbers` makes the texts legible.

    Raises:
        UserError: another number of names.
    """
    count = len(values)
    if len(names) != count:
        raise UserError(f"expected {count} class names, got {len(names)}")
    side = 1.6 + min(6.0, 0.36 * count)
    figure = new_figure(max(4.2, side + 0.7), max(3.6, side))
    axes = figure.add_subplot()
    image = axes.imshow(values.numpy(), cmap=colors)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    shown = names if count <= MOST_NAMES else []
    turned = 90 if max(map(len, names)) > 2 else 0
    axes.set_xticks(range(len(shown)), shown, rotation=turned, fontsize=FONT)
    axes.set_yticks(range(len(shown)), shown, fontsize=FONT)
    for row, line in enumerate(texts if count <= MOST_NUMBERS else ()):
        for column, text in enumerate(line):
            if text:
                axes.text(column, row, text, ha="center", va="center", fontsize=FONT)
    return figure, axes, image


def color_numbers(axes: Axes, image: AxesImage) -> None:
    """Write the numbers on dark colours in white."""
    array = image.get_array()
    assert array is not None, "drawn by imshow"
    colors = image.to_rgba(array)
    # What has no value is not painted.
    dark = (colors[..., :3] @ (0.3, 0.59, 0.11) < 0.5) & (colors[..., 3] > 0)
    for text in axes.texts:
        column, row = map(int, text.get_position())
        text.set_color("white" if dark[row, column] else "black")
