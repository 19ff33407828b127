"""Tables as the template wants them: columns and cells, all text made here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowclf.report.collect import Entry
from flowclf.report.rows import MAIN, Row, best_rows, measure, measured_names
from flowclf.report.settings import differing, written
from flowclf.support.averages import mean_and_error

__all__ = [
    "Cell",
    "Column",
    "Table",
    "comparison_table",
    "environment_table",
    "fixed",
    "seeds_table",
    "settings_table",
]

Writer = Callable[[float], str]
DASH = "–"
LABELS = {"run": "run", "system": "system", "data": "data", "seed": "seed", "beta": "β̃"}
DECIMALS = {"seconds": 1}
WORDS = ("run", "system", "data")


@dataclass(frozen=True)
class Column:
    """A heading; `better` is an arrow, where one direction is; numbers stand to the right."""

    title: str
    better: str = ""
    numeric: bool = True
    code: bool = False


@dataclass(frozen=True)
class Cell:
    """What stands in a table.

    Attributes:
        text: as shown.
        sort: what it is sorted by; None: missing, always last.
        note: smaller, behind the text: an interval.
        best: of its column.
        link: the id of a section.
    """

    text: str = DASH
    sort: str | None = None
    note: str = ""
    best: bool = False
    link: str = ""


@dataclass(frozen=True)
class Table:
    """Columns, and rows of as many cells, the first of which names the row."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def comparison_table(rows: Sequence[Row], varied: Sequence[str], anchors: dict[str, str]) -> Table:
    """A row a run: what it is, what varies, and all that was measured.

    Args:
        rows: runs and baselines.
        varied: names of settings.
        anchors: names of runs to the ids of their sections.
    """
    names = [*LABELS, *varied]
    columns = [_heading(name, rows) for name in names]
    cells = [[_plain_cell(row, name, anchors) for name in names] for row in rows]
    for name in measured_names(rows):
        columns.append(_measured_heading(name, rows))
        for line, cell in zip(cells, _measured_cells(rows, name), strict=True):
            line.append(cell)
    return Table(columns, cells)


def seeds_table(rows: Sequence[Row], varied: Sequence[str]) -> Table | None:
    """Mean ± standard error of what was run with several seeds; None where nothing was."""
    names = ["system", "data", "beta", *varied]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(repr(row.values.get(name)) for name in names), []).append(row)
    if all(len(group) == 1 for group in groups.values()):
        return None
    metrics = [name for name in MAIN if any(row.number(name) is not None for row in rows)]
    columns = [_heading(name, rows) for name in names]
    columns += [Column("seeds"), *(_measured_heading(name, rows) for name in metrics)]
    writers = {name: _writer(rows, name) for name in metrics}
    return Table(columns, [_seeds_row(group, names, writers) for group in groups.values()])


def settings_table(entries: Sequence[Entry]) -> Table | None:
    """What differs between runs: settings across, or down where they outnumber the runs."""
    runs = [entry.settings for entry in entries]
    names = differing(runs)
    if not names:
        return None
    columns = [[_setting(run[name]) if name in run else Cell() for run in runs] for name in names]
    lines = [Cell(entry.name, entry.name) for entry in entries]
    if len(names) > len(entries):
        headings = [
            Column("setting", numeric=False),
            *(Column(e.name, numeric=False) for e in entries),
        ]
        return Table(headings, [[Cell(n, n), *c] for n, c in zip(names, columns, strict=True)])
    headings = [Column("run", numeric=False), *(Column(n, numeric=False, code=True) for n in names)]
    return Table(headings, [[a, *b] for a, *b in zip(lines, *columns, strict=True)])


def environment_table(entries: Sequence[Entry]) -> Table:
    """Versions, commit and device, and how many runs have the same."""
    packages = list(dict.fromkeys(name for entry in entries for name in entry.versions))
    counts: dict[tuple[str, ...], int] = {}
    for entry in entries:
        versions = (str(entry.versions.get(name, DASH)) for name in packages)
        commit = (entry.commit or DASH)[:12]
        key = (*versions, commit, str(entry.summary.get("device", DASH)))
        counts[key] = counts.get(key, 0) + 1
    columns = [Column(name, numeric=False) for name in (*packages, "commit", "device")]
    rows = [[*(Cell(t, t) for t in key), Cell(str(n), str(n))] for key, n in counts.items()]
    return Table([*columns, Column("runs")], rows)


