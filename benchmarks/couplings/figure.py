"""Picture of the recorded rows: time and memory of every provider relative to ours.

`python -m benchmarks.couplings.figure --out bench.png`; `--help` says how to choose the rows.
"""

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
    """Draw two panels, time and memory, a group of bars under the name of each case."""
    from matplotlib.figure import Figure

    lines: dict[str, Record | None] = {}
    for case in dict.fromkeys(map(case_of, rows)):
        lines[case] = None
        lines |= {f"{label(row)}  " + case: row for row in rows if case_of(row) == case}
    figure = Figure(figsize=(11, 1.2 + 0.2 * len(lines)), layout="constrained")
    time, memory = figure.subplots(1, 2, sharey=True)
    _panel(time, [*lines.values()], "ratio", "time")
    _panel(memory, [*lines.values()], "memory_ratio", "peak memory")
    texts = [case if row is None else label(row) for case, row in lines.items()]
    time.set_yticks(range(len(lines)), texts, fontsize=8)
    for text, row in zip(time.get_yticklabels(), lines.values(), strict=True):
        text.set_weight("bold" if row is None else "normal")
    time.set_ylim(len(lines), -1)
    first = rows[0]
    figure.suptitle(
        f"{first['pass']}, {first['dtype']}, on {first['device']}, {first['threads']} threads, "
        f"torch {first['torch']}\n1 is couplings, not compiled; to the right of it: slower, larger",
        fontsize=10,
    )
    figure.savefig(path, dpi=150)


def _panel(axes: Any, lines: Sequence[Record | None], column: str, title: str) -> None:
    from matplotlib.colors import to_rgba

    shown = {line: row for line, row in enumerate(lines) if row and row[column]}
    values = [float(row[column]) for row in shown.values()]
    colours = [
        to_rgba(COLOURS.get(row["provider"], OTHER), 0.55 if row["compiled"] == "True" else 1)
        for row in shown.values()
    ]
    axes.set_xscale("log")
    # From 1, so that on a logarithmic scale what is better goes left and what is worse right.
    bars = axes.barh([*shown], [value - 1 for value in values], left=1, color=colours)
    axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3, fontsize=7.5)
    axes.axvline(1, color="black", linewidth=0.8, zorder=0)
    axes.margins(x=0.15)
    axes.set_title(f"{title}, relative to couplings", fontsize=10)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter("")
    axes.tick_params(left=False)
    axes.spines[["top", "right", "left"]].set_visible(False)


def case_of(row: Record) -> str:
    """Name the case and its size."""
    return f"{row['case']}, {row['shape']}"


def label(row: Record) -> str:
    """Name the provider, and whether it is compiled."""
    return f"{row['provider']}, compiled" if row["compiled"] == "True" else row["provider"]


if __name__ == "__main__":
    sys.exit(main())
