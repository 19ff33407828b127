"""One look for all figures: colour-blind-safe, readable in print, no global state."""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import figure
from matplotlib.axes import Axes

from flowclf.support.atomic_files import write_whole
from flowclf.support.averages import mean_and_error
from flowclf.support.errors import UserError

__all__ = [
    "BLUE",
    "GREY",
    "RED",
    "Figure",
    "Point",
    "Rows",
    "averages",
    "class_colors",
    "draw_curve",
    "line_style",
    "new_figure",
    "probability_axis",
    "save_figure",
    "save_figures",
]

Rows = Sequence[Mapping[str, Any]]
# Place on the axis, mean and its standard error.
Point = tuple[float, float, float | None]

# Paul Tol's "muted" scheme and a black: distinguishable with every common colour blindness.
COLORS = (
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933",
    "#ddcc77", "#cc6677", "#882255", "#aa4499", "#000000",
)  # fmt: skip
# ColorBrewer's blue and red, the ends of its diverging scale.
BLUE, RED, GREY = "#2166ac", "#b2182b", "#777777"
MARKERS = "osD^vPX*<>"
FORMATS = (".png", ".pdf", ".svg")
DPI = 150


class Figure(figure.Figure):
    """Figure that Jupyter shows without `%matplotlib inline` or pyplot."""

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.savefig(png, format="png", bbox_inches="tight")
        return png.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that many inches, without touching matplotlib's global state."""
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: figure.Figure, path: Path) -> None:
    """Write a figure atomically, in the format of the path's suffix.

    Raises:
        UserError: another suffix than .png, .pdf or .svg.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"expected a file ending in {', '.join(FORMATS)}, got {path.name!r}")
    write_whole(path, lambda part: figure.savefig(part, dpi=DPI))


def save_figures(figures: Mapping[str, figure.Figure], folder: Path) -> list[Path]:
    """Write each figure to NAME.png in a folder; return their paths."""
    paths = [folder / f"{name}.png" for name in figures]
    for path, each in zip(paths, figures.values(), strict=True):
        save_figure(each, path)
    return paths


def class_colors(classes: int) -> list[str]:
    """Return one colour a class, in a fixed order; they repeat beyond ten."""
    return [COLORS[k % len(COLORS)] for k in range(classes)]


def line_style(k: int, lines: int) -> dict[str, Any]:
    """Return the look of line k of so many, distinct in colour and marker."""
    color, marker = class_colors(lines)[k], MARKERS[k % len(MARKERS)]
    return {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.4}


def probability_axis(axes: Axes, fontsize: float) -> None:
    """Label the axes of probabilities along a path: no ticks across, 0, ½ and 1 up."""
    axes.set_ylim(-0.05, 1.05)
    axes.set_xticks([])
    axes.set_yticks([0, 0.5, 1], labels=["0", "½", "1"], fontsize=fontsize)


def averages(pairs: Iterable[tuple[float, float]]) -> list[Point]:
    """Average the values of (place, value) at each place, in order of the places."""
    groups: dict[float, list[float]] = {}
    for place, value in pairs:
        groups.setdefault(place, []).append(value)
    return [(place, *mean_and_error(groups[place])) for place in sorted(groups)]


def draw_curve(
    axes: Axes, points: Sequence[Point], style: Mapping[str, Any], label: str = ""
) -> None:
    """Plot means against their places, with a band of one standard error to both sides."""
    places, means, errors = ([*column] for column in zip(*points, strict=True))
    axes.plot(places, means, label=label, **style)
    low, high = (
        [mean + side * (error or 0.0) for mean, error in zip(means, errors, strict=True)]
        for side in (-1, 1)
    )
    axes.fill_between(places, low, high, color=style["color"], alpha=0.15, linewidth=0)
