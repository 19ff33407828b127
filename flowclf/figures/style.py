"""One look for all pictures: colour-blind-safe, readable in print, no global state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowclf.support.atomic_files import write_whole
from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["band", "class_colors", "line_style", "new_figure", "save_figure"]

# Paul Tol's "muted" scheme and a black: distinguishable with every common colour blindness.
COLORS = (
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933",
    "#ddcc77", "#cc6677", "#882255", "#aa4499", "#000000",
)  # fmt: skip
MARKERS = "osD^vPX*<>"
FORMATS = (".png", ".pdf", ".svg")
DPI = 150


def class_colors(classes: int) -> list[str]:
    """One colour a class, in a fixed order; they repeat beyond ten."""
    return [COLORS[k % len(COLORS)] for k in range(classes)]


def line_style(k: int, lines: int) -> dict[str, Any]:
    """How line k of so many is drawn: colour and marker both tell it apart."""
    color, marker = class_colors(lines)[k], MARKERS[k % len(MARKERS)]
    return {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.4}


def band(
    axes: Axes,
    places: Sequence[float],
    means: Sequence[float],
    errors: Sequence[float],
    color: str,
) -> None:
    """Shade one error to both sides of the means."""
    low, high = ([m + side * e for m, e in zip(means, errors, strict=True)] for side in (-1, 1))
    axes.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, without touching matplotlib's global state.

    As the last line of a notebook's cell it is shown, with nothing to be called before.
    """
    from flowclf.figures.shown import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole, in the format of the path's ending.

    Raises:
        UserError: another ending than .png, .pdf or .svg.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"expected a file ending in {', '.join(FORMATS)}, got {path.name!r}")
    write_whole(path, lambda part: figure.savefig(part, dpi=DPI))
