"""Tables and sections of runs as the template takes them: all text is made here."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flowclf.catalogue import ENDS, find_metric
from flowclf.report.collect import Entry
from flowclf.report.pictures import Picture
from flowclf.report.rows import MAIN, Row, best_rows, measured_names
from flowclf.report.settings import differing, train_command, written
from flowclf.support.averages import mean_and_error

Writer = Callable[[float], str]
DASH = "–"
IDENTITY = ("run", "system", "data", "seed", "beta")
WORDS = ("run", "system", "data")
HEADLINE = ("accuracy", "ece", "bits_per_dim")
WITHIN = "Accuracy within each class"
DETECTION = "AUROC against the test split in %, by score and out-of-distribution set"
CUSTOM = "With a network of your own this is done in Python: flowclf.train(…, backbone=…)."


@dataclass(frozen=True)
class Column:
    """Heading with an arrow to the better direction; numbers stand to the right."""

    title: str
    better: str = ""
    numeric: bool = True
    code: bool = False


@dataclass(frozen=True)
class Cell:
    """Cell of a table."""

    text: str = DASH
    sort: str | None = None  # key of the order; None: missing, always last
    note: str = ""  # smaller, behind the text: an interval
    best: bool = False  # true of the best of its column
    link: str = ""  # the id of a section


@dataclass(frozen=True)
class Table:
    """Columns, and rows of as many cells, the first of which names the row."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def comparison_table(rows: Sequence[Row], varied: Sequence[str], anchors: dict[str, str]) -> Table:
    """Return a row a run: its identity, the settings that vary, and all that was measured.

    `anchors` has the ids of the runs' sections by their names.
    """
    names = [*IDENTITY, *varied]
    columns = [_heading(name, rows) for name in names]
    cells = [[_plain_cell(row, name, anchors) for name in names] for row in rows]
    for name in measured_names(rows):
        columns.append(_measured_heading(name, rows))
        best, write = best_rows(rows, name), _writer(rows, name)
        for line, row in zip(cells, rows, strict=True):
            line.append(_measured_cell(row, name, write, row in best))
    return Table(columns, cells)


def seeds_table(rows: Sequence[Row], varied: Sequence[str]) -> Table | None:
    """Return mean ± standard error over seeds; None where there is one seed of each."""
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
    lines = []
    for group in groups.values():
        own, seeds = [_plain_cell(group[0], name, {}) for name in names], str(len(group))
        means = [_mean(group, *each) for each in writers.items()]
        lines.append([*own, Cell(seeds, seeds), *means])
    return Table(columns, lines)


def settings_table(entries: Sequence[Entry]) -> Table | None:
    """Return what differs between runs: settings across, or down if they outnumber the runs."""
    runs = [entry.settings for entry in entries]
    names = differing(runs)
    if not names:
        return None
    columns = [[_setting(run[name]) if name in run else Cell() for run in runs] for name in names]
    lines = [Cell(entry.name, entry.name) for entry in entries]
    if len(names) > len(entries):
        headings = [Column(n, numeric=False) for n in ("setting", *(e.name for e in entries))]
        return Table(headings, [[Cell(n, n), *c] for n, c in zip(names, columns, strict=True)])
    headings = [Column("run", numeric=False), *(Column(n, numeric=False, code=True) for n in names)]
    return Table(headings, [[a, *b] for a, *b in zip(lines, *columns, strict=True)])


def environment_table(entries: Sequence[Entry]) -> Table:
    """Return versions, commit and device, and how many runs have the same."""
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


@dataclass(frozen=True)
class Details:
    """Section of a run: main numbers, figures, tables of an evaluation with their captions."""

    anchor: str
    name: str
    headline: str
    images: Sequence[Picture]  # of samples and walks; none where they were left out
    plots: Sequence[Picture]  # likewise
    tables: Sequence[tuple[str, Table]]
    command: str  # that trains it again, with a note
    note: str
    has_figures: bool  # true if there are any in its folder


