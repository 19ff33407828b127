"""Execution of plans: run the jobs that are left, read states, write a sweep's results."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from flowclf.many.grid import FILE, Plan, Point, read_plan
from flowclf.many.jobs import Drawing, Job, Outcome, kept
from flowclf.many.pool import run_jobs
from flowclf.runs import Run
from flowclf.support.atomic_files import FolderInUse, locked, remove_parts, write_csv
from flowclf.support.devices import pick_device

__all__ = [
    "Engine",
    "State",
    "execute",
    "run_here",
    "run_sweep",
    "states",
    "sweep_rows",
]

POLL = 0.5
FIRST = ("system", "data", "seed", "beta", "accuracy", "ece", "bits_per_dim", "seconds")
Kind = Literal["done", "failed", "running", "interrupted", "waiting"]

# Runs so many jobs at a time, and yields their outcomes as they end.
Engine = Callable[[Iterable[Job], int], Iterator[Outcome]]


@dataclass(frozen=True)
class State:
    """State of one run."""

    point: Point  # its settings
    kind: Kind  # its state; interrupted: begun, and no process holds its lock
    test: dict[str, Any] = field(default_factory=dict)  # test metrics of a run that is done
    # step, steps, epoch, seconds and terms of a run that has begun
    progress: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None  # reason why it failed

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the speed since the run began or was resumed; None: unknown."""
        share = self.progress.get("step", 0) / self.progress.get("steps", 1)
        if self.kind != "running" or not share:
            return None
        return float(self.progress["seconds"] * (1 / share - 1))


def run_here(jobs: Iterable[Job], workers: int) -> Iterator[Outcome]:
    """Run jobs in processes of this machine."""
    return run_jobs(jobs, workers, Job.killed)


def run_sweep(
    plan: Plan,
    workers: int = 2,
    device: str = "auto",
    *,
    retry_failed: bool = False,
    engine: Engine = run_here,
    draw: Drawing | None = None,
) -> Iterator[tuple[Point, Outcome]]:
    """Yield the outcome of each point, as they end; those that had ended before come first.

    Runs that failed before are tried again only with `retry_failed`. Runs that another process
    trains are waited for, and taken over should it be killed. results.csv is written after each.
    `draw` makes the figures of each run, as flowclf.figures.run.run_figures does.

    Raises:
        UserError: a device that is not there, on this machine.
        Interrupted: Ctrl-C; the checkpoints are saved.
    """
    if engine is run_here:
        pick_device(device)
    points = {point.name: point for point in plan.points}
    results = Results(plan.folder)
    jobs = [replace(plan.job(point, device), draw=draw) for point in plan.points]
    for outcome in execute(jobs, workers, results.write, retry_failed, engine, wait=True):
        yield points[outcome.name], outcome


def execute(
    jobs: Iterable[Job],
    workers: int,
    record: Callable[[Outcome | None], object],
    retry_failed: bool,
    engine: Engine = run_here,
    *,
    wait: bool,
) -> Iterator[Outcome]:
    """Yield the outcome of each job, as they end; those that had ended before come first.

    Args:
        jobs: the jobs.
        workers: jobs at a time.
        record: called with None before the first new outcome, and with each before it is yielded.
        retry_failed: try jobs again that have failed.
        engine: where the jobs run.
        wait: wait for jobs that another process holds, instead of yielding them as busy.
    """
    waiting = []
    for job in jobs:
        outcome = kept(job)
        if outcome is None or (outcome.failure and retry_failed):
            waiting.append(job)
        else:
            yield outcome
    record(None)
    for job in waiting:
        if retry_failed and not job.baselines:
            Run(job.path).failure_file.unlink(missing_ok=True)
    for outcome in _until_free(waiting, workers, engine) if wait else engine(waiting, workers):
        record(outcome)
        yield outcome


def _until_free(jobs: list[Job], workers: int, engine: Engine) -> Iterator[Outcome]:
    """Run all jobs; those that another process holds, once it has ended."""
    while jobs:
        busy = set()
        for outcome in engine(jobs, workers):
            if outcome.busy:
                busy.add(outcome.name)
            else:
                yield outcome
        jobs = [job for job in jobs if job.name in busy]
        time.sleep(POLL if jobs else 0)
        # An engine would take seconds to find out, each time.
        while jobs and all(_is_held(Run(job.path)) for job in jobs):
            time.sleep(POLL)


def states(plan: Plan) -> list[State]:
    """Return the states of all points, from their folders."""
    return [_state(point, Run(plan.folder / point.name)) for point in plan.points]


def _state(point: Point, run: Run) -> State:
    if summary := run.read_summary():
        return State(point, "done", test=summary["test"])
    reason = run.read_failure()
    if not run.config_file.exists():
        return State(point, "failed" if reason else "waiting", reason=reason)
    kind: Kind = "running" if _is_held(run) else "failed" if reason else "interrupted"
    return State(point, kind, progress=run.read_progress(), reason=reason)


def _is_held(run: Run) -> bool:
    """Return True if another process holds the lock of the run."""
    try:
        with locked(run.folder):
            return False
    except FolderInUse:
        return True


def sweep_rows(plan: Plan) -> list[dict[str, Any]]:
    """Return the rows of finished runs, in the order of the points.

    Columns are `FIRST`, the settings that vary, and everything else that was measured, also by
    `flowclf evaluate`, with the number of parameters, device, precision and commit. None: a system
    lacks it.
    """
    found = [_row(point, Run(plan.folder / point.name)) for point in plan.points]
    rows = [row for row in found if row]
    varied = [key for point in plan.points for key in point.varied]
    columns = dict.fromkeys([*FIRST, *varied, *(key for row in rows for key in row)])
    return [{key: row.get(key) for key in columns} for row in rows]


class Results:
    """File results.csv of a sweep, which several processes may write.

    Args:
        folder: folder of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self.file, self._plan_file = folder / "results.csv", folder / FILE
        self._read: tuple[tuple[int, int] | None, Plan] | None = None

    def write(self, outcome: object = None) -> None:
        """Write the file atomically, with the points that other commands have added by now.

        Raises:
            UserError: the folder is held for a minute, or its sweep.yaml is gone or damaged.
        """
        # Without the lock, rows read before a run ended could be written after it.
        with locked(self.file.parent, wait=60.0):
            remove_parts(self.file)
            rows = sweep_rows(self._plan())
            write_csv(self.file, list(rows[0]) if rows else FIRST, rows)

    def _plan(self) -> Plan:
        """Return the plan, read again if it has changed: hundreds of points take seconds."""
        found = self._plan_file.stat() if self._plan_file.exists() else None
        # Each change is a new file, maybe within one tick of the clock.
        stamp = found and (found.st_ino, found.st_mtime_ns)
        if self._read is None or self._read[0] != stamp:
            self._read = stamp, read_plan(self.file.parent)
        return self._read[1]


def _row(point: Point, run: Run) -> dict[str, Any]:
    """Return the row of a run; empty: it has not ended."""
    summary = run.read_summary()
    if not summary:
        return {}
    found = summary["test"] | run.read_evaluation()
    measured = {key: value for key, value in found.items() if isinstance(value, float | int | str)}
    names = ("system", "data", "seed", "seconds", "parameters", "device")
    own = {key: summary.get(key) for key in names} | {"beta": point.config.beta} | point.varied
    document = run.read_document()
    return own | measured | {name: document.get(name) for name in ("precision", "commit")}
