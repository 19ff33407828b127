"""One look for all figures, light or dark: colour-blind-safe, readable in print, nothing global."""

import re
from collections.abc import Iterable, Mapping, Sequence
from colorsys import hls_to_rgb, rgb_to_hls
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from matplotlib import figure, rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import Collection
from matplotlib.colors import ListedColormap, to_rgba, to_rgba_array
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import Bbox

from flowclf.support.atomic_files import write_whole
from flowclf.support.averages import mean_and_error
from flowclf.support.errors import UserError

__all__ = [
    "BLUE",
    "FORMULA",
    "GREY",
    "RED",
    "Figure",
    "Point",
    "Rows",
    "averages",
    "class_colors",
    "darken",
    "draw_curve",
    "line_style",
    "new_figure",
    "place_labels",
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
# Twins of pictures that hold images, in a folder beside them: a page cannot turn those dark itself.
DARK = "dark"
# Lightness of a dark page, of its text, and of the darkest colour on it; what a colour's saturation
# is at least, other than a grey's.
PAGE, INK, LEAST, COLOURED = 0.12, 0.92, 0.55, 0.2
# What axes look like from the beginning.
STYLE: dict[Any, Any] = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7,
    "axes.edgecolor": "#555555", "axes.labelsize": 9, "axes.titlesize": 9, "axes.titleweight": 600,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "xtick.color": "#333333", "ytick.color": "#333333",
    "xtick.major.width": 0.7, "ytick.major.width": 0.7,
}  # fmt: skip


# Ours, and those that matplotlib writes below logarithmic axes.
FORMULA = re.compile(
    r"\$(?:\\tilde\{\\beta\}|L_X|L_Y|L_X/D \+ \\tilde\{\\beta\} L_Y"
    r"|\\mathdefault\{(?:(?:[\d.]+\\times)?10\^\{[−-]?\d+\}|[−-]?[\d.]+)\})\$"
)


class Figure(figure.Figure):
    """Figure in the house's style, which Jupyter shows without `%matplotlib inline` or pyplot.

    Names of classes and data are text, whatever letters they have: only `FORMULA` is a formula.
    """

    def add_subplot(self, *args: Any, **options: Any) -> Any:
        """Add axes in the house's style."""
        with rc_context(STYLE):
            return super().add_subplot(*args, **options)

    def draw(self, renderer: Any) -> None:
        """Draw all artists."""
        for text in self.findobj(Text):
            text.set_parse_math(_is_formula(text.get_text()))
        for axis in (each for axes in self.axes for each in (axes.xaxis, axes.yaxis)):
            # Their texts are set while they are drawn.
            if isinstance(axis.get_major_locator(), FixedLocator):
                places = [*axis.get_majorticklocs()]
                labels = axis.get_major_formatter().format_ticks(places)
                for tick, label in zip(axis.get_major_ticks(len(places)), labels, strict=True):
                    tick.label1.set_parse_math(_is_formula(label))
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.savefig(png, format="png", bbox_inches="tight")
        return png.getvalue()


