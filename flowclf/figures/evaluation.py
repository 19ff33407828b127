"""Figures of an evaluation: calibration, scores of out-of-distribution data, pairs of classes."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from flowclf.evaluation.calibration import Reliability
from flowclf.evaluation.context import Scores
from flowclf.evaluation.detection import auroc, checked_scores, roc_points
from flowclf.evaluation.scores import SCORES
from flowclf.figures.curves import attack_figure, corruption_figure
from flowclf.figures.style import Figure, Rows, class_colors, new_figure, save_figures
from flowclf.support.errors import UserError

__all__ = [
    "confusion_figure",
    "distance_figure",
    "evaluation_figures",
    "reliability_figure",
    "roc_figure",
    "score_histograms",
]

DRAWN_SCORES = ("negative-log-prob", "typicality", "entropy")
# As many bins in all, and at least so many over the in-distribution scores.
LEAST_BINS, MOST_BINS, INSIDE_BINS = 60, 240, 15
# Share of the scores of each set beyond each end of the axis; they count in the outermost bin.
BEYOND = 0.005
INSIDE = "#666666"
# Beyond so many classes neither numbers nor names can be read.
MOST_NUMBERS, MOST_NAMES = 15, 40
LEGEND, FONT = 8, 7


def evaluation_figures(
    name: str,
    results: Mapping[str, Any],
    folder: Path,
    class_names: Sequence[str],
    scores: tuple[Scores, Mapping[str, Scores]] | None = None,
) -> list[Path]:
    """Write a .png for each of the results that has a figure; return their paths.

    reliability, shift, attack, confusion, class_distances, and with scores of out-of-distribution
    data (`Subject.outlier_scores`) roc-SCORE and scores-SCORE of the `DRAWN_SCORES` there are.
    """

    def attack(row: Mapping[str, Any]) -> str:
        return f"{row['kind']}, {row['loss']}"

    draw: dict[str, Callable[[Rows], Figure]] = {
        "reliability": lambda rows: reliability_figure({name: _reliability(rows)}),
        "shift": lambda rows: corruption_figure({name: rows}),
        "attack": lambda rows: attack_figure({k: list(v) for k, v in groupby(rows, attack)}),
        "confusion": lambda rows: confusion_figure(_matrix(rows), class_names),
        "class_distances": lambda rows: distance_figure(_matrix(rows), class_names),
    }
    figures = {kind: draw[kind](results[kind]) for kind in draw if kind in results}
    if scores:
        inside, outside = scores
        for score in (score for score in DRAWN_SCORES if score in inside):
            sets, label = {k: values[score] for k, values in outside.items()}, SCORES[score].formula
            figures[f"roc-{score}"] = roc_figure(inside[score], sets, label)
            histograms = score_histograms(inside[score], sets, label, inside_name="test set")
            figures[f"scores-{score}"] = histograms
    return save_figures(figures, folder)


def _matrix(rows: Rows) -> Tensor:
    """Convert rows with the classes' numbers as keys to (K, K)."""
    return torch.tensor([[row[str(k)] for k in range(len(rows))] for row in rows])


def _reliability(rows: Rows) -> Reliability:
    def column(name: str) -> Tensor:
        values = [nan if row[name] is None else row[name] for row in rows]
        return torch.tensor(values, dtype=torch.float64)

    edges = torch.cat((column("low"), column("high")[-1:]))
    return Reliability(column("confidence"), column("accuracy"), column("count").long(), edges)


