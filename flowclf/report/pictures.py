"""Pictures inside the page, as data: URIs: files of runs, made small, and curves over β̃."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image

from flowclf.data.pictures import decode
from flowclf.figures.style import DARK, Figure
from flowclf.figures.trade_off import BOUNDED, information_plane_figure
from flowclf.report.charts import Chart, trade_off_charts
from flowclf.report.collect import Entry
from flowclf.report.rows import Row, by_task, ranked
from flowclf.report.settings import written
from flowclf.support.errors import UserError

# Bytes of base64 in the page, of runs and of folders; curves and tables take less than a megabyte.
BUDGET, FOLDER_BUDGET = 3_000_000, 1_000_000
MOST_RUNS = 8
MOST_PIXELS = 1200  # of a side
MOST_DECODED = 2**26
PNG = b"\x89PNG"
# A plot has few colours, and a palette of 256 holds them all to the eye; a photograph does not.
FEW_COLORS = 5000
QUALITY = 85
RANKED_BY = ("accuracy", "ece", "bits_per_dim")
# More lines cannot be read.
MOST_LINES = 8
# Kinds that show images, even without the dark twin that tells them from plots.
IMAGES = ("samples", "strip", "walk", "grid", "reconstructions", "extraction")
CAPTIONS = {
    "latent": "Latents of test samples, and the Gaussians of the classes.",
    "samples": "Samples of each class.",
    "grid": "Samples of each class.",
    "strip": "Straight lines in latent space between test images.",
    "walk": "Walks from class to class.",
    "sample_quality": "Samples as a network sees them that was trained on real images.",
    "reliability": "Reliability: accuracy by confidence with 95 % intervals, and samples per bin.",
    "confusion": "Confusion: how many samples of each class were predicted as which.",
    "class_distances": "Distances between the classes' means, in standard deviations.",
    "shift": "Accuracy and calibration of corrupted images.",
    "attack": "Accuracy under attack.",
    "explain": "The least certain predictions, explained.",
    "low-data": "Learning curves: systems by the number of training samples.",
    "results": "Results.",
}
SCORE_CAPTIONS = {
    "roc": "ROC curves of out-of-distribution data against the test split, by {}.",
    "scores": "Histograms of {}, test split and out-of-distribution data.",
}


@dataclass(frozen=True)
class Picture:
    """Image as a data: URI, a sentence on what it shows, and its size in CSS pixels."""

    uri: str
    caption: str
    width: int
    height: int
    # A plot, whose colours the page turns in the dark; pictures have a twin, or stay as they are.
    plot: bool = True
    dark: str = ""


def pictured_runs(rows: Sequence[Row]) -> dict[str, list[Picture]]:
    """Embed the pictures of up to `MOST_RUNS` runs, by name, as long as the page stays small.

    Those that are best by error, ECE or bits/dim come first.

    Raises:
        UserError: a picture that is damaged.
    """
    entries = _by_merit(rows)
    files = {e.name: sorted((e.folder / "figures").glob("*.png")) for e in entries}
    return _embed_all({name: paths for name, paths in files.items() if paths}, BUDGET, MOST_RUNS)


def folder_pictures(files: Sequence[Path]) -> list[Picture]:
    """Embed pictures of folders as a whole, in order, as long as the page stays small.

    Raises:
        UserError: a picture that is damaged.
    """
    found = _embed_all({str(file): [file] for file in files}, FOLDER_BUDGET, len(files))
    return [picture for pictures in found.values() for picture in pictures]


def _embed_all(
    groups: Mapping[str, Sequence[Path]], budget: int, most: int
) -> dict[str, list[Picture]]:
    """Embed groups of pictures in order, those that still fit into so many bytes."""
    found: dict[str, list[Picture]] = {}
    for name, files in groups.items():
        if len(found) == most:
            break
        pictures = [embed_file(file) for file in files]
        size = sum(len(picture.uri) + len(picture.dark) for picture in pictures)
        if size <= budget:
            found[name] = pictures
            budget -= size
    return found


def embed_file(file: Path) -> Picture:
    """Embed a .png file, at most 1,200 pixels wide and high, in few bytes, with its dark twin.

    Raises:
        UserError: it is no image, or one of more than 64 million pixels.
    """
    twin = file.parent / DARK / file.name
    uri, size = _embedded(file)
    dark = _embedded(twin)[0] if twin.is_file() else ""
    plot = not dark and file.stem.partition("-")[0] not in IMAGES
    return Picture(uri, _caption(file.stem), *size, plot, dark)


def _embedded(file: Path) -> tuple[str, tuple[int, int]]:
    """Return a picture on white as a data: URI, and its size."""
    full = decode(file, str(file), MOST_DECODED, lambda image: image.convert("RGBA"))
    small, data = Image.new("RGB", full.size, "white"), file.read_bytes()
    small.paste(full, mask=full.getchannel("A"))
    small.thumbnail((MOST_PIXELS, MOST_PIXELS))
    best = _compressed(small)
    # The file as it is may be the smallest, and it shows the same.
    if data.startswith(PNG) and full.width == small.width and len(data) <= len(best[1]):
        best = ("png", data)
    return data_uri(f"image/{best[0]}", best[1]), small.size


def embed_figure(figure: Figure, caption: str) -> Picture:
    """Embed a matplotlib figure as SVG, the same bytes each time."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "flowclf"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Picture(data_uri("image/svg+xml", text.getvalue().encode()), caption, width, height)


