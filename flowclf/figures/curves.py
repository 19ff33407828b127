"""Curves of what was measured: by severity, strength of an attack, samples trained on or drawn."""

from collections.abc import Collection, Mapping, Sequence
from math import log
from typing import Any

from matplotlib.axes import Axes

from flowclf.catalogue import find_metric
from flowclf.figures.style import (
    BLUE,
    GREY,
    RED,
    Figure,
    Rows,
    averages,
    draw_curve,
    line_style,
    new_figure,
)
from flowclf.support.errors import UserError

__all__ = [
    "attack_figure",
    "corruption_figure",
    "information_figure",
    "learning_figure",
    "low_data_figure",
    "sample_quality_figure",
]

LIMITS = "#555555"
DASHES = ("--", ":", "-.")
MOST_TICKS, MOST_COLUMNS = 8, 5


def learning_figure(rows: Rows) -> Figure:
    """Draw the history of a training against the epoch: loss, accuracy and rate, if there are any.

    Solid is the training, dashed with marks the validation, with true bits/dim.

    Args:
        rows: of metrics.jsonl, with `epoch` and `train`, and perhaps `validation`.

    Raises:
        UserError: no history.
    """
    known = [row for row in rows if "train" in row]
    if not known:
        raise UserError("expected the history of a training, epoch by epoch, got none; train anew")
    to_bits = 1 / log(2)
    curves: list[tuple[str, str, str, float]] = [("loss (nats)", "total", "", 1.0)]
    if "accuracy" in known[0]["train"]:
        curves.append((find_metric("accuracy").heading, "accuracy", "accuracy", 100.0))
    if "rate_per_dim" in known[0]["train"]:
        curves.append(("rate in bits/dim", "rate_per_dim", "bits_per_dim", to_bits))
    figure = new_figure(3.4 * len(curves), 3.0)
    grid = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (label, name, held_out, scale) in zip(grid, curves, strict=True):
        points = [(row["epoch"], scale * row["train"][name]) for row in known]
        axes.plot(*zip(*points, strict=True), label="training", color=BLUE)
        unit = 1.0 if held_out == "bits_per_dim" else scale
        found = [
            (row["epoch"], unit * value)
            for row in known
            if (value := row.get("validation", {}).get(held_out)) is not None
        ]
        if found:
            axes.plot(*zip(*found, strict=True), "--o", color=RED, markersize=3, label="validation")
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
    _finish(figure, "how the training went, epoch by epoch", ncols=2, fontsize=8)
    return figure


def corruption_figure(tables: Mapping[str, Rows]) -> Figure:
    """Draw accuracy and ECE in % against severity, for each system the rows of `shift_table`.

    A line is the mean over the families, the band one standard error of it; severity 0 is clean.
    """
    figure = new_figure(7.2, 3.5)
    families = {str(row["family"]) for rows in tables.values() for row in rows} - {"mean", "clean"}
    for axes, metric in zip(figure.subplots(1, 2), ("accuracy", "ece"), strict=True):
        shown = find_metric(metric)
        for k, (system, rows) in enumerate(tables.items()):
            own = [row for row in rows if row["family"] != "mean"]
            points = averages((int(row["severity"]), shown.scale * row[metric]) for row in own)
            draw_curve(axes, points, line_style(k, len(tables)), system)
        axes.set(xlabel="severity of the corruption (0: clean images)", ylabel=shown.heading)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", alpha=0.25, linewidth=0.6)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.axes[0].legend(fontsize=8, frameon=False)
    what = f"{len(families)} kinds of corruption" if len(families) > 1 else f"{min(families)}"
    title = f"how accuracy and calibration fall on corrupted images: mean of {what}"
    figure.suptitle(f"{title},\nband: ± one standard error over the kinds", fontsize=9)
    return figure


def attack_figure(curves: Mapping[str, Rows]) -> Figure:
    """Draw accuracy in % against ε from 0, for each system the rows of `attack_curve`.

    Where a system has a density, a second panel shows how well it separates attacked from clean
    images: the area under the ROC curve, with 50 % for chance.
    """
    detected = {name: rows for name, rows in curves.items() if rows[0]["auroc"] is not None}
    panels = 2 if detected else 1
    figure = new_figure(0.4 + 3.4 * panels, 3.6)
    grid, styles = figure.subplots(1, panels, squeeze=False)[0], _line_styles([*curves])
    labels = {
        "accuracy": find_metric("accuracy").heading,
        "auroc": "AUROC of noticing it by −log q(x), in %",
    }
    if detected:
        grid[1].axhline(50, color=GREY, linewidth=0.8, linestyle=":", label="chance")
    for axes, own, (metric, label) in zip(grid, (curves, detected), labels.items(), strict=False):
        for name, rows in own.items():
            points = sorted((100 * row["epsilon"], 100 * row[metric]) for row in rows)
            axes.plot(*zip(*points, strict=True), label=name, **styles[name])
        axes.set(ylim=(0, 102), xlabel="ε in % of the range of grey levels", ylabel=label)
        axes.set_xlim(left=0)
        axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    _finish(figure, "accuracy falls as an attack may change pixels by ε", ncols=2, fontsize=8)
    return figure