def run_details(entry: Entry, anchor: str, pictures: Sequence[Picture]) -> Details:
    """Return the section of one run."""
    tables = ((WITHIN, _class_accuracy(entry)), (DETECTION, _detection(entry)))
    found = {n: entry.measured[n] for n in HEADLINE if _is_number(entry.measured.get(n))}
    main = [(find_metric(name), value) for name, value in found.items()]
    custom = entry.settings.get("network.kind") == "custom"
    return Details(
        anchor,
        entry.name,
        ", ".join(f"{metric.label} {metric.written(value)}" for metric, value in main),
        [picture for picture in pictures if not picture.plot],
        [picture for picture in pictures if picture.plot],
        [(caption, table) for caption, table in tables if table],
        train_command(entry.config, entry.facts.shape, entry.data),
        CUSTOM if custom else "",
        any((entry.folder / "figures").glob("*.png")),
    )


def _class_accuracy(entry: Entry) -> Table | None:
    found = entry.evaluation.get("accuracy_per_class")
    found = found or entry.summary["test"].get("accuracy_per_class")
    names = entry.facts.class_names
    if not isinstance(found, list) or len(found) != len(names):
        return None
    cells = [_percent(value) for value in found]
    columns = [Column("class", numeric=False), Column(find_metric("accuracy").heading)]
    return Table(columns, [[Cell(n, n), c] for n, c in zip(names, cells, strict=True)])


def _detection(entry: Entry) -> Table | None:
    """Return scores down, out-of-distribution sets across."""
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


def fixed(values: Iterable[float], decimals: int | None = None) -> Writer:
    """Return a writer of a column's numbers with equally many decimals, by the largest if None."""
    if decimals is None:
        largest = max(map(abs, values), default=0.0)
        decimals = 4 if largest < 2 else 3 if largest < 10 else 2 if largest < 1000 else 1
    return lambda value: f"{value:,.{decimals}f}".replace("-", "−")


def _heading(name: str, rows: Sequence[Row]) -> Column:
    values = [row.values.get(name) for row in rows]
    numeric = name not in WORDS and all(_is_number(v) for v in values if v is not None)
    known = name in IDENTITY
    label = find_metric(name).label if known else name
    return Column(label, numeric=numeric, code=not known)


def _plain_cell(row: Row, name: str, anchors: dict[str, str]) -> Cell:
    value = row.values.get(name)
    if name in row.values and value is None and name not in IDENTITY:
        return Cell("none")
    if value is None:
        return Cell()
    link = anchors.get(str(value), "") if name == "run" else ""
    if _is_number(value):
        return Cell(short(value), _key(value), link=link)
    text = value if name in WORDS else written(value)
    return Cell(text, text, link=link)


def _setting(value: Any) -> Cell:
    text = "none" if value is None else short(value) if _is_number(value) else written(value)
    return Cell(text, _key(value) if _is_number(value) else text)


def _measured_heading(name: str, rows: Sequence[Row]) -> Column:
    words = any(isinstance(row.values.get(name), str) for row in rows)
    shown = find_metric(name)
    return Column(shown.heading, shown.arrow, numeric=not words)


def _measured_cell(row: Row, name: str, write: Writer, best: bool) -> Cell:
    value, number, scale = row.values.get(name), row.number(name), find_metric(name).scale
    if number is None:
        return Cell(value, value) if isinstance(value, str) else Cell()
    ends = [row.number(f"{name}{end}") for end in ENDS]
    known = [write(scale * end) for end in ends if end is not None]
    note = f"{known[0]} to {known[1]}" if len(known) == 2 else ""
    return Cell(write(scale * number), repr(number), note, best)


def _mean(group: Sequence[Row], name: str, write: Writer) -> Cell:
    values = [number for row in group if (number := row.number(name)) is not None]
    if not values:
        return Cell()
    scale = find_metric(name).scale
    mean, error = mean_and_error(values)
    note = "" if error is None else f"± {write(scale * error)}"
    return Cell(write(scale * mean), repr(mean), note)


def _writer(rows: Iterable[Row], name: str) -> Writer:
    """Return the writer of a metric; counts have no decimals, seconds one."""
    known = [row.values[name] for row in rows if row.number(name) is not None]
    counts = all(isinstance(value, int) for value in known)
    scaled = [find_metric(name).scale * value for value in known]
    return fixed(scaled, 0 if counts else 1 if name == "seconds" else None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _key(value: float) -> str:
    """Write a number as JavaScript reads it."""
    return repr(value).replace("inf", "Infinity")


def short(value: float) -> str:
    """Write six digits at most, as the folders of a sweep have them."""
    if value == float("inf"):
        return "∞"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
