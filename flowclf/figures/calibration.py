"""Reliability diagrams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flowclf.figures.style import class_colors, new_figure
from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flowclf.evaluation.calibration import Reliability

__all__ = ["reliability_figure"]


def reliability_figure(reliabilities: Mapping[str, Reliability]) -> Figure:
    """Accuracy against confidence of each system, side by side, and beneath the share of samples.

    A bar is a bin's accuracy, a dot its mean confidence and accuracy: below the diagonal the
    system is too sure. Guo et al. 2017, Figure 1.

    Raises:
        UserError: no systems.
    """
    if not reliabilities:
        raise UserError("expected the reliability of one system or more, got none")
    columns = len(reliabilities)
    figure = new_figure(0.6 + 2.6 * columns, 3.9)
    grid = figure.subplots(
        2, columns, squeeze=False, sharex=True, sharey="row", height_ratios=[3, 1]
    )
    for (upper, lower), (name, binned) in zip(grid.T, reliabilities.items(), strict=True):
        _draw_accuracy(upper, binned)
        _draw_shares(lower, binned)
        upper.set_title(
            f"{name}\ncalibration error {100 * binned.expected_error:.1f} %", fontsize=9
        )
        lower.set_xlabel("confidence")
    grid[0, 0].set_ylabel("accuracy")
    grid[1, 0].set_ylabel("share")
    return figure


def _draw_accuracy(axes: Axes, binned: Reliability) -> None:
    blue, _, _, _, _, _, red, *_ = class_colors(10)
    filled = binned.count > 0
    places = binned.edges[:-1], binned.edges.diff(), binned.accuracy, binned.confidence
    left, width, accuracy, confidence = (values[filled].tolist() for values in places)
    axes.bar(left, accuracy, width, align="edge", color=blue, alpha=0.35, edgecolor="white")
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    axes.plot(confidence, accuracy, "o-", color=red, markersize=3.5, linewidth=1, clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


def _draw_shares(axes: Axes, binned: Reliability) -> None:
    places = binned.edges[:-1], binned.count / binned.count.sum(), binned.edges.diff()
    left, share, width = (values.tolist() for values in places)
    axes.bar(left, share, width, align="edge", color="grey", edgecolor="white")
