"""Pictures inside the page, as data: URIs: those that runs have, small, and curves drawn anew."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowclf.data.pictures import decode
from flowclf.report.collect import Entry
from flowclf.report.rows import Row, by_task, ranked

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["Picture", "embed_file", "embed_figure", "folder_pictures", "pictured_runs"]

# Of base64 in the page, of runs and of folders; curves and tables take less than a megabyte beside.
BUDGET, FOLDER_BUDGET = 3_000_000, 1_000_000
MOST_RUNS = 8
MOST_PIXELS = 1200  # of a side
MOST_DECODED = 2**26
PNG = b"\x89PNG"
# A plot has few colours, and a palette of 256 holds them all to the eye; a photograph does not.
FEW_COLORS = 5000
QUALITY = 85
RANKED_BY = ("accuracy", "ece", "bits_per_dim")
CAPTIONS = {
    "latent": "Latents of test samples, and the Gaussians of the classes.",
    "samples": "Samples of each class.",
    "reliability": "Reliability: accuracy by confidence, and how many samples each bin has.",
    "confusion": "Confusion: how many samples of each class were taken for which.",
    "class_distances": "Distances between the classes' means, in standard deviations.",
    "shift": "Accuracy and calibration of corrupted images.",
    "attack": "Accuracy under attack.",
    "explain": "The decisions that it is least sure of, explained.",
    "low-data": "Learning curves: systems by the number of training samples.",
    "results": "Results.",
}
SCORE_CAPTIONS = {
    "roc": "ROC curves of outliers against the test split, by {}.",
    "scores": "Histograms of {}, test split and outliers.",
}


@dataclass(frozen=True)
class Picture:
    """An image for the page.

    Attributes:
        uri: data:, the image itself.
        caption: what it shows, in a sentence.
        width: in CSS pixels.
        height: in CSS pixels.
    """

    uri: str
    caption: str
    width: int
    height: int


def pictured_runs(rows: Sequence[Row]) -> dict[str, list[Picture]]:
    """The pictures of runs by their names, the best few first, within the limits.

    Up to `MOST_RUNS` runs, those that are best by error, ECE or bits/dim first, as long as the
    page stays small.

    Raises:
        UserError: a picture that is damaged.
    """
    found: dict[str, list[Picture]] = {}
    left = BUDGET
    for entry in _by_merit(rows):
        files = sorted((entry.folder / "figures").glob("*.png"))
        if not files or len(found) == MOST_RUNS:
            continue
        pictures = [embed_file(file) for file in files]
        size = sum(len(picture.uri) for picture in pictures)
        if size <= left:
            found[entry.name] = pictures
            left -= size
    return found


def folder_pictures(files: Sequence[Path]) -> list[Picture]:
    """Those of folders as a whole, in order, as long as the page stays small.

    Raises:
        UserError: a picture that is damaged.
    """
    found: list[Picture] = []
    left = FOLDER_BUDGET
    for picture in map(embed_file, files):
        if len(picture.uri) <= left:
            found.append(picture)
            left -= len(picture.uri)
    return found


def embed_file(file: Path) -> Picture:
    """A .png file, at most 1,200 pixels wide and high, with as few bytes as do.

    Raises:
        UserError: it is no image, or one of more than 64 million pixels.
    """
    full = decode(file, str(file), MOST_DECODED, lambda image: image.convert("RGBA"))
    small, data = _fitting(full), file.read_bytes()
    best = _smallest(small)
    # As it came it may be the smallest, and it shows the same.
    if data.startswith(PNG) and full.width == small.width and len(data) <= len(best[1]):
        best = ("png", data)
    return Picture(_uri(f"image/{best[0]}", best[1]), _caption(file.stem), *small.size)


def embed_figure(figure: Figure, caption: str) -> Picture:
    """A matplotlib figure as SVG, the same bytes each time."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "flowclf"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Picture(_uri("image/svg+xml", text.getvalue().encode()), caption, width, height)


def _by_merit(rows: Iterable[Row]) -> list[Entry]:
    """Runs, in turn the best by each of three numbers, then the second best of each, …"""
    runs = [row for row in rows if row.entry]
    orders = [ranked(group, m) for group in by_task(runs).values() for m in RANKED_BY]
    most = max(map(len, orders), default=0)
    turns = [order[k] for k in range(most) for order in orders if k < len(order)]
    return [row.entry for row in dict.fromkeys([*turns, *runs]) if row.entry]


def _fitting(full: Image) -> Image:
    """On white, and not larger than need be."""
    from PIL import Image as images

    flat = images.new("RGB", full.size, "white")
    flat.paste(full, mask=full.getchannel("A"))
    flat.thumbnail((MOST_PIXELS, MOST_PIXELS))
    return flat


def _smallest(image: Image) -> tuple[str, bytes]:
    """Format and bytes: a palette for plots, JPEG for photographs."""
    if image.getcolors(FEW_COLORS) is None:
        return "jpeg", _saved(image, "JPEG", quality=QUALITY)
    return "png", _saved(image.quantize(256, dither=0), "PNG", optimize=True)  # type: ignore[arg-type]


def _saved(image: Image, kind: str, **options: int | bool) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _caption(stem: str) -> str:
    """Of a known picture, what it shows; else its name."""
    kind, _, score = stem.partition("-")
    if kind in SCORE_CAPTIONS and score:
        return SCORE_CAPTIONS[kind].format(re.sub("-", " ", score))
    return CAPTIONS.get(stem, f"{stem[:1].upper()}{stem[1:]}".replace("_", " "))
