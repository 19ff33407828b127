"""What corruptions and attacks do to several systems: a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowclf.figures.style import band, line_style, new_figure
from flowclf.support.averages import mean_and_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["attack_figure", "corruption_figure"]

Rows = Sequence[Mapping[str, Any]]

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
    points = [(s, *mean_and_error(found[s])) for s in sorted(found)]
    severities, means, errors = zip(*points, strict=True)
    style = line_style(k, systems)
    axes.plot(severities, means, label=system, **style)
    band(axes, severities, means, [error or 0.0 for error in errors], style["color"])


def _draw_curves(axes: Axes, curves: Mapping[str, Rows], systems: list[str], value: str) -> None:
    """A line a system, in the colour of its place in `systems`."""
    for name, rows in curves.items():
        ordered = sorted(rows, key=lambda row: row["epsilon"])
        places = [row["epsilon"] for row in ordered]
        style = line_style(systems.index(name), len(systems))
        axes.plot(places, [row[value] for row in ordered], label=name, **style)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("ε, of the range of grey levels")
