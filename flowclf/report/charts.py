"""Charts inside the page, as SVG whose points name their runs: the trade-off, learning curves.

Everything is placed here; the template writes it, and the page's script lights up a run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log10
from typing import Any

from matplotlib.ticker import MaxNLocator

from flowclf.catalogue import find_metric
from flowclf.figures.style import averages
from flowclf.figures.trade_off import BetaAxis
from flowclf.report.collect import Entry
from flowclf.report.rows import Row
from flowclf.runs import Run

# Of the plot in the units of the SVG, and where its axes are.
WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 400, 250, 52, 34, 12
COLORS = 8
PANELS = (
    "accuracy", "ece", "negative_log_posterior_nats", "bits_per_dim",
    "label_information_nats", "input_information_nats",
)  # fmt: skip
HISTORY = ("accuracy", "bits_per_dim", "negative_log_posterior_nats", "ece", "total", "loss")
MOST_HISTORIES = 3


@dataclass(frozen=True)
class Dot:
    """Run at one point of a chart."""

    x: float
    y: float
    run: str  # the id of its section; "" of a baseline
    text: str  # its name and what was measured


@dataclass(frozen=True)
class Line:
    """Line of a chart, with a dot for each run."""

    label: str
    color: int  # its number, below `COLORS`
    path: str  # "" where there is nothing to join
    dots: Sequence[Dot] = ()
    run: str = ""  # the id of the run that all of it is
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Chart as the template writes it: ticks are labels at places."""

    title: str
    x_label: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    lines: Sequence[Line]
    legend: Sequence[tuple[int, str, bool]]  # colour, label and whether dashed


def trade_off_charts(
    rows: Sequence[Row], labels: Mapping[Row, str], anchors: Mapping[str, str]
) -> list[Chart]:
    """Return a chart of each metric against β̃: lines are means over the seeds, dots are runs.

    Rows without a β̃ are dashed level lines; `labels` name the lines.
    """
    axis = BetaAxis([row.values.get("beta") for row in rows])
    names = list(dict.fromkeys(labels[row] for row in rows))
    charts = []
    for metric in PANELS:
        known = [row for row in rows if row.number(metric) is not None]
        if len({row.values.get("beta") for row in known} - {None}) < 2:
            continue
        shown = find_metric(metric)
        plane = _Plane(
            [log10(limit) for limit in axis.limits],
            [shown.scale * _number(row, metric) for row in known],
        )
        lines: list[Line] = []
        for color, name in enumerate(names):
            own = [row for row in known if labels[row] == name]
            lines += _lines(own, name, color % COLORS, metric, axis, plane, anchors)
        ticks = [(plane.x(log10(place)), text) for place, text in axis.ticks.items()]
        title = f"{shown.heading} {shown.arrow}".strip()
        legend = {(line.color, line.label, line.dashed): None for line in lines}
        charts.append(Chart(title, "β̃", ticks, plane.y_ticks, lines, list(legend)))
    return charts


def _lines(
    rows: Sequence[Row],
    name: str,
    color: int,
    metric: str,
    axis: BetaAxis,
    plane: "_Plane",
    anchors: Mapping[str, str],
) -> Iterator[Line]:
    shown = find_metric(metric)
    placed, level = [], []
    for row in rows:
        value, beta = shown.scale * _number(row, metric), row.values.get("beta")
        if beta is None:
            level.append((0.0, value))
            continue
        place = log10(axis.ends.get(beta, beta))
        text = f"{row.values['run']}: {shown.label} {shown.written(_number(row, metric))}"
        anchor = anchors.get(row.values["run"], "")
        placed.append((beta, place, value, Dot(plane.x(place), plane.y(value), anchor, text)))
    for _, mean, _ in averages(level):
        ends = [(plane.x(limit), plane.y(mean)) for limit in plane.across]
        yield Line(name, color, _path(ends), dashed=True)
    if placed:
        means = averages((p, v) for beta, p, v, _ in placed if 0 < beta < inf)
        path = _path([(plane.x(place), plane.y(mean)) for place, mean, _ in means])
        yield Line(name, color, path, [dot for *_, dot in placed])


