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

from flowclf.catalogue import find_metric
from flowclf.evaluation.calibration import Reliability, wilson_interval
from flowclf.evaluation.context import Scores
from flowclf.evaluation.detection import auroc, checked_scores, roc_points
from flowclf.figures.curves import attack_figure, corruption_figure, sample_quality_figure
from flowclf.figures.similarity import color_numbers, similarity_figure, square_figure
from flowclf.figures.style import (
    BLUE,
    GREY,
    Figure,
    Rows,
    class_colors,
    new_figure,
    save_figures,
)
from flowclf.support.errors import UserError

__all__ = [
    "confusion_figure",
    "evaluation_figures",
    "reliability_figure",
    "result_figures",
    "roc_figure",
    "score_figures",
    "score_histograms",
]

# Scores that are drawn: what each tells, and its axis.
DRAWN_SCORES = {
    "negative-log-prob": ("how unlikely an input is", "−log q(x) per dimension, nats"),
    "typicality": (
        "how atypical an input is",
        "|−log q(x) − its training mean| per dimension, nats",
    ),
    "entropy": ("how unsure the class is", "entropy of q(y|x), nats"),
}
# As many bins in all, and at least so many over the in-distribution scores.
LEAST_BINS, MOST_BINS, INSIDE_BINS = 60, 240, 15
# Share of the scores of each set beyond each end of the axis; they count in the outermost bin.
BEYOND = 0.005
INSIDE = "#666666"
# Positive scores below count as so much on a logarithmic axis.
TINY = 1e-8
# Samples of a bin whose accuracy is more than a single sample's.
LEAST_SAMPLES = 2
LEGEND = 8


def evaluation_figures(
    name: str,
    results: Mapping[str, Any],
    folder: Path,
    class_names: Sequence[str],
    scores: tuple[Scores, Mapping[str, Scores]] | None = None,
) -> list[Path]:
    """Write a .png for each of the results that has a figure; return their paths.

    Those of `result_figures`, and with scores of out-of-distribution data
    (`Subject.outlier_scores`) roc-SCORE and scores-SCORE of the `DRAWN_SCORES` there are.
    """
    figures = result_figures(name, results, class_names)
    if scores:
        inside, outside = scores
        for score in (score for score in DRAWN_SCORES if score in inside):
            sets = {k: values[score] for k, values in outside.items()}
            figures |= score_figures(score, inside[score], sets)
    return save_figures(figures, folder)


def result_figures(
    name: str, results: Mapping[str, Any], class_names: Sequence[str]
) -> dict[str, Figure]:
    """Draw the results of a system of that name, by their keys.

    reliability, shift, attack, confusion, class_distances, sample_quality: those that there are.
    """

    def attack(row: Mapping[str, Any]) -> str:
        return f"{row['kind']}, {row['loss']}"

    error = results.get("class_distance_error")
    draw: dict[str, Callable[[Rows], Figure]] = {
        "reliability": lambda rows: reliability_figure({name: _reliability(rows)}),
        "shift": lambda rows: corruption_figure({name: rows}),
        "attack": lambda rows: attack_figure({k: list(v) for k, v in groupby(rows, attack)}),
        "confusion": lambda rows: confusion_figure(_matrix(rows), class_names),
        "class_distances": lambda rows: similarity_figure(_matrix(rows), class_names, error),
        "sample_quality": lambda rows: sample_quality_figure({name: rows}),
    }
    return {kind: draw[kind](results[kind]) for kind in draw if kind in results}


def score_figures(score: str, inside: Tensor, outside: Mapping[str, Tensor]) -> dict[str, Figure]:
    """Draw ROC curves and densities of one of the `DRAWN_SCORES`: roc-SCORE and scores-SCORE."""
    tells, axis = DRAWN_SCORES[score]
    title = f"outliers told from the test set by {tells}"
    return {
        f"roc-{score}": roc_figure(inside, outside, title),
        f"scores-{score}": score_histograms(inside, outside, axis, "test set", title),
    }


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
    """Draw accuracy against confidence of each system, and beneath how many samples each bin has.

    A dot is a bin's mean confidence and accuracy, with the 95 % Wilson interval of the accuracy:
    one that reaches the diagonal may be calibrated, one below it is overconfident. A bin of a
    single sample is a hollow dot without one. Guo et al. 2017, Figure 1.

    Raises:
        UserError: no systems.
    """
    if not reliabilities:
        raise UserError("expected the reliability of one system or more, got none")
    columns = len(reliabilities)
    figure = new_figure(0.8 + 3.0 * columns, 4.3)
    grid = figure.subplots(
        2, columns, squeeze=False, sharex=True, sharey="row", height_ratios=[3, 1]
    )
    for (upper, lower), (name, binned) in zip(grid.T, reliabilities.items(), strict=True):
        _draw_accuracy(upper, binned)
        _draw_counts(lower, binned)
        error = 100 * binned.expected_error
        upper.set_title(f"{name}: confidence is off by {error:.1f} % on average", fontsize=9)
        lower.set_xlabel("confidence in %")
    grid[0, 0].set_ylabel(find_metric("accuracy").heading)
    grid[1, 0].set_ylabel("samples")
    return figure


def _draw_accuracy(axes: Axes, binned: Reliability) -> None:
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.8, linestyle="--")
    confidence, accuracy = 100 * binned.confidence, 100 * binned.accuracy
    for k in binned.count.nonzero()[:, 0].tolist():
        count, place, height = int(binned.count[k]), float(confidence[k]), float(accuracy[k])
        several = count >= LEAST_SAMPLES
        if several:
            low, high = wilson_interval(round(height * count / 100), count)
            axes.vlines(place, 100 * low, 100 * high, color=BLUE, linewidth=2, alpha=0.5)
        face = BLUE if several else "white"
        dot: dict[str, Any] = {"markersize": 4, "clip_on": False, "zorder": 3}
        axes.plot(place, height, "o", color=BLUE, markerfacecolor=face, **dot)
    axes.set(xlim=(0, 100), ylim=(0, 100))


