"""The trade-off that β̃ sets: every metric against it, and the information plane."""

from collections.abc import Collection, Mapping, Sequence
from math import ceil, floor, inf, isnan, log, log10, sqrt
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from flowclf.catalogue import find_metric
from flowclf.figures.style import (
    GREY,
    Figure,
    Point,
    Rows,
    averages,
    draw_curve,
    line_style,
    new_figure,
    place_labels,
)
from flowclf.support.errors import UserError
from flowclf.systems import SYSTEMS
from flowclf.systems.assemble import InvertibleSettings

__all__ = ["BOUNDED", "BetaAxis", "information_plane_figure", "trade_off_figure"]

BETA = r"$\tilde{\beta}$"
COLUMNS, MOST_TICKS = 3, 6
# Colours that differ most first, as there are few systems.
ORDER = (0, 6, 3, 7, 2, 8, 4, 5, 1, 9)
# Points that are nearer than this share of the axes' ranges share a label.
NEAR = 0.035
# Inches of a legend: line and gap before a name, a letter of it, and a row of names.
LEGEND_KEY, LEGEND_LETTER, LEGEND_LINE = 0.7, 0.065, 0.18
DOTS = {"linestyle": ":", "linewidth": 1.8}
DASHES = ("--", "-.", (0, (5, 1, 1, 1, 1, 1)))


LABELS, INPUTS = "label_information_nats", ("input_information_nats", "mi_nats")
# Systems with a β̃ and no inverse: their lines are dotted, beside those of flows.
BOUNDED = tuple(
    name
    for name, system in SYSTEMS.items()
    if system.beta and not issubclass(system.settings, InvertibleSettings)
)


def trade_off_figure(
    rows: Rows, metrics: Sequence[str], dotted: Collection[str] = BOUNDED, title: str = ""
) -> Figure:
    """Draw each metric against β̃ on a logarithmic axis, a line a system.

    A line is the mean over the seeds, the band one standard error of it to both sides. β̃ = 0 and
    ∞ are detached points at the ends; a system without β̃ is a grey level line. Arrows say what is
    better. IB-INN (Ardizzone et al. 2020), Figures 8 and 10.

    Args:
        rows: one a run: `system`, `beta` (None, or "" from a CSV: it has none), and the metrics,
            None or "" where they are not known.
        metrics: the rows' keys, a panel each.
        dotted: systems with a dotted line.
        title: of the figure.

    Raises:
        UserError: no rows, no metrics, or a metric that no row has.
    """
    _check_metrics(rows, metrics)
    columns = 2 if len(metrics) == 4 else min(len(metrics), COLUMNS)
    lines = -(-len(metrics) // columns)
    names = list(dict.fromkeys(str(row["system"]) for row in rows))
    figure = new_figure(max(4.2, 0.4 + 2.7 * columns), 0.75 + 2.1 * lines)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True).flatten()
    axis = BetaAxis([row.get("beta") for row in rows])
    styles = _styles(rows, names, dotted)
    for k, (axes, metric) in enumerate(zip(panels, metrics, strict=False)):
        for name in names:
            own = [row for row in rows if row["system"] == name]
            _draw_system(axes, own, metric, axis, styles[name])
        shown = find_metric(metric)
        axes.set_title(f"{shown.heading} {shown.arrow}".strip(), fontsize=9)
        axis.write(axes)
        axes.xaxis.set_tick_params(labelbottom=k + columns >= len(metrics))
        if k + columns >= len(metrics):
            axes.set_xlabel(BETA)
    for axes in panels[len(metrics) :]:
        axes.remove()
    _legend(figure, styles)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def information_plane_figure(
    rows: Rows, classes: int | None = None, dotted: Collection[str] = BOUNDED
) -> Figure:
    """Draw I(Y; Z) against the information on x, a line a system along β̃, which is written beside.

    Flows have CI(X; Z), Gaussian encoders I(X; Z): a panel each, as the two are not the same
    quantity. Means over the seeds; a bound of I(Y; Z) below 0 counts as 0. The trade-off of
    I(X; Z) - β I(Y; Z), IB-INN (Ardizzone et al. 2020), Eq. 1.

    Args:
        rows: one a run: `system`, `beta`, `label_information_nats`, and `input_information_nats`
            or `mi_nats`, as the suite `information` has them.
        classes: K equally frequent ones, for a line at H(Y) = log K.
        dotted: systems with a dotted line.

    Raises:
        UserError: no rows with both kinds of information.
    """
    known = [name for name in INPUTS if any(_has(row, name) and _has(row, LABELS) for row in rows)]
    if not known:
        raise UserError(
            f"expected rows with {LABELS} and {INPUTS[0]} or {INPUTS[1]}, got none; evaluate the "
            "runs with the suite 'information'"
        )
    names = list(dict.fromkeys(str(row["system"]) for row in rows))
    styles = _styles(rows, names, dotted)
    figure = new_figure(0.6 + 3.4 * len(known), 3.6)
    panels = figure.subplots(1, len(known), squeeze=False, sharey=True)[0]
    for axes, metric in zip(panels, known, strict=True):
        for name in names:
            own = [row for row in rows if row["system"] == name and _has(row, metric)]
            if own:
                _draw_plane(axes, own, metric, styles[name])
        if classes is not None:
            axes.axhline(log(classes), color=GREY, linewidth=0.8, linestyle="--")
        axes.set_xlabel(find_metric(metric).heading)
        axes.margins(0.14)
    panels[0].set_ylabel(find_metric(LABELS).heading)
    if classes is not None:
        style = {"color": GREY, "linewidth": 0.8, "linestyle": "--"}
        styles |= {f"H(Y) = log {classes}": style}
    _legend(figure, styles, title=f"numbers beside the points: {BETA}")
    place_labels(figure)
    return figure


