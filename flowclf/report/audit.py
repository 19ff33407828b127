"""The page of an audit: pictures of the rows it found, in one file that loads nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image
from torch import Tensor

from flowclf.data import Dataset
from flowclf.data.fitting import rescaled
from flowclf.many import Audit
from flowclf.report.pictures import data_uri
from flowclf.report.render import hash_of, template
from flowclf.support.atomic_files import write_text

__all__ = ["write_audit_page"]

# Of each kind; all are in the table.
MOST_CARDS = 60
MOST_NUMBERS = 6
HEADINGS = {
    "label": (
        "Labels in doubt",
        "By a model that has not seen the row, and by the labels of its neighbours.",
    ),
    "odd": ("Odd rows", "The oddest of each 1,000, by density, complexity and place in latents."),
    "duplicate": (
        "Near duplicates",
        "Nearer to another row, in latent space, than a tenth of the usual distance.",
    ),
}


def write_audit_page(found: Audit, data: Dataset, out: Path) -> None:
    """Write the page of an audit of `data`'s training split."""
    split = data.train.labelled()
    folder = resources.files("flowclf.report")
    style, own = ((folder / name).read_text("utf-8") for name in ("style.css", "audit.css"))
    sections = []
    for kind, rows in found.findings.items():
        heading, text = HEADINGS[kind]
        cards = list(_cards(kind, rows[:MOST_CARDS], found, data, split.x))
        sections.append(
            {
                "heading": f"{heading}: {len(rows):,}",
                "text": text if cards else "None were found.",
                "cards": cards,
                "left": len(rows) - len(cards),
            }
        )
    page = template("audit.html.j2").render(
        title=f"Audit of {data.name}",
        sentence=f"{len(split):,} training rows of {data.classes} classes, each judged by a model "
        "that was not trained on it.",
        sections=sections,
        style=Markup(style),
        own=Markup(own),
        policy=f"default-src 'none'; img-src data:; style-src {hash_of(style + own)}; "
        "base-uri 'none'; form-action 'none'",
    )
    write_text(out, page)


def _cards(
    kind: str, rows: Tensor, found: Audit, data: Dataset, x: Tensor
) -> Iterator[dict[str, Any]]:
    names, doubt, suggested = data.class_names, found.doubt, found.suggested
    seen: set[tuple[int, int]] = set()
    for row in rows.tolist():
        label, twin = names[int(found.label[row])], int(found.twin[row])
        shown = [row]
        if kind == "label":
            other = names[int(suggested[row])]
            text = f"{label}, rather {other} (doubt {float(doubt[row]):.1f} nats)"
        elif kind == "odd":
            text = f"{label}, p = {float(found.p_value[row]):.4f}"
        else:
            pair = (min(row, twin), max(row, twin))
            if pair in seen:
                continue
            seen.add(pair)
            shown.append(twin)
            other = names[int(found.label[twin])]
            far = float(found.distance[row])
            text = f"{label} and {other}, {far:.3f} of the usual distance"
        pictures = [_picture(x[each], data.levels) for each in shown] if data.levels else []
        if not data.levels:
            numbers = ", ".join(f"{value:.3g}" for value in x[row][:MOST_NUMBERS].tolist())
            text = f"{text}: {numbers}{' …' if x.shape[1] > MOST_NUMBERS else ''}"
        yield {"rows": shown, "text": text, "pictures": pictures}


def _picture(x: Tensor, levels: int | None) -> str:
    pixels = rescaled(x, levels or 256, 256).permute(1, 2, 0).numpy()
    if pixels.shape[2] not in (1, 3):
        pixels = pixels[:, :, :1]
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
    return data_uri("image/png", stream.getvalue())