def sample_quality_figure(tables: Mapping[str, Rows]) -> Figure:
    """Draw class consistency and Fréchet distance against the temperature of samples.

    For each system the rows `sample_quality` of the suite `samples`; dotted is the distance of two
    halves of the real images.
    """
    figure = new_figure(7.2, 3.3)
    metrics = ("class_consistency", "frechet_distance")
    for axes, metric in zip(figure.subplots(1, 2), metrics, strict=True):
        shown = find_metric(metric)
        for k, (system, rows) in enumerate(tables.items()):
            points = sorted((row["temperature"], shown.scale * row[metric]) for row in rows)
            style = line_style(k, len(tables))
            axes.plot(*zip(*points, strict=True), label=system, **style)
            if metric == "frechet_distance":
                look: dict[str, Any] = {"color": style["color"], "linestyle": ":", "linewidth": 1}
                axes.axhline(rows[0]["frechet_floor"], **look)
        axes.set(xlabel="temperature of the samples", ylabel=f"{shown.heading} {shown.arrow}")
        axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    figure.axes[1].set_ylim(bottom=0)
    title = "samples as a network sees them that was trained on real images (dotted: real images)"
    _finish(figure, title, ncols=4, fontsize=8)
    return figure


def low_data_figure(averages: Rows, references: Collection[str] = (), title: str = "") -> Figure:
    """Draw accuracy and ECE against the training set size on a logarithmic axis, a line a system.

    A line is the mean over the seeds, the band one standard error of it to both sides; none where
    there is one seed.

    Args:
        averages: a row a system and size: `system`, `train_size`, and `accuracy` and `ece` as
            (mean, standard error or None).
        references: systems that are drawn in grey, behind the others.
        title: of the figure.
    """
    names = list(dict.fromkeys(row["system"] for row in averages))
    columns = min(len(names), MOST_COLUMNS)
    figure = new_figure(7.2, 3.4 + 0.2 * (-(-len(names) // columns)))
    styles = _low_data_styles(names, references)
    sizes = sorted({row["train_size"] for row in averages})
    step = -(-len(sizes) // MOST_TICKS)
    panels = figure.subplots(1, 2, sharex=True)
    for axes, metric in zip(panels, ("accuracy", "ece"), strict=True):
        scale = find_metric(metric).scale
        for name in names:
            known = [row for row in averages if row["system"] == name and row[metric]]
            points = sorted((row["train_size"], *row[metric]) for row in known)
            scaled = [(size, scale * mean, scale * (error or 0.0)) for size, mean, error in points]
            draw_curve(axes, scaled, styles[name], name)
        axes.set_ylabel(find_metric(metric).heading)
        _write_sizes(axes, "training samples", sizes[::-step][::-1])
    panels[1].set_ylim(bottom=0)
    _finish(figure, title, ncols=columns, fontsize=9)
    return figure


def _low_data_styles(
    names: Sequence[str], references: Collection[str]
) -> dict[str, dict[str, Any]]:
    others = [name for name in names if name in references]
    grey = {"color": GREY, "linewidth": 1.2, "marker": ".", "markersize": 5, "zorder": 1.5}
    return _line_styles([name for name in names if name not in references]) | {
        name: {**grey, "linestyle": DASHES[k % len(DASHES)]} for k, name in enumerate(others)
    }


def _line_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {name: line_style(k, len(names)) for k, name in enumerate(names)}


def information_figure(rows: Rows, samples: int | None = None, title: str = "") -> Figure:
    """Draw mutual information and marginal divergence against S on a logarithmic axis.

    A line is an estimator's mean over the runs, the band one standard error of it; an estimate at a
    single S goes on as a thin level line. No estimate of I from S samples exceeds log S (dotted),
    and none at all log N (dashed). VAE-AS (Li 2019), Figure 2.

    Args:
        rows: one an estimate: `estimator`, `samples`, `mi_nats`, `md_nats`, as
            benchmarks.flowclf.information has them; numbers may be text, as from a CSV.
        samples: N, of the training set; None: the largest S.
        title: of the figure.

    Raises:
        UserError: no rows.
    """
    if not rows:
        raise UserError("expected rows of benchmarks.flowclf.information, got none; measure them")
    names = list(dict.fromkeys(str(row["estimator"]) for row in rows))
    sizes = sorted({int(row["samples"]) for row in rows})
    figure = new_figure(7.2, 3.5 + 0.2 * (len(names) // 4))
    panels = figure.subplots(1, 2, sharex=True)
    for axes, metric in zip(panels, ("mi_nats", "md_nats"), strict=True):
        for k, name in enumerate(names):
            own = [row for row in rows if row["estimator"] == name]
            points = averages((int(row["samples"]), float(row[metric])) for row in own)
            style = line_style(k, len(names))
            if len(points) == 1:
                axes.axhline(points[0][1], color=style["color"], linewidth=0.8, alpha=0.7)
            draw_curve(axes, points, style, name)
        axes.set_ylabel(find_metric(metric).heading)
        _write_sizes(axes, "samples S", sizes, rotation=30, fontsize=8)
    largest = samples or sizes[-1]
    limit: dict[str, Any] = {"color": LIMITS, "linewidth": 1.0, "zorder": 1.5}
    panels[0].plot(sizes, [log(size) for size in sizes], linestyle=":", label="log S", **limit)
    label = f"log N, N = {largest:,}"
    panels[0].axhline(log(largest), linestyle="--", label=label, **limit)
    _finish(figure, title, ncols=4, fontsize=8)
    return figure


def _write_sizes(axes: Axes, label: str, sizes: Sequence[int], **style: Any) -> None:
    """Label a logarithmic axis at these sizes alone."""
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], **style)
    axes.set_xticks([], minor=True)
    axes.set_xlabel(label)
    axes.grid(alpha=0.25, linewidth=0.6)


def _finish(figure: Figure, title: str, **style: Any) -> None:
    """Add the fullest panel's legend beneath the figure, and a title if there is one."""
    legends = [axes.get_legend_handles_labels() for axes in figure.axes]
    lines = max(legends, key=lambda legend: len(legend[1]))
    figure.legend(*lines, loc="outside lower center", frameon=False, **style)
    if title:
        figure.suptitle(title, fontsize=9)
