"""What corruptions and attacks do to several systems: a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from flowclf.figures.style import class_colors, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["attack_figure", "corruption_figure"]

Rows = Sequence[Mapping[str, Any]]

MARKERS = "osD^vPX*<>"
AVERAGES = "mean"


def corruption_figure(tables: Mapping[str, Rows]) -> Figure:
    """Accuracy and ECE against severity, for each system the rows of `shift_table`.

    A line is the mean over the families, the band one standard error of it; severity 0 is clean.
    """
    figure = new_figure(7.2, 3.2)
    names = {"accuracy": "accuracy", "ece": "ECE"}
    for axes, (metric, title) in zip(figure.subplots(1, 2), names.items(), strict=True):
        for k, (system, rows) in enumerate(tables.items()):
            _draw_severities(axes, system, rows, metric, k, len(tables))
        axes.set_ylabel(title)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("severity of the corruptions")
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.axes[0].legend(fontsize=8)
    return figure


def attack_figure(curves: Mapping[str, Rows]) -> Figure:
    """Accuracy against ε, for each system the rows of `attack_curve`.

    Where a system has a density, a second panel shows how well that tells attacked from clean
    images: the area under the ROC curve, with 1/2 for chance.
    """
    noticed = {name: rows for name, rows in curves.items() if rows[0]["auroc"] is not None}
    panels = 2 if noticed else 1
    figure = new_figure(3.6 * panels, 3.2)
    grid = figure.subplots(1, panels, squeeze=False)[0]
    _draw_curves(grid[0], curves, list(curves), "accuracy")
    grid[0].set_ylabel("accuracy")
    grid[0].legend(fontsize=8)
    if noticed:
        grid[1].axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
        _draw_curves(grid[1], noticed, list(curves), "auroc")
        grid[1].set_ylabel("AUROC of noticing it by −log q(x)")
    return figure


def _draw_severities(
    axes: Axes, system: str, rows: Rows, metric: str, k: int, systems: int
) -> None:
    """Mean over the families at each severity, and its standard error."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["family"] != AVERAGES:
            found.setdefault(int(row["severity"]), []).append(float(row[metric]))
    severities = sorted(found)
    means = [mean(found[s]) for s in severities]
    errors = [_standard_error(found[s]) for s in severities]
    style = _style(k, systems)
    axes.plot(severities, means, label=system, **style)
    low, high = ([m + side * e for m, e in zip(means, errors, strict=True)] for side in (-1, 1))
    axes.fill_between(severities, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _standard_error(values: list[float]) -> float:
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def _draw_curves(axes: Axes, curves: Mapping[str, Rows], systems: list[str], value: str) -> None:
    """A line a system, in the colour of its place in `systems`."""
    for name, rows in curves.items():
        ordered = sorted(rows, key=lambda row: row["epsilon"])
        places = [row["epsilon"] for row in ordered]
        style = _style(systems.index(name), len(systems))
        axes.plot(places, [row[value] for row in ordered], label=name, **style)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("ε, of the range of grey levels")


def _style(k: int, systems: int) -> dict[str, Any]:
    color, marker = class_colors(systems)[k], MARKERS[k % len(MARKERS)]
    return {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.4}
