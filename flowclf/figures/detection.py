"""What a score sees: histograms of it inside and outside, and ROC curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowclf.evaluation.detection import auroc, checked_scores, roc_points
from flowclf.figures.style import class_colors, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["roc_figure", "score_histograms"]

# As many bins in all, and at least so many where the inside is.
LEAST_BINS, MOST_BINS, INSIDE_BINS = 60, 240, 15
# Of the scores of each set, left beyond each end of the axis; they count in the last bin there.
BEYOND = 0.005
INSIDE = "#666666"
FONT = 8


def score_histograms(
    inside: Tensor, outside: Mapping[str, Tensor], label: str, inside_name: str = "inside"
) -> Figure:
    """Densities of a score inside (N,), filled, and of each set of outliers (M,), by name.

    The bins are common and reach over the middle 99 % of every set; what lies beyond, infinite
    scores too, is in the outermost. `label` is the axis': the score with its unit.

    Raises:
        UserError: no scores, or NaN.
    """
    outside = {name: checked_scores(inside, scores)[1] for name, scores in outside.items()}
    inside = checked_scores(inside, inside)[0]
    edges = _edges([inside, *outside.values()])
    figure = new_figure(5.6, 3.4)
    axes = figure.add_subplot()
    axes.stairs(
        _density(inside, edges), edges.numpy(), fill=True, color=INSIDE, alpha=0.35,
        label=inside_name,
    )  # fmt: skip
    for (name, scores), color in zip(outside.items(), class_colors(len(outside)), strict=True):
        axes.stairs(_density(scores, edges), edges.numpy(), color=color, linewidth=1.3, label=name)
    axes.set_xlim(float(edges[0]), float(edges[-1]))
    axes.set_ylim(bottom=0)
    axes.set_xlabel(label)
    axes.set_ylabel("density")
    axes.legend(fontsize=FONT, frameon=False)
    return figure


def roc_figure(inside: Tensor, outside: Mapping[str, Tensor], title: str = "") -> Figure:
    """ROC curves of a score: outliers found against false alarms, for each set by name (M,).

    The areas under them stand in the legend, with their 95 % intervals; chance is the diagonal.

    Raises:
        UserError: no scores, or NaN.
    """
    figure = new_figure(4.6, 4.4)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=INSIDE, linewidth=0.8, linestyle=":")
    for (name, scores), color in zip(outside.items(), class_colors(len(outside)), strict=True):
        false, true = roc_points(inside, scores)
        area = auroc(inside, scores)
        text = f"{name}: {area.value:.3f} ({area.low:.3f} to {area.high:.3f})"
        axes.plot(false.numpy(), true.numpy(), color=color, linewidth=1.3, label=text)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    axes.set_xlabel("share of the inside taken for outliers")
    axes.set_ylabel("share of the outliers found")
    axes.set_title(title, fontsize=9)
    if outside:
        axes.legend(
            fontsize=FONT, frameon=False, loc="lower right", title="area under the curve",
            title_fontsize=FONT,
        )  # fmt: skip
    return figure


def _edges(sets: list[Tensor]) -> Tensor:
    """Edges of common bins over the middle 99 % of the finite scores of each set, inside first."""
    ends = torch.tensor([BEYOND, 1 - BEYOND], dtype=torch.float64)
    finite = [scores[scores.isfinite()] for scores in sets]
    ranges = [_quantiles(scores, ends).tolist() for scores in finite if len(scores)] or [[0.0, 0.0]]
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    # Constant scores still need a bin around them.
    margin = 0.0 if high > low else max(0.5, 1e-6 * abs(low))
    inside = ranges[0][1] - ranges[0][0]
    wanted = INSIDE_BINS * (high - low) / inside if inside else LEAST_BINS
    bins = round(min(max(wanted, LEAST_BINS), MOST_BINS))
    return torch.linspace(low - margin, high + margin, bins + 1, dtype=torch.float64)


def _quantiles(scores: Tensor, shares: Tensor) -> Tensor:
    """Values of the sample, as torch.quantile has a limit of size."""
    return scores.sort().values[(shares * (len(scores) - 1)).round().long()]


def _density(scores: Tensor, edges: Tensor) -> list[float]:
    """Share of the scores in each bin, over its width; those beyond in the outermost."""
    bins = torch.bucketize(scores, edges[1:-1], right=True)
    shares = bins.bincount(minlength=len(edges) - 1).double() / len(scores)
    return (shares / edges.diff()).tolist()
