"""What β̃ trades, drawn from the rows: curves of each data set, and the information plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowclf.figures.trade_off import information_plane_figure, trade_off_figure
from flowclf.report.pictures import Picture, embed_figure
from flowclf.report.rows import Row, by_task
from flowclf.report.settings import written
from flowclf.support.errors import UserError

__all__ = ["beta_curves"]

PANELS = (
    "accuracy", "ece", "negative_log_posterior_nats", "bits_per_dim",
    "label_information_nats", "input_information_nats",
)  # fmt: skip
# More lines than these tell nothing.
MOST_LINES = 8


def beta_curves(rows: Sequence[Row], varied: Sequence[str]) -> list[Picture]:
    """Of each task that has runs at several β̃: metrics by β̃, and what latents know of y by x."""
    return [
        picture
        for (data, size), group in by_task(rows).items()
        if len({row.values.get("beta") for row in group} - {None}) > 1
        for picture in _task_curves(group, varied, _name(data, size))
    ]


def _task_curves(rows: Sequence[Row], varied: Sequence[str], name: str) -> list[Picture]:
    lines = [_line(row, varied) for row in rows]
    systems = {line["system"] for line in lines}
    if len(systems) > MOST_LINES:
        return []
    known = [m for m in PANELS if sum(line.get(m) is not None for line in lines) > 1]
    dotted = [system for system in systems if system.startswith("vib")]
    caption = (
        f"What β̃ trades on {name}. Arrows: what is better; bands: one standard error of the seeds."
    )
    pictures = [embed_figure(trade_off_figure(lines, known, dotted), caption)]
    classes = next((len(row.entry.facts.class_names) for row in rows if row.entry), None)
    try:
        plane = information_plane_figure(lines, classes, dotted)
    except UserError:
        return pictures
    caption = f"The information plane of {name}: what the latents know of the class, and of x."
    return [*pictures, embed_figure(plane, caption)]


def _line(row: Row, varied: Sequence[str]) -> dict[str, Any]:
    """A row whose system says what else varies, so that no line averages over that."""
    own = [f"{name}={written(row.values[name])}" for name in varied if name in row.values]
    numbers = {name: row.number(name) for name in row.values}
    # A dollar sign would begin a formula.
    label = ", ".join([row.values["system"], *own]).replace("$", r"\$")
    return numbers | {"beta": row.values.get("beta"), "system": label}


def _name(data: str, size: int | None) -> str:
    return data if size is None else f"{data}, {size:,} samples"
