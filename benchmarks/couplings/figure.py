"""Picture of the recorded rows: time and memory of every provider relative to ours.

`python -m benchmarks.couplings.figure --out bench.png`; `--help` says how to choose the rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.couplings.cli import RECORDED
from benchmarks.results import read

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
    """Draw the recorded rows; return the exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks.couplings.figure", description=__doc__)
    add = parser.add_argument
    add("--csv", type=Path, default=RECORDED, help="default: %(default)s")
    add("--out", type=Path, default=Path("bench.png"), help="default: %(default)s")
    add("--device", help="as recorded; default: that of the last row")
    add("--pass", dest="kind", default="forward+backward", help="default: %(default)s")
    add("--dtype", default="float32", help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        rows = latest(read(options.csv), options.device, options.kind, options.dtype)
    except (OSError, ValueError) as error:
        print(f"figure: {error}", file=sys.stderr)
        return 2
    draw(rows, options.out)
    print(options.out)
    return 0


def latest(rows: Sequence[Record], device: str | None, kind: str, dtype: str) -> list[Record]:
    """Return the last row of every case and provider on a device, in the order of the cases.

    Raises:
        ValueError: nothing was recorded for it.
    """
    device = device or (rows[-1]["device"] if rows else None)
    properties = {"device": device, "pass": kind, "dtype": dtype}
    wanted = [row for row in rows if properties.items() <= row.items()]
    if not wanted:
        raise ValueError(f"no rows of {kind} in {dtype} on {device or 'any device'}")
    return list({(case_of(row), label(row)): row for row in wanted}.values())


def draw(rows: Sequence[Record], path: Path) -> None:
    """Draw two panels, time and memory, a group of bars for each case."""
    from matplotlib.figure import Figure

    # A case is a line of its own, above those of its providers.
    lines: list[tuple[str, Record | None]] = []
    for case in dict.fromkeys(map(case_of, rows)):
        lines += [(case, None), *((label(row), row) for row in rows if case_of(row) == case)]
    figure = Figure(figsize=(11, 1.2 + 0.2 * len(lines)), layout="constrained")
    panels = {"ratio": "time", "memory_ratio": "peak memory"}
    axes = figure.subplots(1, len(panels), sharey=True)
    for panel, (column, title) in zip(axes, panels.items(), strict=True):
        _panel(panel, lines, column, f"{title}, relative to couplings")
    first = rows[0]
    figure.suptitle(
        f"{first['pass']}, {first['dtype']}, on {first['device']}, {first['threads']} threads, "
        f"torch {first['torch']}\n1 is couplings, not compiled; to the right of it: slower, larger",
        fontsize=10,
    )
    figure.savefig(path, dpi=150)


def _panel(axes: Any, lines: Sequence[tuple[str, Record | None]], column: str, title: str) -> None:
    axes.axvline(1, color="black", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_yticks(range(len(lines)), [text for text, _ in lines], fontsize=8)
    for position, (_, row) in enumerate(lines):
        if row is None:
            axes.axhline(position, color="0.9", linewidth=0.8, zorder=0)
        elif row[column]:
            _bar(axes, position, row, float(row[column]))
    for tick in axes.get_yticklabels():
        tick.set_weight("bold" if (tick.get_text(), None) in lines else "normal")
    axes.set_ylim(len(lines), -1)
    axes.margins(x=0.15)
    axes.set_title(title, fontsize=10)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter("")
    axes.tick_params(left=False)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _bar(axes: Any, position: int, row: Record, value: float) -> None:
    colour = COLOURS.get(row["provider"], OTHER)
    alpha = 0.55 if row["compiled"] == "True" else 1
    # From 1, so that on a logarithmic scale what is better goes left and what is worse right.
    axes.barh(position, value - 1, left=1, color=colour, alpha=alpha, height=0.8)
    side, gap = ("left", 3) if value >= 1 else ("right", -3)
    axes.annotate(
        f"{value:.2f}",
        (value, position),
        xytext=(gap, 0),
        textcoords="offset points",
        va="center",
        ha=side,
        fontsize=7.5,
    )


def case_of(row: Record) -> str:
    """Name the case and its size."""
    return f"{row['case']}, {row['shape']}"


def label(row: Record) -> str:
    """Name the provider, and whether it is compiled."""
    return f"{row['provider']}, compiled" if row["compiled"] == "True" else row["provider"]


if __name__ == "__main__":
    sys.exit(main())
