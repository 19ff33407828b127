"""Tables: the rows of runs and baselines, written as CSV, and averages over seeds."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flowclf.runs import Run
from flowclf.support.atomic_files import write_csv
from flowclf.support.averages import mean_and_error
from flowclf.support.errors import UserError
from flowclf.support.parse import read_json

__all__ = [
    "COLUMNS",
    "Row",
    "averages",
    "mean_metrics",
    "read_baselines",
    "recorded_rows",
    "row_key",
    "run_row",
    "write_rows",
]

Row = dict[str, Any]

COLUMNS = (
    "system", "data", "seed", "train_size", "accuracy", "ece", "bits_per_dim", "seconds",
    "negative_log_posterior_nats", "commit",
)  # fmt: skip
NUMBER = float | int | None
TYPES: dict[str, Any] = {
    "system": str, "data": str, "seed": int, "train_size": int | None, "commit": str | None,
}  # fmt: skip
METRICS = ("accuracy", "ece", "bits_per_dim", "negative_log_posterior_nats", "seconds")


def run_row(run: Run) -> Row:
    """Return the row of a finished run: `COLUMNS`, None for numbers that a system lacks."""
    settings, summary = run.read_document(), run.read_summary()
    data = settings.get("data")
    own = {
        "train_size": data.get("train_size") if isinstance(data, dict) else None,
        "commit": settings.get("commit"),
    }
    return _checked({**summary, **summary["test"], **own}, run.summary_file)


def row_key(row: Row) -> tuple[str, str, int, int]:
    """Return the key of a row, by which tables are sorted."""
    return row["data"], row["system"], row["train_size"], row["seed"]


def recorded_rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of all finished runs SYSTEM-n-seed and of all baselines in a folder."""
    for file in sorted(folder.glob("*-*-*/summary.json")):
        row = run_row(Run(file.parent))
        if file.parent.name == "{system}-{train_size}-{seed}".format(**row):
            yield row
    for file in sorted(folder.glob("baselines-*-*.json")):
        yield from read_baselines(file)["rows"]


def read_baselines(file: Path) -> dict[str, Any]:
    """Read baselines: the samples they were fitted to, their rows, and notes.

    Raises:
        UserError: a damaged file.
    """
    document = read_json(file)
    if not isinstance(rows := document.get("rows"), list):
        raise UserError(f"{file} is damaged: expected rows, got {rows!r}; remove it")
    return document | {"rows": [_checked(row, file) for row in rows]}


def _checked(values: Any, file: Path) -> Row:
    """Return `COLUMNS` of the values, after a check of their types."""
    row = {name: values[name] for name in COLUMNS if isinstance(values, dict) and name in values}
    for name in COLUMNS:
        if name not in row or not isinstance(row[name], TYPES.get(name, NUMBER)):
            got = repr(row[name]) if name in row else "none"
            raise UserError(f"{file} is damaged: expected {name}, got {got}; remove it")
    return row


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write sorted rows as a CSV, atomically."""
    ordered: list[Row] = sorted(rows, key=row_key)
    write_csv(path, COLUMNS, ordered)


def averages(rows: Sequence[Row], systems: Sequence[str]) -> list[Row]:
    """Average over seeds: one row a system and size, with mean and error of each of `METRICS`.

    Rows are in the order of `systems`, then baselines, then sizes. QDA with any number of
    components counts as one system.
    """
    groups: dict[tuple[int, str, int], list[Row]] = {}
    for row in rows:
        name = re.sub(r" of \d+ components$", "", row["system"])
        place = systems.index(name) if name in systems else len(systems)
        groups.setdefault((place, name, row["train_size"]), []).append(row)
    return [
        {"system": name, "train_size": size, "seeds": len(group)} | mean_metrics(group, METRICS)
        for (_, name, size), group in sorted(groups.items(), key=lambda item: item[0])
    ]


def mean_metrics(
    rows: Sequence[Row], metrics: Sequence[str]
) -> dict[str, tuple[float, float | None] | None]:
    """Return mean and standard error of each metric over the rows that have it; None: none has."""
    known = {name: [row[name] for row in rows if row[name] is not None] for name in metrics}
    return {name: mean_and_error(values) if values else None for name, values in known.items()}
