"""Runs side by side: a row a run, what varies between them, and which is best."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowclf.catalogue import ENDS, find_metric
from flowclf.report.collect import SIZE, Collection, Entry, is_scalar
from flowclf.report.settings import differing
from flowclf.systems import find_system

# Metrics that come first and are averaged over seeds.
MAIN = ("accuracy", "ece", "negative_log_posterior_nats", "bits_per_dim", "seconds")
MOST_VARIED = 8


@dataclass(frozen=True, eq=False)
class Row:
    """A run, or a baseline, in a table."""

    # by name: run, system, data, seed, beta, settings and everything measured
    values: Mapping[str, Any]
    # data, and the number of training samples chosen; rows of one task may be compared
    task: tuple[str, int | None]
    entry: Entry | None = None  # None of a baseline

    def number(self, name: str) -> float | None:
        """Return what was measured, or None."""
        value = self.values.get(name)
        return float(value) if isinstance(value, int | float) and is_scalar(value) else None


def make_rows(found: Collection, varied: Sequence[str]) -> list[Row]:
    """Return rows of all runs, then of the baselines."""
    rows = []
    for entry in found.entries:
        config = entry.config
        own = {"run": entry.name, "system": config.system, "data": entry.data, "seed": config.seed}
        settings = {name: entry.settings[name] for name in varied if name in entry.settings}
        values = entry.measured | own | {"beta": config.beta} | settings
        rows.append(Row(values, (entry.data, config.data.train_size), entry))
    return rows + [Row(row, (row["data"], row.get(SIZE))) for row in found.baselines]


def varied_settings(entries: Sequence[Entry]) -> list[str]:
    """Return settings in which runs of one system on the same data differ, but β̃ and seed."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.config.system, entry.data), []).append(entry)
    names = [
        name
        for (system, _), group in groups.items()
        for name in differing([entry.settings for entry in group])
        if name not in ("seed", ".".join(find_system(system).beta or ()))
    ]
    return list(dict.fromkeys(names))[:MOST_VARIED]


def measured_names(rows: Iterable[Row]) -> list[str]:
    """Return the metrics of any row: first `MAIN`, then as found, without ends of intervals."""
    known = {name for row in rows for name in row.values if row.values[name] is not None}
    entries = [row.entry for row in rows if row.entry]
    more = dict.fromkeys(name for entry in entries for name in entry.measured)
    names = [*MAIN, *(name for name in more if name not in MAIN)]
    ends = {f"{name}{end}" for name in known for end in ENDS}
    return [name for name in names if name in known - ends]


def by_task(rows: Iterable[Row]) -> dict[tuple[str, int | None], list[Row]]:
    """Group rows that may be compared."""
    groups: dict[tuple[str, int | None], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.task, []).append(row)
    return groups


def ranked(rows: Iterable[Row], name: str) -> list[Row]:
    """Sort the rows that have a number of that name, the best first."""
    known = [(row, row.number(name)) for row in rows]
    higher = find_metric(name).better == "higher"
    order = [(row, -value if higher else value) for row, value in known if value is not None]
    return [row for row, _ in sorted(order, key=lambda pair: pair[1])]


def best_rows(rows: Sequence[Row], name: str) -> set[Row]:
    """Return the best rows of each task by a number; none where all are equal."""
    if not find_metric(name).better:
        return set()
    found: set[Row] = set()
    for group in by_task(rows).values():
        order = ranked(group, name)
        if order and order[0].number(name) != order[-1].number(name):
            found |= {row for row in order if row.number(name) == order[0].number(name)}
    return found
