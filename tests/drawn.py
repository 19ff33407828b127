"""What figures show, for tests of several figures: texts, and points of lines and bands."""

from collections.abc import Iterable
from typing import Any

import flowclf
from flowclf import GenerativeClassifier

SMALL = {"kind": "mlp", "blocks": 1, "hidden": [8]}


def small_flow(shape: tuple[int, ...], classes: int, **options: Any) -> GenerativeClassifier:
    """Build a flow of one block; images have 17 grey levels by default."""
    options = {"levels": 17 if len(shape) == 3 else None, "network": SMALL} | options
    return flowclf.build("ib-inn", shape=shape, classes=classes, **options)


def texts(artists: Iterable[Any]) -> list[str]:
    return [artist.get_text() for artist in artists]


def titles(figure: Any) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def band_at(band: Any, place: float) -> list[float]:
    """Return the ends of a band at a place."""
    points = band.get_paths()[0].vertices
    return sorted({round(float(y), 6) for x, y in points if x == place})
