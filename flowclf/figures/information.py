"""Estimates of I(z; x) and KL(q(z) ‖ p(z)) by the number of samples they are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import TYPE_CHECKING, Any

from flowclf.figures.style import band, line_style, new_figure
from flowclf.support.averages import mean_and_error
from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["information_figure"]

Rows = Sequence[Mapping[str, Any]]

PANELS = {"mi_nats": "I(z; x) in nats", "md_nats": "KL(q(z) ‖ p(z)) in nats"}
REFERENCE = "#555555"


def information_figure(rows: Rows, samples: int | None = None, title: str = "") -> Figure:
    """Mutual information and marginal divergence against S on a logarithmic axis.

    A line an estimator, the mean over the runs, the band one standard error of it; one that is
    known at a single S goes on as a thin level line. No estimate of I from S samples exceeds log S
    (dotted), and none at all log N (dashed). VAE-AS (Li 2019), Figure 2.

    Args:
        rows: one an estimate: `estimator`, `samples`, `mi_nats`, `md_nats`, as
            benchmarks.flowclf.information has them; from a CSV, too.
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
    for axes, (metric, label) in zip(panels, PANELS.items(), strict=True):
        for k, name in enumerate(names):
            _draw_estimator(axes, rows, name, metric, line_style(k, len(names)))
        axes.set_ylabel(label)
        _write_sizes(axes, sizes)
    _draw_limits(panels[0], sizes, samples or sizes[-1])
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _draw_estimator(
    axes: Axes, rows: Rows, name: str, metric: str, style: Mapping[str, Any]
) -> None:
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["estimator"] == name:
            found.setdefault(int(row["samples"]), []).append(float(row[metric]))
    points = [(size, *mean_and_error(found[size])) for size in sorted(found)]
    places, means, errors = zip(*points, strict=True)
    if len(points) == 1:
        axes.axhline(means[0], color=style["color"], linewidth=0.8, alpha=0.7)
    axes.plot(places, means, label=name, **style)
    band(axes, places, means, [error or 0.0 for error in errors], style["color"])


def _draw_limits(axes: Axes, sizes: Sequence[int], samples: int) -> None:
    """log S and log N."""
    style: dict[str, Any] = {"color": REFERENCE, "linewidth": 1.0, "zorder": 1.5}
    axes.plot(sizes, [log(size) for size in sizes], linestyle=":", label="log S", **style)
    axes.axhline(log(samples), linestyle="--", label=f"log N, N = {samples:,}", **style)


def _write_sizes(axes: Axes, sizes: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30, fontsize=8)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("samples S")
    axes.grid(alpha=0.25, linewidth=0.6)
