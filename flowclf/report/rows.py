"""The runs side by side: a row a run, what varies between them, and which is best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowclf.figures.trade_off import MEASURES, Measure
from flowclf.report.collect import Collection, Entry, is_scalar
from flowclf.report.settings import differing
from flowclf.systems import find_system

__all__ = [
    "MAIN",
    "Row",
    "best_rows",
    "by_task",
    "make_rows",
    "measure",
    "measured_names",
    "ranked",
    "varied_settings",
]

# What comes first, and what is averaged over seeds.
MAIN = ("accuracy", "ece", "negative_log_posterior_nats", "bits_per_dim", "seconds")
MOST_VARIED = 8
# More than `MEASURES` knows. Of a time or a size no value is the best: it depends on what for.
MORE = {
    "log_prob_nats": Measure("log q(x) in nats", "↑"),
    "elbo_nats": Measure("elbo in nats", "↑"),
    "paper_rate_per_dim_nats": Measure("paper's L_X/d in nats"),
    "knn_accuracy": Measure("kNN accuracy in %", "↑", 100),
    "ece_scaled": Measure("ECE, temperature scaled, in %", "↓", 100),
    "ece_20_bins_scaled": Measure("ECE (20 bins), scaled, in %", "↓", 100),
    "negative_log_posterior_nats_scaled": Measure("−log q(y|x), scaled, in nats", "↓"),
    "seconds": Measure("seconds"),
    "overconfidence": Measure("overconfidence in %", "", 100),
}


@dataclass(frozen=True, eq=False)
class Row:
    """A run, or a baseline, in a table.

    Attributes:
        values: by name: run, system, data, seed, beta, settings and everything measured.
        task: what it may be compared with: data, and the number of training samples chosen.
        entry: None of a baseline.
    """

    values: Mapping[str, Any]
    task: tuple[str, int | None]
    entry: Entry | None = None

    def number(self, name: str) -> float | None:
        """What was measured, if it was."""
        value = self.values.get(name)
        return float(value) if isinstance(value, int | float) and is_scalar(value) else None


def make_rows(found: Collection, varied: Sequence[str]) -> list[Row]:
    """Of all runs, then of the baselines."""
    runs = [_run_row(entry, varied) for entry in found.entries]
    return runs + [Row(row, (row["data"], row.get(SIZE))) for row in found.baselines]


SIZE = "data.train_size"


def _run_row(entry: Entry, varied: Sequence[str]) -> Row:
    config = entry.config
    own = {"run": entry.name, "system": config.system, "data": entry.data, "seed": config.seed}
    settings = {name: entry.settings[name] for name in varied if name in entry.settings}
    values = entry.measured | own | {"beta": config.beta} | settings
    return Row(values, (entry.data, config.data.train_size), entry)


def varied_settings(entries: Sequence[Entry]) -> list[str]:
    """Those by which runs of one system on the same data differ, but β̃ and seed; at most 8."""
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
    """What any row has: first `MAIN`, then as found; ends of intervals belong to their middle."""
    known = {name for row in rows for name in row.values if row.values[name] is not None}
    entries = [row.entry for row in rows if row.entry]
    more = dict.fromkeys(name for entry in entries for name in entry.measured)
    names = [*MAIN, *(name for name in more if name not in MAIN)]
    return [name for name in names if name in known and not _is_end(name, known)]


def measure(name: str) -> Measure:
    """How a number is written: label, factor, and which direction is better."""
    return MORE.get(name) or MEASURES.get(name) or Measure(_plain(name))


def by_task(rows: Iterable[Row]) -> dict[tuple[str, int | None], list[Row]]:
    """Groups of rows that may be compared."""
    groups: dict[tuple[str, int | None], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.task, []).append(row)
    return groups


def ranked(rows: Iterable[Row], name: str) -> list[Row]:
    """Those that have a number of that name, the best first."""
    sign = -1 if measure(name).better == "↑" else 1
    known = [(row, row.number(name)) for row in rows]
    order = sorted(((r, v) for r, v in known if v is not None), key=lambda pair: sign * pair[1])
    return [row for row, _ in order]


def best_rows(rows: Sequence[Row], name: str) -> set[Row]:
    """Of each task the best by a number, and its equals; none where there is nothing to choose."""
    if not measure(name).better:
        return set()
    found: set[Row] = set()
    for group in by_task(rows).values():
        order = ranked(group, name)
        if order and order[0].number(name) != order[-1].number(name):
            found |= {row for row in order if row.number(name) == order[0].number(name)}
    return found


def _is_end(name: str, known: set[str]) -> bool:
    return any(name.endswith(end) and name.removesuffix(end) in known for end in ("_low", "_high"))


def _plain(name: str) -> str:
    """ "log_prob_nats" to "log prob in nats"."""
    words = name.replace("_", " ")
    return f"{words.removesuffix(' nats')} in nats" if words.endswith(" nats") else words
