"""Single decisions: which pixels spoke for them, and the way to another class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flowclf.classifier import GenerativeClassifier
from flowclf.data import Split
from flowclf.evaluation.explanation import Explanation, explanations
from flowclf.figures.images import image_grid
from flowclf.figures.style import new_figure, save_figure
from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["explain_figure", "explanation_figures"]

# Least side of an image, and the width of the curves beside it in its heights.
INCHES, CURVES = 0.62, 1.3
# ColorBrewer's red and blue, which every common colour blindness tells apart.
DIVERGING, FOR, AGAINST = "RdBu", "#2166ac", "#b2182b"
FEATURES = 6
# Of a name, letters shown; and with how many of a class's the titles of bars still fit in one line,
# else they take one of this share of their axes each.
LETTERS, SHORT, LINE = 24, 7, 0.12
# Of the contributions of all pixels: the rest is as dark as the darkest.
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
    """Write explain.png of the rows of `explain_rows`; its path.

    Raises:
        UserError: a system that cannot decode, or a posterior without a gradient.
    """
    path = folder / "explain.png"
    found = explanations(model, test, rows)
    save_figure(explain_figure(found, class_names, levels, feature_names), path)
    return [path]


def explain_figure(
    explained: Sequence[Explanation],
    class_names: Sequence[str],
    levels: int | None,
    feature_names: Sequence[str] = (),
) -> Figure:
    """A row a decision: x, its contributions in nats, the path to the runner-up, the posteriors.

    Blue is the predicted class, red the runner-up: contributions to the one and the other on one
    scale for all, symmetric about 0, and the two posteriors along the path. Of a table the largest
    contributions as bars, with the feature's value in x and at the end of the path.

    Args:
        explained: of `explanations`, at least one.
        class_names: K names.
        levels: grey levels of images, None for a table.
        feature_names: of a table's F columns; none: their numbers.

    Raises:
        UserError: another number of feature names.
    """
    if levels is None:
        return _table_figure(explained, class_names, feature_names)
    first = explained[0]
    _, rows, columns = first.x.shape
    inches = INCHES * max(1.0, rows / columns)
    image, strip = (inches * _heights_wide(each, levels) for each in (first.x[None], first.path))
    widths = (image, image, strip, CURVES * inches)
    figure = new_figure(1.1 + sum(widths), 0.9 + 1.15 * inches * len(explained))
    grid = figure.subplots(len(explained), 4, squeeze=False, width_ratios=widths)
    limit = _limit(explained)
    for axes, each in zip(grid, explained, strict=True):
        _draw_image(axes[0], each.x[None], levels)
        _write_classes(axes[0], each, class_names)
        _draw_contributions(axes[1], each, limit)
        _draw_image(axes[2], each.path, levels)
        _draw_posteriors(axes[3], each)
    _write_titles(grid)
    _draw_scale(figure, grid)
    return figure


def _heights_wide(images: torch.Tensor, levels: int) -> float:
    """Images (n, C, H, W) side by side."""
    height, width, _ = image_grid(images[None], levels).shape
    return width / height


def _limit(explained: Sequence[Explanation]) -> float:
    """Where the scale of contributions ends; above 0."""
    sizes = torch.cat([_per_pixel(each).abs().flatten() for each in explained])
    return float(sizes.quantile(SHOWN).clamp_min(torch.finfo(sizes.dtype).tiny))


def _per_pixel(each: Explanation) -> torch.Tensor:
    """Contributions of all channels together, (H, W)."""
    return each.contributions.sum(0)


def _draw_image(axes: Axes, images: torch.Tensor, levels: int) -> None:
    """Images (n, C, H, W) side by side."""
    axes.imshow(image_grid(images[None], levels).numpy(), interpolation="nearest")
    _bare(axes)


def _draw_contributions(axes: Axes, each: Explanation, limit: float) -> None:
    values = _per_pixel(each).numpy()
    axes.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _write_classes(axes: Axes, each: Explanation, class_names: Sequence[str]) -> None:
    """Left of the image: the class, and the two likeliest with their posteriors."""
    first, second = each.posterior
    lines = (
        (f"true {_name(each.label, class_names)}", "black"),
        (f"{_name(each.predicted, class_names)}  {first:.2f}", FOR),
        (f"{_name(each.runner_up, class_names)}  {second:.2f}", AGAINST),
    )
    style: dict[str, Any] = {"fontsize": 7, "ha": "right", "va": "center"}
    for line, (text, color) in enumerate(lines):
        axes.text(-0.1, 0.8 - 0.3 * line, text, color=color, transform=axes.transAxes, **style)


def _name(label: int, class_names: Sequence[str]) -> str:
    return _cut(class_names[label]) if label >= 0 else "?"


def _cut(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


def _draw_posteriors(axes: Axes, each: Explanation) -> None:
    """Of both classes along the path."""
    for values, color in zip(each.path_posterior.T, (FOR, AGAINST), strict=True):
        axes.plot(values.numpy(), color=color, linewidth=1.2, marker="o", markersize=2)
    axes.set_ylim(-0.05, 1.05)
    axes.set_xticks([])
    axes.set_yticks([0, 0.5, 1], labels=["0", "½", "1"], fontsize=6)
    axes.yaxis.tick_right()
    axes.set_box_aspect(1 / CURVES)
    axes.spines[["top", "left"]].set_visible(False)


def _write_titles(grid: Any) -> None:
    titles = ("x", "contributions", "on the way to the runner-up", "posterior")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8)


def _draw_scale(figure: Figure, grid: Any) -> None:
    """One for the contributions of all rows."""
    style: dict[str, Any] = {"shrink": 0.4, "aspect": 45, "pad": 0.015, "extend": "both"}
    bar = figure.colorbar(grid[0, 1].images[0], ax=grid, location="bottom", **style)
    bar.set_label("contribution in nats: red for the runner-up, blue for the predicted class")
    bar.ax.xaxis.label.set_fontsize(7)
    bar.ax.tick_params(labelsize=6)


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
        _write_decision(axes, each, class_names, stacked)
    for axes in panels[len(explained) :]:
        axes.remove()
    figure.supxlabel("feature:  its value → as the runner-up;  contribution in nats", fontsize=8)
    return figure


def _draw_bars(axes: Axes, each: Explanation, features: Sequence[str]) -> None:
    """The largest contributions downwards, last what the others add up to."""
    order = each.contributions.abs().argsort(descending=True, stable=True)
    ends = zip(order.tolist(), each.x[order], each.path[-1, order], strict=True)
    names = [f"{_cut(features[i])}:  {x:.3g} → {end:.3g}" for i, x, end in ends]
    values, left = each.contributions[order].tolist(), len(order) - FEATURES
    if left > 0:
        names[FEATURES:], values[FEATURES:] = [f"{left} others"], [sum(values[FEATURES:])]
    axes.barh(range(len(values)), values, color=[FOR if v > 0 else AGAINST for v in values])
    axes.set_yticks(range(len(values)), labels=names, fontsize=6)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.6)
    axes.tick_params(axis="x", labelsize=6)
    axes.spines[["top", "right"]].set_visible(False)


def _write_decision(
    axes: Axes, each: Explanation, class_names: Sequence[str], stacked: bool
) -> None:
    """Above the bars: the two likeliest classes in their colours, the true one between them.

    Stacked they are in a line of their own each.
    """
    first, second = each.posterior
    runner_up, predicted = (_name(k, class_names) for k in (each.runner_up, each.predicted))
    line = LINE * stacked
    look: dict[str, Any] = {"fontsize": 8}
    axes.set_title(f"{predicted}  {first:.2f}", loc="right", color=FOR, y=1, **look)
    axes.set_title(f"{runner_up}  {second:.2f}", loc="left", color=AGAINST, y=1 + line, **look)
    axes.set_title(f"true {_name(each.label, class_names)}", y=1 + 2 * line, **look)
