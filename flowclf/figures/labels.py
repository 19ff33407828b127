"""Labels beside points, each where it covers least."""

from collections.abc import Sequence
from itertools import chain
from typing import Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from flowclf.figures.style import Figure

__all__ = ["place_labels"]


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


def place_labels(figure: Figure) -> None:
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