def fixed(values: Iterable[float], decimals: int | None = None) -> Writer:
    """How to write numbers of a column with equally many decimals, by the largest if not given."""
    if decimals is None:
        largest = max(map(abs, values), default=0.0)
        decimals = 4 if largest < 2 else 3 if largest < 10 else 2 if largest < 1000 else 1
    return lambda value: f"{value:,.{decimals}f}".replace("-", "−")


def _heading(name: str, rows: Sequence[Row]) -> Column:
    values = [row.values.get(name) for row in rows]
    numeric = name not in WORDS and all(_is_number(v) for v in values if v is not None)
    return Column(LABELS.get(name, name), numeric=numeric, code=name not in LABELS)


def _plain_cell(row: Row, name: str, anchors: dict[str, str]) -> Cell:
    value = row.values.get(name)
    if name in row.values and value is None and name not in LABELS:
        return Cell("none")
    if value is None:
        return Cell()
    link = anchors.get(str(value), "") if name == "run" else ""
    if _is_number(value):
        return Cell(_short(value), _key(value), link=link)
    text = value if name in WORDS else written(value)
    return Cell(text, text, link=link)


def _setting(value: Any) -> Cell:
    text = "none" if value is None else _short(value) if _is_number(value) else written(value)
    return Cell(text, _key(value) if _is_number(value) else text)


def _measured_heading(name: str, rows: Sequence[Row]) -> Column:
    words = any(isinstance(row.values.get(name), str) for row in rows)
    return Column(measure(name).label, measure(name).better, numeric=not words)


def _measured_cells(rows: Sequence[Row], name: str) -> list[Cell]:
    scale, best = measure(name).scale, best_rows(rows, name)
    write = _writer(rows, name)
    return [_measured_cell(row, name, scale, write, row in best) for row in rows]


def _measured_cell(row: Row, name: str, scale: float, write: Writer, best: bool) -> Cell:
    value, number = row.values.get(name), row.number(name)
    if number is None:
        return Cell(value, value) if isinstance(value, str) else Cell()
    ends = [row.number(f"{name}_{end}") for end in ("low", "high")]
    known = [write(scale * end) for end in ends if end is not None]
    note = f"{known[0]} to {known[1]}" if len(known) == 2 else ""
    return Cell(write(scale * number), repr(number), note, best)


def _seeds_row(
    group: Sequence[Row], names: Sequence[str], writers: Mapping[str, Writer]
) -> list[Cell]:
    cells = [_plain_cell(group[0], name, {}) for name in names]
    return [
        *cells,
        Cell(str(len(group)), str(len(group))),
        *(_mean(group, *each) for each in writers.items()),
    ]


def _mean(group: Sequence[Row], name: str, write: Writer) -> Cell:
    values = [number for row in group if (number := row.number(name)) is not None]
    if not values:
        return Cell()
    scale = measure(name).scale
    mean, error = mean_and_error(values)
    return Cell(
        write(scale * mean), repr(mean), "" if error is None else f"± {write(scale * error)}"
    )


def _writer(rows: Iterable[Row], name: str) -> Writer:
    """Of what was measured; counts have no decimals."""
    known = [row.values[name] for row in rows if row.number(name) is not None]
    counts = all(isinstance(value, int) for value in known)
    scaled = [measure(name).scale * value for value in known]
    return fixed(scaled, 0 if counts else DECIMALS.get(name))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _key(value: float) -> str:
    """A number as JavaScript reads it."""
    return repr(value).replace("inf", "Infinity")


def _short(value: float) -> str:
    """Six digits at most, as the folders of a sweep have them."""
    if value == float("inf"):
        return "∞"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