def learning_charts(entries: Sequence[Entry], anchors: Mapping[str, str]) -> list[Chart]:
    """Return charts of what was measured during the training, a line a run; dashed on its own data.

    Read from metrics.jsonl: rows with an epoch (or step) and numbers, within a section that names
    the data (`validation`), or beside a `kind` that does.
    """
    found = {entry.name: list(_history(entry)) for entry in entries}
    points = [point for history in found.values() for point in history]
    metrics = [m for m in HISTORY if len({p[1] for p in points if m in p[2]}) > 1]
    charts = []
    for metric in metrics[:MOST_HISTORIES]:
        shown = find_metric(metric)
        own = [p for p in points if metric in p[2]]
        plane = _Plane([float(p[1]) for p in own], [shown.scale * float(p[2][metric]) for p in own])
        lines = []
        for color, (name, history) in enumerate(found.items()):
            for kind in dict.fromkeys(kind for kind, *_ in history):
                known = [(p, v[metric]) for k, p, v in history if k == kind and metric in v]
                path = _path([(plane.x(p), plane.y(shown.scale * v)) for p, v in known])
                dashed = kind.startswith("train")
                text = f"{name}, {kind}"
                lines.append(Line(text, color % COLORS, path, (), anchors[name], dashed))
        title = f"{shown.heading} {shown.arrow}".strip()
        legend = [(line.color, line.label, line.dashed) for line in lines if line.path]
        legend = legend if len(legend) <= COLORS else []
        charts.append(Chart(title, "epoch", plane.x_ticks, plane.y_ticks, lines, legend))
    return charts


def _history(entry: Entry) -> Iterator[tuple[str, float, dict[str, float]]]:
    """Yield kind of data, epoch and numbers of each row, but those of the test split."""
    for row in Run(entry.folder).read_metrics():
        place = row.get("epoch", row.get("step"))
        if place is None or not _is_number(place):
            continue
        sections = {k: v for k, v in row.items() if isinstance(v, dict)}
        if isinstance(row.get("kind"), str):
            sections.setdefault(row["kind"], row)
        for kind, values in sections.items():
            numbers = {k: float(v) for k, v in values.items() if _is_number(v)}
            if kind != "test" and numbers:
                yield kind, float(place), numbers


class _Plane:
    """Places of numbers in the SVG."""

    def __init__(self, across: Sequence[float], up: Sequence[float]) -> None:
        self.across = min(across), max(across)
        self.up = _widened(min(up), max(up))

    def x(self, value: float) -> float:
        low, high = self.across
        share = (value - low) / (high - low) if high > low else 0.5
        return round(LEFT + share * (WIDTH - LEFT - MARGIN), 1)

    def y(self, value: float) -> float:
        low, high = self.up
        share = (value - low) / (high - low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - MARGIN), 1)

    @property
    def x_ticks(self) -> list[tuple[float, str]]:
        values = MaxNLocator(6, integer=True).tick_values(*self.across)
        return [(self.x(v), f"{v:g}") for v in values if self.across[0] <= v <= self.across[1]]

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        values = [*MaxNLocator(5).tick_values(*self.up)]
        step = values[1] - values[0]
        decimals = max(0, -int(log10(step) // 1)) if step < 1 else 0
        inside = [value for value in values if self.up[0] <= value <= self.up[1]]
        return [(self.y(v), f"{v:.{decimals}f}".replace("-", "−")) for v in inside]


def _widened(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * (high - low) or max(0.5, 1e-3 * abs(low))
    return low - margin, high + margin


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Write the path through points; none through a single one."""
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points) if len(points) > 1 else ""


def _number(row: Row, metric: str) -> float:
    number = row.number(metric)
    assert number is not None, "rows that have it"
    return number


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < inf