def reliability_figure(reliabilities: Mapping[str, Reliability]) -> Figure:
    """Draw accuracy against confidence of each system, and beneath the share of samples.

    A bar is a bin's accuracy, a dot its mean confidence and accuracy: below the diagonal the
    system is overconfident. Guo et al. 2017, Figure 1.

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
        left, width = binned.edges[:-1].tolist(), binned.edges.diff().tolist()
        share = (binned.count / binned.count.sum()).tolist()
        lower.bar(left, share, width, align="edge", color="grey", edgecolor="white")
        title = f"{name}\ncalibration error {100 * binned.expected_error:.1f} %"
        upper.set_title(title, fontsize=9)
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
    axes.set(xlim=(0, 1), ylim=(0, 1))


def score_histograms(
    inside: Tensor, outside: Mapping[str, Tensor], label: str, inside_name: str = "inside"
) -> Figure:
    """Draw densities of in-distribution scores (N,), filled, and of each other set's (M,), by name.

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
    look: dict[str, Any] = {"fill": True, "color": INSIDE, "alpha": 0.35, "label": inside_name}
    axes.stairs(_density(inside, edges), edges, **look)
    for (name, scores), color in zip(outside.items(), class_colors(len(outside)), strict=True):
        axes.stairs(_density(scores, edges), edges, color=color, linewidth=1.3, label=name)
    axes.set_ylim(bottom=0)
    axes.set(xlim=(edges[0], edges[-1]), xlabel=label, ylabel="density")
    axes.legend(fontsize=LEGEND, frameon=False)
    return figure


def _edges(sets: Sequence[Tensor]) -> np.ndarray:
    """Return edges of common bins over the middle 99 % of the finite scores of each set."""
    finite = [scores[scores.isfinite()].numpy() for scores in sets]
    ends = (BEYOND, 1 - BEYOND)
    ranges = [np.quantile(s, ends, method="nearest") for s in finite if len(s)] or [np.zeros(2)]
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    # Constant scores still need a bin around them.
    margin = 0.0 if high > low else max(0.5, 1e-6 * abs(low))
    inside = ranges[0][1] - ranges[0][0]
    wanted = INSIDE_BINS * (high - low) / inside if inside else LEAST_BINS
    bins = round(min(max(wanted, LEAST_BINS), MOST_BINS))
    return np.linspace(low - margin, high + margin, bins + 1)


def _density(scores: Tensor, edges: np.ndarray) -> np.ndarray:
    """Return the share of the scores in each bin, over its width; those beyond in the outermost."""
    return np.histogram(scores.numpy().clip(edges[0], edges[-1]), edges, density=True)[0]


def roc_figure(inside: Tensor, outside: Mapping[str, Tensor], title: str = "") -> Figure:
    """Draw a score's ROC curve of in-distribution data against each other set, by name (M,).

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
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    axes.set_title(title, fontsize=9)
    if outside:
        axes.legend(
            fontsize=LEGEND, frameon=False, loc="lower right", title="area under the curve",
            title_fontsize=LEGEND,
        )  # fmt: skip
    return figure


def confusion_figure(counts: Tensor, class_names: Sequence[str]) -> Figure:
    """Draw how many samples of each class (rows) were predicted as which (columns): (K, K).

    Colours are shares of the row, the diagonal is left white: what shows are the errors.

    Raises:
        UserError: another number of names.
    """
    shares = counts.double() / counts.sum(1, keepdim=True).clamp_min(1)
    figure, axes = _map(shares.fill_diagonal_(0.0), counts.tolist(), class_names, "Reds")
    axes.set(xlabel="predicted", ylabel="class")
    total = int(counts.sum())
    axes.set_title(f"{total - int(counts.diagonal().sum())} errors in {total}", fontsize=9)
    return figure


def distance_figure(distances: Tensor, class_names: Sequence[str]) -> Figure:
    """Draw distances of the classes' means (K, K), in standard deviations: the darker, the nearer.

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
    """Draw a square of colours, with the numbers in it and the classes beside it."""
    count = len(values)
    if len(names) != count:
        raise UserError(f"expected {count} class names, got {len(names)}")
    side = 1.6 + min(6.0, 0.36 * count)
    figure = new_figure(side, side)
    axes = figure.add_subplot()
    image = axes.imshow(values.numpy(), cmap=colors)
    shown = names if count <= MOST_NAMES else []
    turned = 90 if max(map(len, names)) > 2 else 0
    axes.set_xticks(range(len(shown)), shown, rotation=turned, fontsize=FONT)
    axes.set_yticks(range(len(shown)), shown, fontsize=FONT)
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
