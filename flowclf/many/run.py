"""Run what is left of a sweep."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from flowclf.many.grid import Plan, Point
from flowclf.many.jobs import Drawing, Job, Outcome, kept
from flowclf.many.ledger import Ledger
from flowclf.many.pool import run_jobs
from flowclf.many.state import is_held
from flowclf.many.table import Results
from flowclf.runs import Run

__all__ = ["Engine", "run_here", "run_sweep"]

POLL = 0.5

# Jobs and how many at a time to what they return, as they end.
Engine = Callable[[Iterable[Job], int], Iterator[Outcome]]


def run_here(jobs: Iterable[Job], workers: int) -> Iterator[Outcome]:
    """In processes of this machine."""
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
    """What became of each point, as they end; what had been done before comes first.

    Runs that failed before are not tried again unless that is asked for; those that another process
    is at are waited for, and taken over should it be killed. The ledger gets an entry, and
    results.csv is written anew, after each. `draw` makes the figures of each run, as
    flowclf.figures.run.run_figures does.

    Raises:
        Interrupted: by Ctrl-C; the checkpoints are saved.
    """
    ledger = Ledger(plan.folder)
    ends = ledger.ends()
    failed = {} if retry_failed else {run: why for run, why in ends.items() if why is not None}
    points = {point.name: point for point in plan.points}
    waiting = []
    for point in plan.points:
        job = replace(plan.job(point, device), draw=draw)
        if outcome := kept(job):
            # Killed between its end and its entry.
            if ends.get(point.name, "") is not None:
                _record(ledger, point, outcome)
            yield point, outcome
        elif point.name in failed:
            yield point, Outcome(point.name, failure=failed[point.name], kept=True)
        else:
            waiting.append(job)
    results = Results(plan.folder)
    results.write()
    for outcome in _done(waiting, workers, engine):
        _record(ledger, points[outcome.name], outcome)
        results.write()
        yield points[outcome.name], outcome


def _done(jobs: list[Job], workers: int, engine: Engine) -> Iterator[Outcome]:
    """All of them, also those that others do or leave behind."""
    while jobs:
        busy = set()
        for outcome in engine(jobs, workers):
            if outcome.busy:
                busy.add(outcome.name)
            else:
                yield outcome
        jobs = [job for job in jobs if job.name in busy]
        time.sleep(POLL if jobs else 0)
        # An engine would need seconds to find out, each time.
        while jobs and all(is_held(Run(job.path)) for job in jobs):
            time.sleep(POLL)


def _record(ledger: Ledger, point: Point, outcome: Outcome) -> None:
    accuracy = outcome.rows[0]["accuracy"] if outcome.rows else None
    varied = point.varied | {"seed": point.config.seed}
    ledger.record(point.name, varied, accuracy=accuracy, reason=outcome.failure)
