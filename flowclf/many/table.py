"""results.csv: one row a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowclf.many.grid import FILE, Plan, Point, read_plan
from flowclf.runs import Run
from flowclf.support.atomic_files import locked, remove_parts, write_csv

__all__ = ["FIRST", "Results", "sweep_rows"]

FIRST = ("system", "data", "seed", "beta", "accuracy", "ece", "bits_per_dim", "seconds")


def sweep_rows(plan: Plan) -> list[dict[str, Any]]:
    """Of the runs that have ended, in the order of the points: `FIRST`, what varies, the rest.

    The rest is everything else that was measured, by `flowclf evaluate` too, the number of
    parameters and the commit. None where a system has no such number.
    """
    found = [_row(point, Run(plan.folder / point.name)) for point in plan.points]
    rows = [row for row in found if row]
    varied = [key for point in plan.points for key in point.varied]
    columns = dict.fromkeys([*FIRST, *varied, *(key for row in rows for key in row)])
    return [{key: row.get(key) for key in columns} for row in rows]


class Results:
    """results.csv of a folder, for several processes that write it.

    Args:
        folder: of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self.file, self._plan_file = folder / "results.csv", folder / FILE
        self._read: tuple[tuple[int, int] | None, Plan] | None = None

    def write(self) -> None:
        """Whole or not at all; with the points that other commands have added by now.

        Raises:
            UserError: the folder is held for a minute, or its sweep.yaml is gone or damaged.
        """
        # Else rows that were read before a run ended could be written after it.
        with locked(self.file.parent, wait=60.0):
            remove_parts(self.file)
            rows = sweep_rows(self._plan())
            write_csv(self.file, list(rows[0]) if rows else FIRST, rows)

    def _plan(self) -> Plan:
        """Read anew where it has changed: that takes seconds where there are hundreds of points."""
        found = self._plan_file.stat() if self._plan_file.exists() else None
        # Each change is a new file; of one tick of the clock, maybe.
        stamp = found and (found.st_ino, found.st_mtime_ns)
        if self._read is None or self._read[0] != stamp:
            self._read = stamp, read_plan(self.file.parent)
        return self._read[1]


def _row(point: Point, run: Run) -> dict[str, Any]:
    """Empty where the run has not ended."""
    summary = run.read_summary()
    if not summary:
        return {}
    found = summary["test"] | run.read_evaluation()
    measured = {key: value for key, value in found.items() if isinstance(value, float | int | str)}
    names = ("system", "data", "seed", "seconds", "parameters")
    own = {key: summary.get(key) for key in names} | {"beta": point.config.beta} | point.varied
    return own | measured | {"commit": run.read_document().get("commit")}
