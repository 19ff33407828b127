"""What is told of each run by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flowclf.report.collect import Entry, is_scalar
from flowclf.report.pictures import Picture
from flowclf.report.settings import command_line, train_command
from flowclf.report.table import Cell, Column, Table, fixed

__all__ = ["Details", "run_details"]

CUSTOM = "With a network of your own this is done in Python: flowclf.train(…, backbone=…)."


@dataclass(frozen=True)
class Details:
    """A run's section.

    Attributes:
        anchor: id.
        name: of the run.
        headline: its main numbers.
        pictures: its figures; none where they were left out.
        tables: caption and table, of what an evaluation lists.
        command: that trains it again.
        note: on the command.
        has_figures: whether there are any in its folder.
    """

    anchor: str
    name: str
    headline: str
    pictures: Sequence[Picture]
    tables: Sequence[tuple[str, Table]]
    command: str
    note: str
    has_figures: bool


def run_details(entry: Entry, anchor: str, pictures: Sequence[Picture]) -> Details:
    """Of one run."""
    tables = (
        ("Accuracy within each class", _class_accuracy(entry)),
        ("AUROC of outliers against the test split, in %, by score", _outliers(entry)),
    )
    command = train_command(entry.config, entry.facts.shape, entry.data)
    custom = entry.settings.get("network.kind") == "custom"
    return Details(
        anchor,
        entry.name,
        _headline(entry),
        pictures,
        [(caption, table) for caption, table in tables if table],
        command_line(command),
        CUSTOM if custom else "",
        any((entry.folder / "figures").glob("*.png")),
    )


def _headline(entry: Entry) -> str:
    shown = (
        ("accuracy", "accuracy {:.2f} %", 100), ("ece", "ECE {:.2f} %", 100),
        ("bits_per_dim", "{:.3f} bits/dim", 1),
    )  # fmt: skip
    found = entry.measured
    texts = [text.format(scale * found[k]) for k, text, scale in shown if _is_number(found.get(k))]
    return ", ".join(texts)


def _class_accuracy(entry: Entry) -> Table | None:
    found = entry.evaluation.get("accuracy_per_class")
    found = found or entry.summary["test"].get("accuracy_per_class")
    names = entry.facts.class_names
    if not isinstance(found, list) or len(found) != len(names):
        return None
    cells = [_percent(value) for value in found]
    columns = [Column("class", numeric=False), Column("accuracy in %")]
    return Table(columns, [[Cell(n, n), c] for n, c in zip(names, cells, strict=True)])


def _outliers(entry: Entry) -> Table | None:
    """Scores down, sets of outliers across."""
    found = entry.evaluation.get("ood")
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    known = {(str(row.get("score")), str(row.get("set"))): row.get("auroc") for row in rows}
    if not known:
        return None
    scores, sets = ([*dict.fromkeys(names)] for names in zip(*known, strict=True))
    columns = [Column("score", numeric=False), *(Column(name) for name in sets)]
    lines = [
        [Cell(score.replace("-", " "), score), *(_percent(known.get((score, s))) for s in sets)]
        for score in scores
    ]
    return Table(columns, lines)


def _percent(value: Any) -> Cell:
    return Cell(fixed([99.5])(100 * value), repr(value)) if _is_number(value) else Cell()


def _is_number(value: Any) -> bool:
    return is_scalar(value) and not isinstance(value, str)
