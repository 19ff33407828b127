"""Learning curves: how good systems are, and how well calibrated, on n training samples."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowclf.figures.style import band, line_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["low_data_figure"]

Rows = Sequence[Mapping[str, Any]]

PANELS = {"accuracy": "accuracy in %", "ece": "ECE (15 bins) in %"}
DASHES = ("--", ":", "-.")
MOST_TICKS, MOST_COLUMNS = 8, 5


def low_data_figure(averages: Rows, references: Collection[str] = (), title: str = "") -> Figure:
    """Accuracy and ECE against n on a logarithmic axis, a line a system.

    A line is the mean over the seeds, the band one standard error of it to both sides; none where
    there is one seed.

    Args:
        averages: a row a system and size: `system`, `train_size`, and `accuracy` and `ece` as
            (mean, standard error or None).
        references: systems that are drawn in grey.
        title: of the figure.
    """
    names = list(dict.fromkeys(row["system"] for row in averages))
    columns = min(len(names), MOST_COLUMNS)
    figure = new_figure(7.2, 3.4 + 0.2 * (-(-len(names) // columns)))
    styles = _styles(names, references)
    panels = figure.subplots(1, 2, sharex=True)
    for axes, (metric, label) in zip(panels, PANELS.items(), strict=True):
        for name in names:
            own = [row for row in averages if row["system"] == name and row[metric]]
            _draw(axes, sorted(own, key=lambda row: row["train_size"]), metric, styles[name], name)
        axes.set_ylabel(label)
        _log_axis(axes, sorted({row["train_size"] for row in averages}))
    panels[1].set_ylim(bottom=0)
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _styles(names: Sequence[str], references: Collection[str]) -> dict[str, dict[str, Any]]:
    """A colour and a marker each; greys, behind the others, for what is there to compare with."""
    own = [name for name in names if name not in references]
    styles = {name: line_style(k, len(own)) for k, name in enumerate(own)}
    grey = {"color": "#777777", "linewidth": 1.2, "marker": ".", "markersize": 5, "zorder": 1.5}
    others = [name for name in names if name in references]
    dashes = {name: DASHES[k % len(DASHES)] for k, name in enumerate(others)}
    return styles | {name: {**grey, "linestyle": dashes[name]} for name in others}


def _draw(axes: Axes, rows: Rows, metric: str, style: dict[str, Any], name: str) -> None:
    places = [row["train_size"] for row in rows]
    means = [100 * row[metric][0] for row in rows]
    errors = [100 * (row[metric][1] or 0.0) for row in rows]
    axes.plot(places, means, label=name, **style)
    band(axes, places, means, errors, style["color"])


def _log_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Ticks where there are points, thinned out where these are many."""
    step = -(-len(sizes) // MOST_TICKS)
    shown = sizes[::-step][::-1]
    axes.set_xscale("log")
    axes.set_xticks(shown, [f"{size:,}" for size in shown])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("training samples")
    axes.grid(alpha=0.25, linewidth=0.6)
