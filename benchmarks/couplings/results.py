"""Rows of what was measured: their columns, the CSV that they are appended to, and the table."""

from __future__ import annotations

import csv
import io
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.couplings.peers import PEERS, version_of

__all__ = [
    "COLUMNS",
    "RECORDED",
    "Row",
    "append",
    "check_columns",
    "circumstances",
    "read",
    "table",
]

Row = dict[str, Any]
RECORDED = Path(__file__).parent / "results.csv"

FACTS = ("date", "device", "threads", "python", "torch", *PEERS, "commit")
MEASURED = (
    "bench",
    "case",
    "shape",
    "dtype",
    "provider",
    "pass",
    "compiled",
    "compile_s",  # the first call; less where torch's cache on disk knows the program
    "median_ms",
    "p20_ms",
    "p80_ms",
    "peak_mb",
    "ratio",  # of the median to ours, not compiled: 2 is twice as long
    "memory_ratio",
    "roofline",  # time to move inputs and outputs once at the speed of a copy / median
)
COLUMNS = (*FACTS, *MEASURED)


def circumstances(device: torch.device) -> Row:
    """Date, machine and versions, the same for all rows of a run."""
    versions = {peer: version_of(peer) for peer in PEERS}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **versions,
        "commit": _commit(),
    }


def append(path: Path, rows: Sequence[Row]) -> None:
    """Add rows to a CSV, which is replaced in one go.

    Raises:
        OSError: it cannot be written.
        ValueError: its columns are others.
    """
    check_columns(path)
    old = path.read_text("utf-8") if path.exists() else ""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if not old:
        writer.writeheader()
    writer.writerows(rows)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(old + text.getvalue(), "utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def check_columns(path: Path) -> None:
    """That rows can be appended.

    Raises:
        ValueError: there is a file with other columns.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", newline="") as file:
        header = next(csv.reader(file), None)
    if header is not None and tuple(header) != COLUMNS:
        raise ValueError(f"{path} has other columns; move it away, or choose another --out")


def read(path: Path) -> list[dict[str, str]]:
    """The rows as recorded."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(rows: Sequence[Row]) -> str:
    """For people."""
    shown = ("case", "shape", "dtype", "pass", "provider")
    numbers = ("median_ms", "p20_ms", "p80_ms", "peak_mb", "ratio", "memory_ratio", "roofline")
    lines = [[*shown, *numbers]]
    for row in rows:
        name = f"{row['provider']}, compiled" if row["compiled"] else row["provider"]
        lines.append(
            [*(row[c] for c in shown[:-1]), name, *(_number(row[column]) for column in numbers)]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(_line(line, widths, len(shown)) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int], texts: int) -> str:
    padded = [
        cell.ljust(width) if i < texts else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text("utf-8").splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
    """Of the checkout that this runs from; nothing outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""