@dataclass(frozen=True)
class Curves:
    """Charts of the trade-off of a task, and its information plane if it was measured."""

    caption: str
    charts: Sequence[Chart]
    plane: Picture | None


def beta_curves(
    rows: Sequence[Row], varied: Sequence[str], anchors: Mapping[str, str]
) -> list[Curves]:
    """Draw metrics against β̃ and the information plane, of each task with runs at several β̃."""
    return [
        _task_curves(group, varied, anchors, task_name(data, size, "samples"))
        for (data, size), group in by_task(rows).items()
        if len({row.values.get("beta") for row in group} - {None}) > 1
    ]


def _task_curves(
    rows: Sequence[Row], varied: Sequence[str], anchors: Mapping[str, str], name: str
) -> Curves:
    lines = [_line(row, varied) for row in rows]
    labels = {
        row: line["system"].replace(r"\$", "$") for row, line in zip(rows, lines, strict=True)
    }
    caption = f"Trade-off over β̃ on {name}: a dot a run, lines are means over the seeds"
    charts = trade_off_charts(rows, labels, anchors)
    if len(set(labels.values())) > MOST_LINES:
        return Curves(caption, charts, None)
    pairs = zip(rows, lines, strict=True)
    dotted = {line["system"] for row, line in pairs if row.values["system"] in BOUNDED}
    classes = next((len(row.entry.facts.class_names) for row in rows if row.entry), None)
    try:
        plane = information_plane_figure(lines, classes, dotted)
    except UserError:
        return Curves(caption, charts, None)
    text = f"Information plane of {name}: information of the latents on the class and on x."
    return Curves(caption, charts, embed_figure(plane, text))


def _line(row: Row, varied: Sequence[str]) -> dict[str, Any]:
    """Return a row whose system names what else varies, so that no line averages over that."""
    own = [f"{name}={written(row.values[name])}" for name in varied if name in row.values]
    numbers = {name: row.number(name) for name in row.values}
    # A dollar sign would begin a formula.
    label = ", ".join([row.values["system"], *own]).replace("$", r"\$")
    return numbers | {"beta": row.values.get("beta"), "system": label}


def task_name(data: str, size: int | None, unit: str = "training samples") -> str:
    """Name data, and how many samples of them were trained on if not all."""
    return data if size is None else f"{data}, {size:,} {unit}"


def _by_merit(rows: Iterable[Row]) -> list[Entry]:
    """Sort runs: in turn the best by each of three numbers, then the second best of each, …"""
    runs = [row for row in rows if row.entry]
    orders = [ranked(group, m) for group in by_task(runs).values() for m in RANKED_BY]
    most = max(map(len, orders), default=0)
    turns = [order[k] for k in range(most) for order in orders if k < len(order)]
    return [row.entry for row in dict.fromkeys([*turns, *runs]) if row.entry]


def _compressed(image: Image.Image) -> tuple[str, bytes]:
    """Return format and bytes: a palette for plots, JPEG for photographs."""
    data = io.BytesIO()
    if image.getcolors(FEW_COLORS) is None:
        image.save(data, "JPEG", quality=QUALITY)
        return "jpeg", data.getvalue()
    image.quantize(256, dither=0).save(data, "PNG", optimize=True)  # type: ignore[arg-type]
    return "png", data.getvalue()


def data_uri(kind: str, data: bytes) -> str:
    """Return a data: URI of bytes of this MIME type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _caption(stem: str) -> str:
    """Return what a known picture shows, else its name."""
    kind, _, score = stem.partition("-")
    if kind in SCORE_CAPTIONS and score:
        return SCORE_CAPTIONS[kind].format(score.replace("-", " "))
    return CAPTIONS.get(stem, f"{stem[:1].upper()}{stem[1:]}".replace("_", " "))