def _draw_counts(axes: Axes, binned: Reliability) -> None:
    """Draw the number of samples of each bin on a logarithmic axis, and write it."""
    left, width = (100 * binned.edges[:-1]).tolist(), (100 * binned.edges.diff()).tolist()
    counts = binned.count.tolist()
    axes.bar(left, counts, width, align="edge", color=GREY, alpha=0.6, edgecolor="white")
    axes.set_yscale("log")
    axes.set_ylim(0.7, 12 * max(counts))
    for place, wide, count in zip(left, width, counts, strict=True):
        if count:
            where = (place + wide / 2, count), (0, 1)
            axes.annotate(
                f"{count:,}", *where, textcoords="offset points", ha="center", fontsize=5.5
            )


def score_histograms(
    inside: Tensor,
    outside: Mapping[str, Tensor],
    label: str,
    inside_name: str = "inside",
    title: str = "",
) -> Figure:
    """Draw the density of each set's scores (M,) over that of in-distribution scores (N,), in grey.

    A panel a set, with the area under its ROC curve. The bins are common and reach over the middle
    99 % of every set; what lies beyond, infinite scores too, is in the outermost. Positive scores
    of several orders of magnitude have a logarithmic axis. `label` is the axis': the score's unit.

    Raises:
        UserError: no scores, or NaN.
    """
    outside = {name: checked_scores(inside, scores)[1] for name, scores in outside.items()}
    inside = checked_scores(inside, inside)[0]
    scale = _decades if _spans_decades([inside, *outside.values()]) else _as_they_are
    edges = _edges([scale(scores) for scores in (inside, *outside.values())])
    shown = 10**edges if scale is _decades else edges
    figure = new_figure(6.4, 1.0 + 0.62 * len(outside))
    panels = figure.subplots(len(outside), 1, squeeze=False, sharex=True)[:, 0]
    colors = class_colors(len(outside))
    for axes, (name, scores), color in zip(panels, outside.items(), colors, strict=True):
        for values, look in ((inside, INSIDE), (scores, color)):
            density = _density(scale(values), edges)
            axes.stairs(density, shown, fill=True, color=look, alpha=0.45)
        axes.set_ylim(bottom=0)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", color=color)
        area, where = auroc(inside, scores).value, axes.transAxes
        axes.text(1.01, 0.5, f"{area:.3f}", transform=where, va="center", fontsize=LEGEND)
    panels[-1].set(xlim=(shown[0], shown[-1]), xlabel=label)
    if scale is _decades:
        panels[-1].set_xscale("log")
    heading = f"{title}\n" if title else ""
    figure.suptitle(f"{heading}grey: {inside_name}; right: area under the ROC curve", fontsize=9)
    return figure


def _as_they_are(scores: Tensor) -> Tensor:
    return scores


def _decades(scores: Tensor) -> Tensor:
    return scores.double().clamp_min(TINY).log10()


def _spans_decades(sets: Sequence[Tensor]) -> bool:
    """Tell scores that are positive, and of several orders of magnitude within the middle 90 %."""
    scores = torch.cat([each[each.isfinite()].double() for each in sets])
    if not len(scores) or bool((scores < 0).any()):
        return False
    low, high = np.quantile(scores.numpy(), (0.05, 0.95))
    return bool(high > 1000 * max(low, TINY))


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
    figure = new_figure(4.8, 4.6)
    axes = figure.add_subplot()
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.8, linestyle=":")
    for (name, scores), color in zip(outside.items(), class_colors(len(outside)), strict=True):
        false, true = (100 * rate for rate in roc_points(inside, scores))
        area = auroc(inside, scores)
        text = f"{name}: {area.value:.3f} ({area.low:.3f} to {area.high:.3f})"
        axes.plot(false.numpy(), true.numpy(), color=color, linewidth=1.3, label=text)
    axes.set(xlim=(-1, 101), ylim=(-1, 101), aspect="equal")
    axes.set(xlabel="false positive rate in %", ylabel="true positive rate in %")
    axes.set_title(title, fontsize=9)
    if outside:
        axes.legend(
            fontsize=LEGEND, frameon=False, loc="lower right",
            title="area under the curve (95 % interval)", title_fontsize=LEGEND,
        )  # fmt: skip
    return figure


def confusion_figure(counts: Tensor, class_names: Sequence[str]) -> Figure:
    """Draw how many samples of each class (rows) were predicted as which (columns): (K, K).

    Colours are shares of the row; the diagonal and what never happened are left white, so that what
    shows are the errors.

    Raises:
        UserError: another number of names.
    """
    shares = 100 * counts.double() / counts.sum(1, keepdim=True).clamp_min(1)
    texts = [[str(count or "") for count in row] for row in counts.tolist()]
    wrong = counts.clone().fill_diagonal_(0)
    figure, axes, image = square_figure(
        shares.masked_fill(wrong == 0, torch.nan), texts, class_names, "Reds"
    )
    image.set_clim(0, float((shares * (wrong > 0)).max()) or 1.0)
    color_numbers(axes, image)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the class in %, errors alone")
    axes.set(xlabel="predicted", ylabel="class")
    total, errors = int(counts.sum()), int(wrong.sum())
    heading = f"{errors:,} of {total:,} test samples are misclassified"
    if errors:
        worst = int(wrong.argmax())
        a, b = (class_names[k] for k in divmod(worst, len(counts)))
        heading += f",\nmost often {a} as {b} ({int(wrong.max())} times)"
    axes.set_title(heading, fontsize=9)
    return figure
