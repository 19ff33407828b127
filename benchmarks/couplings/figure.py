"""What was recorded, as a picture: time and memory of every provider relative to ours.

`python -m benchmarks.couplings.figure --out bench.png`; `--help` tells how to choose the rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.couplings.results import RECORDED, read

__all__ = ["draw", "latest", "main"]

Record = dict[str, str]
COLOURS = {
    "couplings": "#1b7837",
    "FrEIA": "#4575b4",
    "nflows": "#d9722e",
    "normflows": "#8c6bb1",
    "zuko": "#c9a227",
    "broadcast": "#999999",
    "torch.distributions": "#555555",
}
OTHER = "#74c476"  # further providers of this package


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the recorded rows; the exit status."""
    options = _parse(arguments)
    try:
        rows = latest(read(options.csv), options.device, options.kind, options.dtype)
    except (OSError, ValueError) as error:
        print(f"figure: {error}", file=sys.stderr)
        return 2
    draw(rows, options.out)
    print(options.out)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.couplings.figure", description=__doc__)
    add = parser.add_argument
    add("--csv", type=Path, default=RECORDED, help="default: %(default)s")
    add("--out", type=Path, default=Path("bench.png"), help="default: %(default)s")
    add("--device", help="as recorded; default: that of the last row")
    add("--pass", dest="kind", default="forward+backward", help="default: %(default)s")
    add("--dtype", default="float32", help="default: %(default)s")
    return parser.parse_args(arguments)


def latest(rows: Sequence[Record], device: str | None, kind: str, dtype: str) -> list[Record]:
    """The last row of every case and provider on that device, in the order of the cases.

    Raises:
        ValueError: nothing was recorded for it.
    """
    device = device or (rows[-1]["device"] if rows else None)
    properties = {"device": device, "pass": kind, "dtype": dtype}
    wanted = [row for row in rows if properties.items() <= row.items()]
    if not wanted:
        raise ValueError(f"no rows of {kind} in {dtype} on {device or 'any device'}")
    found: dict[tuple[str, ...], Record] = {}
    for row in wanted:
        found[_case(row), row["provider"], row["compiled"]] = row
    return list(found.values())


def draw(rows: Sequence[Record], path: Path) -> None:
    """Two panels, time and memory, a group of bars a case."""
    from matplotlib.figure import Figure

    groups = {case: [row for row in rows if _case(row) == case] for case in map(_case, rows)}
    figure = Figure(figsize=(11, 1.2 + 0.2 * (len(rows) + len(groups))), layout="constrained")
    time, memory = figure.subplots(1, 2, sharey=True)
    _panel(time, groups, "ratio", "time")
    _panel(memory, groups, "memory_ratio", "peak memory")
    first = rows[0]
    figure.suptitle(
        f"{first['pass']}, {first['dtype']}, on {first['device']}, {first['threads']} threads, "
        f"torch {first['torch']}\n1 is couplings, not compiled; to the right of it: slower, larger",
        fontsize=10,
    )
    figure.savefig(path, dpi=150)


def _panel(axes: Any, groups: dict[str, list[Record]], column: str, title: str) -> None:
    labels: list[str] = []
    headings: list[int] = []
    for case, rows in groups.items():
        headings.append(len(labels))
        labels.append(case)
        for row in rows:
            _bar(axes, len(labels), row, column)
            labels.append(_label(row))
    axes.axvline(1, color="black", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    for heading in headings:
        axes.axhline(heading, color="0.9", linewidth=0.8, zorder=0)
    for text in axes.get_yticklabels():
        text.set_weight("bold" if text.get_text() in groups else "normal")
    axes.set_ylim(len(labels), -1)
    axes.margins(x=0.15)
    axes.set_title(f"{title}, relative to couplings", fontsize=10)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter("")
    axes.tick_params(left=False)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _bar(axes: Any, position: int, row: Record, column: str) -> None:
    if not row[column]:
        return
    value = float(row[column])
    compiled = row["compiled"] == "True"
    colour = COLOURS.get(row["provider"], OTHER)
    # From 1, so that on a logarithmic scale what is better goes left and what is worse right.
    axes.barh(position, value - 1, left=1, color=colour, alpha=0.55 if compiled else 1, height=0.8)
    side = {"ha": "left"} if value >= 1 else {"ha": "right"}
    axes.annotate(
        f"{value:.2f}",
        (value, position),
        xytext=(3 if value >= 1 else -3, 0),
        textcoords="offset points",
        va="center",
        fontsize=7.5,
        **side,
    )


def _case(row: Record) -> str:
    return f"{row['case']}, {row['shape']}"


def _label(row: Record) -> str:
    return f"{row['provider']}, compiled" if row["compiled"] == "True" else row["provider"]


if __name__ == "__main__":
    sys.exit(main())