class BetaAxis:
    """Places of each β̃ on a logarithmic axis, by `ends` if there, else by itself.

    0 and ∞ are detached at its ends; values that are None or "" have no place.
    """

    def __init__(self, betas: Sequence[Any]) -> None:
        known = {beta for beta in map(_number, betas) if beta is not None}
        self.inner = sorted(beta for beta in known if 0 < beta < inf) or [1.0]
        low, high = self.inner[0], self.inner[-1]
        self.gap = max(3.0, (high / low) ** 0.15)
        ends = {0.0: low / self.gap, inf: high * self.gap}
        self.ends = {beta: place for beta, place in ends.items() if beta in known}
        margin = sqrt(self.gap)
        low, high = self.ends.get(0.0, low), self.ends.get(inf, high)
        self.limits = low / margin, high * margin

    @property
    def ticks(self) -> dict[float, str]:
        """Labels by their places: at decades, or at the values, and at detached ends."""
        ticks = {place: "0" if beta == 0 else "∞" for beta, place in self.ends.items()}
        ticks |= {beta: f"{beta:g}" for beta in self._inner_ticks()}
        return dict(sorted(ticks.items()))

    def write(self, axes: Axes) -> None:
        """Draw the ticks, and a thin line before a detached end."""
        axes.set_xscale("log")
        axes.set_xticks(list(self.ticks), list(self.ticks.values()))
        axes.set_xticks([], minor=True)
        axes.set_xlim(*self.limits)
        margin = sqrt(self.gap)
        for beta, place in self.ends.items():
            edge = place * margin if beta == 0 else place / margin
            axes.axvline(edge, color=GREY, linewidth=0.6, linestyle=(0, (1, 3)))

    def _inner_ticks(self) -> list[float]:
        low, high = ceil(log10(self.inner[0])), floor(log10(self.inner[-1]))
        decades = [10.0**k for k in range(low, high + 1)]
        if len(decades) < 2:
            return self.inner
        return decades[:: -(-len(decades) // MOST_TICKS)]


def _draw_system(
    axes: Axes, rows: Rows, metric: str, axis: BetaAxis, style: dict[str, Any]
) -> None:
    points = _points(rows, metric)
    for _, mean, _ in _points(rows, metric, with_beta=False):
        axes.axhline(mean, **style)
    inner = [point for point in points if 0 < point[0] < inf]
    if inner:
        draw_curve(axes, inner, style)
    for beta, mean, error in points:
        if beta in axis.ends:
            place = axis.ends[beta]
            axes.plot(place, mean, **style | {"linestyle": "none"})
            axes.vlines(place, mean - (error or 0), mean + (error or 0), color=style["color"])


def _draw_plane(axes: Axes, rows: Rows, metric: str, style: dict[str, Any]) -> None:
    across = {beta: mean for beta, mean, _ in _points(rows, metric)}
    up = {beta: max(0.0, mean) for beta, mean, _ in _points(rows, LABELS)}
    betas = [beta for beta in across if beta in up]
    axes.plot([across[b] for b in betas], [up[b] for b in betas], **style)
    for near in _neighbours([(b, across[b], up[b]) for b in betas]):
        # Two digits: neighbours in a sweep differ by more.
        text = ", ".join("∞" if b == inf else f"{float(f'{b:.2g}'):g}" for b, _, _ in near)
        look: dict[str, Any] = {"fontsize": 8, "color": style["color"]}
        axes.annotate(text, near[-1][1:], (0, 0), textcoords="offset points", **look)


def _neighbours(points: Sequence[tuple[float, float, float]]) -> list[list[Any]]:
    """Group points (β̃, across, up) that are too near to be labelled apart, in order."""
    if not points:
        return []
    _, *sides = zip(*points, strict=True)
    across, up = (NEAR * (max(side) - min(side)) for side in sides)
    groups: list[list[Any]] = []
    for point in points:
        last = groups[-1][-1] if groups else (0.0, inf, inf)
        near = abs(point[1] - last[1]) <= across and abs(point[2] - last[2]) <= up
        groups[-1].append(point) if near else groups.append([point])
    return groups


def _points(rows: Rows, metric: str, *, with_beta: bool = True) -> list[Point]:
    """Average a metric by β̃, or over the rows without one, at 0."""
    pairs = [(_number(row.get("beta")), _number(row.get(metric))) for row in rows]
    scale = find_metric(metric).scale
    return averages(
        (beta or 0.0, scale * value)
        for beta, value in pairs
        if value is not None and (beta is not None) == with_beta
    )


def _styles(rows: Rows, names: Sequence[str], dotted: Collection[str]) -> dict[str, dict[str, Any]]:
    """Give each system a colour and a marker; grey dashes to systems that have no β̃."""
    own = [n for n in names if any(r["system"] == n and _has(r, "beta") for r in rows)]
    styles = {
        name: line_style(ORDER[k % len(ORDER)], len(ORDER)) | (DOTS if name in dotted else {})
        for k, name in enumerate(own)
    }
    for k, name in enumerate(name for name in names if name not in own):
        styles[name] = {"color": GREY, "linewidth": 1.1, "linestyle": DASHES[k % len(DASHES)]}
    return styles


def _legend(figure: Figure, styles: Mapping[str, dict[str, Any]], title: str | None = None) -> None:
    lines = [Line2D([], [], label=name, **style) for name, style in styles.items()]
    # Four, or as many as fit wherever the longest names come to stand.
    widths = sorted((LEGEND_KEY + LEGEND_LETTER * len(name) for name in styles), reverse=True)
    counts = range(2, 1 + min(4, len(widths)))
    columns = max((k for k in counts if sum(widths[:k]) <= figure.get_figwidth()), default=1)
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * ((len(lines) - 1) // columns))
    figure.legend(
        handles=lines, loc="outside lower center", ncols=columns, fontsize=9, frameon=False,
        title=title, title_fontsize=8,
    )  # fmt: skip


def _has(row: Mapping[str, Any], name: str) -> bool:
    return _number(row.get(name)) is not None


def _number(value: Any) -> float | None:
    """Read a number of a cell that may come from a CSV; None if empty or NaN."""
    if value is None or value == "" or isnan(float(value)):
        return None
    return float(value)


def _check_metrics(rows: Rows, metrics: Sequence[str]) -> None:
    unknown = [name for name in metrics if not any(_has(row, name) for row in rows)]
    if unknown or not metrics:
        raise UserError(
            f"expected metrics that the rows have, got {', '.join(unknown) or 'none'}; take some "
            f"of {', '.join(sorted({key for row in rows for key in row}))}"
        )
