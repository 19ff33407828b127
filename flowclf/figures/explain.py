"""Single predictions: which pixels or features speak for them, and the path to another class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes

from flowclf.classifier import GenerativeClassifier
from flowclf.data import Split
from flowclf.evaluation.explain import Explanation, explanations
from flowclf.figures.images import GAP, draw_images
from flowclf.figures.style import BLUE, RED, Figure, new_figure, probability_axis, save_figures
from flowclf.support.errors import UserError

__all__ = ["explain_figure", "explanation_figures"]

# Least side of an image, and the width of the curves beside it in its heights.
INCHES, CURVES = 0.62, 1.3
FEATURES = 6
# Letters of a name that are shown; up to how many of a class's name titles of bars fit in one line,
# else they take a line each, of this share of their axes.
LETTERS, SHORT, LINE = 24, 7, 0.12
# Quantile of the contributions of all pixels at which the colours saturate.
SHOWN = 0.995


def explanation_figures(
    model: GenerativeClassifier,
    test: Split,
    rows: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    levels: int | None,
    folder: Path,
    feature_names: Sequence[str] = (),
) -> list[Path]:
    """Write explain.png of the rows of `explain_rows`; return its path.

    Raises:
        UserError: a system without a decoder, or a posterior without a gradient.
    """
    found = explanations(model, test, rows)
    figure = explain_figure(found, class_names, levels, feature_names)
    return save_figures({"explain": figure}, folder)


def explain_figure(
    explained: Sequence[Explanation],
    class_names: Sequence[str],
    levels: int | None,
    feature_names: Sequence[str] = (),
) -> Figure:
    """Draw for each prediction x, its contributions in nats, the path to the runner-up, posteriors.

    Blue is the predicted class, red the runner-up: contributions to the one and the other on one
    scale for all, symmetric about 0, and the two posteriors along the path. Of a table (`levels` is
    None) the largest contributions as bars, with the feature's name or else its number, and its
    value in x and at the end of the path.

    Raises:
        UserError: another number of feature names.
    """
    if levels is None:
        return _table_figure(explained, class_names, feature_names)
    first = explained[0]
    _, rows, columns = first.x.shape
    inches = INCHES * max(1.0, rows / columns)
    image, strip = (inches * (n * (columns + GAP) - GAP) / rows for n in (1, len(first.path)))
    widths = (image, image, strip, CURVES * inches)
    figure = new_figure(1.1 + sum(widths), 0.9 + 1.15 * inches * len(explained))
    grid = figure.subplots(len(explained), 4, squeeze=False, width_ratios=widths)
    contributions = torch.stack([each.contributions.sum(0) for each in explained])
    limit = contributions.abs().quantile(SHOWN).clamp_min(torch.finfo(contributions.dtype).tiny)
    colors = {"cmap": "RdBu", "vmin": -float(limit), "vmax": float(limit)}
    for axes, each, values in zip(grid, explained, contributions, strict=True):
        draw_images(axes[0], each.x[None, None], levels)
        _write_classes(axes[0], each, class_names)
        axes[1].imshow(values.numpy(), interpolation="nearest", **colors)
        axes[1].set(xticks=[], yticks=[])
        axes[1].spines[:].set_visible(False)
        draw_images(axes[2], each.path[None], levels)
        _draw_path(axes[3], each)
    titles = ("x", "contributions", "on the way to the runner-up", "posterior")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8)
    style: dict[str, Any] = {"shrink": 0.4, "aspect": 45, "pad": 0.015, "extend": "both"}
    bar = figure.colorbar(grid[0, 1].images[0], ax=grid, location="bottom", **style)
    bar.set_label("contribution in nats: red for the runner-up, blue for the predicted class")
    bar.ax.xaxis.label.set_fontsize(7)
    bar.ax.tick_params(labelsize=6)
    return figure


def _write_classes(axes: Axes, each: Explanation, class_names: Sequence[str]) -> None:
    """Write left of the image the class, and the two most probable with their posteriors."""
    first, second = each.posterior
    lines = (
        (f"true {_name(each.label, class_names)}", "black"),
        (f"{_name(each.predicted, class_names)}  {first:.2f}", BLUE),
        (f"{_name(each.runner_up, class_names)}  {second:.2f}", RED),
    )
    style: dict[str, Any] = {"fontsize": 7, "ha": "right", "va": "center"}
    for line, (text, color) in enumerate(lines):
        axes.text(-0.1, 0.8 - 0.3 * line, text, color=color, transform=axes.transAxes, **style)


def _name(label: int, class_names: Sequence[str]) -> str:
    return _cut(class_names[label]) if label >= 0 else "?"


def _cut(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


def _draw_path(axes: Axes, each: Explanation) -> None:
    """Draw the posteriors of both classes along the path."""
    for values, color in zip(each.path_posterior.T, (BLUE, RED), strict=True):
        axes.plot(values.numpy(), color=color, linewidth=1.2, marker="o", markersize=2)
    probability_axis(axes, fontsize=6)
    axes.yaxis.tick_right()
    axes.set_box_aspect(1 / CURVES)
    axes.spines[["top", "left"]].set_visible(False)


def _table_figure(
    explained: Sequence[Explanation], class_names: Sequence[str], feature_names: Sequence[str]
) -> Figure:
    features = list(feature_names) or [str(i) for i in range(len(explained[0].x))]
    if len(features) != len(explained[0].x):
        raise UserError(
            f"expected {len(explained[0].x)} feature names, one a column, got {len(features)}"
        )
    rows = (len(explained) + 1) // 2
    stacked = max(map(len, class_names)) > SHORT
    figure = new_figure(7.2, 0.5 + (1.8 if stacked else 1.5) * rows)
    panels = figure.subplots(rows, 2, squeeze=False).flatten()
    for axes, each in zip(panels, explained, strict=False):
        _draw_bars(axes, each, features)
        _write_titles(axes, each, class_names, stacked)
    for axes in panels[len(explained) :]:
        axes.remove()
    figure.supxlabel("feature:  its value → as the runner-up;  contribution in nats", fontsize=8)
    return figure


def _draw_bars(axes: Axes, each: Explanation, features: Sequence[str]) -> None:
    """Draw the largest contributions downwards, last the sum of the others."""
    order = each.contributions.abs().argsort(descending=True, stable=True)
    ends = zip(order.tolist(), each.x[order], each.path[-1, order], strict=True)
    names = [f"{_cut(features[i])}:  {x:.3g} → {end:.3g}" for i, x, end in ends]
    values, left = each.contributions[order].tolist(), len(order) - FEATURES
    if left > 0:
        names[FEATURES:], values[FEATURES:] = [f"{left} others"], [sum(values[FEATURES:])]
    axes.barh(range(len(values)), values, color=[BLUE if v > 0 else RED for v in values])
    axes.set_yticks(range(len(values)), labels=names, fontsize=6)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.6)
    axes.tick_params(axis="x", labelsize=6)
    axes.spines[["top", "right"]].set_visible(False)


def _write_titles(axes: Axes, each: Explanation, class_names: Sequence[str], stacked: bool) -> None:
    """Write above the bars the two most probable classes in their colours, the true one between.

    Stacked they are in a line of their own each.
    """
    first, second = each.posterior
    runner_up, predicted = (_name(k, class_names) for k in (each.runner_up, each.predicted))
    line = LINE * stacked
    look: dict[str, Any] = {"fontsize": 8}
    axes.set_title(f"{predicted}  {first:.2f}", loc="right", color=BLUE, y=1, **look)
    axes.set_title(f"{runner_up}  {second:.2f}", loc="left", color=RED, y=1 + line, **look)
    axes.set_title(f"true {_name(each.label, class_names)}", y=1 + 2 * line, **look)
