"""Tables of the guides, made from the recorded rows.

    python -m benchmarks.flowclf.doc_tables          # writes them into docs/*.md

A table that follows the line `<!-- rows: NAME -->` of a guide is that of `doc_tables.yaml`, and a
test fails where they differ. In its cells `{METRIC, FACTOR, FORMAT, FORM}` stands for the metric's
mean over the seeds, times the factor; FORM may be ± (with its standard error), each (of all seeds)
or n (how many there are).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from benchmarks.results import by_seed, read, recorded
from flowclf.support.atomic_files import write_text
from flowclf.support.averages import mean_and_error

ENTRIES = Path(__file__).with_name("doc_tables.yaml")
DOCS = Path(__file__).parents[2] / "docs"
NUMBER = re.compile(r"\{([^{}]+)\}")
PLACE = re.compile(r"(?m)^<!-- rows: (\S+) -->\n((?:^\|.*\n?)*)")
NONE = "-"
rows_of = cache(read)


def table(entry: Mapping[str, Any]) -> str:
    """Return a table.

    Args:
        entry: `head` of the first column; `columns`, a template by heading; `lines`, by label the
            variant, or what differs there: `of` (variant), `rows` (CSV), `only` (values by column
            of the CSV) and `columns`. A template may be such a mapping, too, with its text as
            `cell`. In it @ is the line's `name`, or its label. `rows` and `seeds` are of all.
    """
    columns: dict[str, Any] = entry["columns"]
    lines = [f"| {' | '.join((entry['head'], *columns))} |", "|---" * (len(columns) + 1) + "|"]
    for label, where in places(entry).items():
        templates = columns | where["columns"]
        cells = [_cell(where, templates[heading]) for heading in columns]
        lines.append(f"| {' | '.join((label, *cells))} |")
    return "\n".join(lines) + "\n"


def places(entry: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return where each line's numbers are, by label: the entry with what the line says itself."""
    lines = {k: v if isinstance(v, dict) else {"of": v} for k, v in entry["lines"].items()}
    return {label: {**entry, "name": label, **own} for label, own in lines.items()}


def _cell(where: Mapping[str, Any], template: str | Mapping[str, Any]) -> str:
    where = {**where, **({"cell": template} if isinstance(template, str) else template)}
    cell = where["cell"].replace("@", where["name"])
    text = NUMBER.sub(lambda m: _number(where, *m[1].split(", ")), cell)
    # Of two numbers that there are not, one stroke says so.
    return text.replace(f"{NONE} / {NONE}", NONE)


def _number(
    where: Mapping[str, Any], metric: str, factor: str = "1", form: str = ".2f", way: str = "mean"
) -> str:
    only = where.get("only", {}).items()
    rows = [row for row in rows_of(recorded(f"{where['rows']}.csv")) if only <= row.items()]
    found = by_seed(rows, where.get("key", "variant"), where["of"], metric)
    seeds = where.get("seeds", found)
    values = [float(factor) * found[str(seed)] for seed in seeds if str(seed) in found]
    if not values:
        return NONE
    if way == "each":
        return ", ".join(_shown(value, form) for value in values)
    if way == "n":
        return str(len(values))
    mean, error = mean_and_error(values)
    shown = _shown(mean, form)
    return f"{shown} ± {_shown(error, form)}" if way == "±" and error is not None else shown


def _shown(value: float, form: str) -> str:
    return format(value, f"z{form}").replace("-", "−")


@cache
def entries() -> dict[str, dict[str, Any]]:
    """Read what the tables show."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(ENTRIES.read_text("utf-8"))
    return found


def renewed(page: str) -> str:
    """Return a guide's text with its tables made anew."""
    known = entries()
    return PLACE.sub(lambda m: f"<!-- rows: {m[1]} -->\n{table(known[m[1]])}", page)


def main() -> None:
    """Write the tables of all guides."""
    for path in sorted(DOCS.glob("*.md")):
        old = path.read_text("utf-8")
        if (new := renewed(old)) != old:
            write_text(path, new)
            print(path)


if __name__ == "__main__":
    main()
