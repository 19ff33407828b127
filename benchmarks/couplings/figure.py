"""Picture of the recorded rows: time and memory of every provider relative to ours.

`python -m benchmarks.couplings.figure --out bench.png`; `--help` says how to choose the rows.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.couplings.case import label
from benchmarks.couplings.cli import RECORDED
from benchmarks.results import read

Record = dict[str, str]
COLOURS = {
    "couplings": "#1b7837", "FrEIA": "#4575b4", "nflows": "#d9722e", "normflows": "#8c6bb1",
    "zuko": "#c9a227", "broadcast": "#999999", "torch.distributions": "#555555",
}  # fmt: skip
OTHER = "#74c476"  # further providers of this package
PANELS = {"ratio": "time", "memory_ratio": "peak memory"}


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
    return list({(_case(row), label(row)): row for row in wanted}.values())


def draw(rows: Sequence[Record], path: Path) -> None:
    """Draw two panels, time and memory, a group of bars under the name of each case."""
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure

    lines: list[tuple[str, Record | None]] = []
    for case in dict.fromkeys(map(_case, rows)):
        lines += [(case, None), *((label(row), row) for row in rows if _case(row) == case)]
    figure = Figure(figsize=(11, 1.2 + 0.2 * len(lines)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (column, title) in zip(panels, PANELS.items(), strict=True):
        shown = {line: row for line, (_, row) in enumerate(lines) if row and row[column]}
        colours = [
            to_rgba(COLOURS.get(row["provider"], OTHER), 0.55 if row["compiled"] == "True" else 1)
            for row in shown.values()
        ]
        values = [float(row[column]) for row in shown.values()]
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
    panels[0].set_yticks(range(len(lines)), [text for text, _ in lines], fontsize=8)
    for text, (_, row) in zip(panels[0].get_yticklabels(), lines, strict=True):
        text.set_weight("normal" if row else "bold")
    panels[0].set_ylim(len(lines), -1)
    figure.suptitle(
        "{pass}, {dtype}, on {device}, {threads} threads, torch {torch}\n"
        "1 is couplings, not compiled; to the right of it: slower, larger".format_map(rows[0]),
        fontsize=10,
    )
    figure.savefig(path, dpi=150)


def _case(row: Record) -> str:
    return f"{row['case']}, {row['shape']}"


if __name__ == "__main__":
    sys.exit(main())