def _is_formula(text: str) -> bool:
    return "$" not in FORMULA.sub("", text)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that many inches, without touching matplotlib's global state."""
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: figure.Figure, path: Path, *, dark: bool = False) -> None:
    """Write a figure atomically, in the format of the path's suffix; `dark` turns it for good.

    Raises:
        UserError: another suffix than .png, .pdf or .svg.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"expected a file ending in {', '.join(FORMATS)}, got {path.name!r}")
    if dark:
        darken(figure)
    write_whole(path, lambda part: figure.savefig(part, dpi=DPI))


def save_figures(figures: Mapping[str, figure.Figure], folder: Path) -> list[Path]:
    """Write each figure to NAME.png in a folder, those with images to dark/ too; return the first.

    Plots have no dark twin, as a page can turn their colours itself (`darken` does the same).
    """
    paths = [folder / f"{name}.png" for name in figures]
    for path, each in zip(paths, figures.values(), strict=True):
        save_figure(each, path)
        if any(isinstance(found, AxesImage) and _is_picture(found) for found in each.findobj()):
            save_figure(each, folder / DARK / path.name, dark=True)
    return paths


def darken(figure: figure.Figure) -> None:
    """Turn a finished figure dark: every colour keeps its hue, light and dark change places.

    Scales of colours turn as well, pictures do not.
    """
    for artist in figure.findobj():
        _darken(artist)


def _darken(artist: Artist) -> None:
    pairs: tuple[tuple[Any, Any], ...] = ()
    if isinstance(artist, ScalarMappable) and artist.get_array() is not None:
        if not (isinstance(artist, AxesImage) and _is_picture(artist)):
            turned = [_turned(color) for color in artist.cmap(np.arange(artist.cmap.N))]
            artist.set_cmap(ListedColormap(turned))
    elif isinstance(artist, Line2D):
        pairs = (
            (artist.get_color, artist.set_color),
            (artist.get_markerfacecolor, artist.set_markerfacecolor),
            (artist.get_markeredgecolor, artist.set_markeredgecolor),
        )
    elif isinstance(artist, Text):
        pairs = ((artist.get_color, artist.set_color),)
        for own in (artist.get_bbox_patch(), getattr(artist, "arrow_patch", None)):
            if own is not None:  # no child of its text
                _darken(own)
    elif isinstance(artist, Patch | Collection):
        pairs = (
            (artist.get_facecolor, artist.set_facecolor),
            (artist.get_edgecolor, artist.set_edgecolor),
        )
    colors = [get() for get, _ in pairs]  # all before any is set: markers take a line's colour
    for (_, set_color), color in zip(pairs, colors, strict=True):
        if isinstance(color, str) and color in ("none", "auto"):
            continue
        turned = [_turned(each, LEAST) for each in to_rgba_array(color)]
        set_color(turned if isinstance(artist, Collection) else turned[0])


def _is_picture(image: AxesImage) -> bool:
    """Tell pixels with colours of their own from numbers on a scale of colours."""
    array = image.get_array()
    return array is not None and array.ndim == 3


def _turned(color: Any, least: float = 0.0) -> tuple[float, ...]:
    """Return the colour (RGBA) whose lightness is as far from the page as this one's from white.

    One that is no grey is at least so light.
    """
    red, green, blue, alpha = to_rgba(color)
    hue, lightness, saturation = rgb_to_hls(red, green, blue)
    turned = INK + (PAGE - INK) * lightness
    turned = max(turned, least) if saturation > COLOURED else turned
    return (*hls_to_rgb(hue, turned, saturation), alpha)


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


class Place(NamedTuple):
    """Offset of a label's side and end from its point, in typographic points."""

    across: float
    up: float
    side: Literal["left", "center", "right"]
    end: Literal["bottom", "center", "top"]


PLACES = (
    Place(4, -3, "left", "top"),
    Place(-4, 3, "right", "bottom"),
    Place(4, 3, "left", "bottom"),
    Place(-4, -3, "right", "top"),
    Place(0, 5, "center", "bottom"),
    Place(0, -5, "center", "top"),
    Place(7, 0, "left", "center"),
    Place(-7, 0, "right", "center"),
    Place(12, -12, "left", "top"),
    Place(-12, 12, "right", "bottom"),
)
# Pieces that each segment of a line is cut into, to count what a label would cover.
FINE = 100


def place_labels(figure: figure.Figure) -> None:
    """Move all annotations, whose texts are offset from their points, to where they cover least.

    One after the other they go where they cover no earlier one and nothing outside of the axes,
    and as little as possible of the lines. Call it when all else is drawn.
    """
    labels = {axes: cast(list[Annotation], list(axes.texts)) for axes in figure.axes}
    for label in chain(*labels.values()):
        label.set_in_layout(False)
    # Only a layout says where the points come to lie.
    figure.draw_without_rendering()
    for axes, own in labels.items():
        lines = [line.get_transform().transform_path(line.get_path()) for line in axes.lines]
        pieces = [np.asarray(line.interpolated(FINE).vertices) for line in lines]
        points, taken = np.concatenate((np.empty((0, 2)), *pieces)), list[Bbox]()
        for label in own:
            covered = [_covered(_moved(label, place), axes, points, taken) for place in PLACES]
            taken.append(_moved(label, PLACES[covered.index(min(covered))]))


def _moved(label: Annotation, place: Place) -> Bbox:
    """Move a label there, and return the box that it covers, in pixels."""
    label.set_position((place.across, place.up))
    label.set(horizontalalignment=place.side, verticalalignment=place.end)
    return label.get_window_extent().padded(1)


def _covered(
    box: Bbox, axes: Axes, points: npt.NDArray[np.float64], taken: Sequence[Bbox]
) -> tuple[int, int]:
    """Count what must not be covered (corners outside, other labels), and points of lines."""
    outside = sum(not axes.bbox.contains(*corner) for corner in (box.min, box.max))
    return outside + sum(box.overlaps(other) for other in taken), box.count_contains(points)
