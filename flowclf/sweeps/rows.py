"""results.csv: one row a run."""

from __future__ import annotations

from typing import Any

from flowclf.files import write_csv
from flowclf.runs import Run
from flowclf.sweeps.grid import Plan, Point

__all__ = ["FIRST", "sweep_rows", "write_results"]

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


def write_results(plan: Plan) -> None:
    """results.csv of the folder, whole or not at all."""
    rows = sweep_rows(plan)
    write_csv(plan.folder / "results.csv", list(rows[0]) if rows else FIRST, rows)


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
