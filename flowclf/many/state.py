"""What has become of each run of a sweep, for those who look on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from flowclf.many.grid import Plan, Point
from flowclf.many.ledger import Ledger
from flowclf.runs import Run
from flowclf.support.atomic_files import FolderInUse, locked

__all__ = ["State", "is_held", "states"]

Kind = Literal["done", "failed", "running", "interrupted", "waiting"]


@dataclass(frozen=True)
class State:
    """One run.

    Attributes:
        point: its settings.
        kind: interrupted: begun, and no process is at it.
        test: what was measured, of one that is done.
        progress: step, steps, epoch, seconds and terms, of one that has begun.
        reason: why it failed.
    """

    point: Point
    kind: Kind
    test: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None

    @property
    def seconds_left(self) -> float | None:
        """By its speed since it began or was taken up again; None where that is not known."""
        share = self.progress.get("step", 0) / self.progress.get("steps", 1)
        if self.kind != "running" or not share:
            return None
        return float(self.progress["seconds"] * (1 / share - 1))


def states(plan: Plan) -> list[State]:
    """Of all points, from their folders and the ledger."""
    failures = Ledger(plan.folder).failures()
    return [_state(plan, point, failures.get(point.name)) for point in plan.points]


def _state(plan: Plan, point: Point, reason: str | None) -> State:
    run = Run(plan.folder / point.name)
    if summary := run.read_summary():
        return State(point, "done", test=summary["test"])
    if not run.config_file.exists():
        return State(point, "failed" if reason else "waiting", reason=reason)
    kind: Kind = "running" if is_held(run) else "failed" if reason else "interrupted"
    return State(point, kind, progress=run.read_progress(), reason=reason)


def is_held(run: Run) -> bool:
    """Whether another process is at it."""
    try:
        with locked(run.folder):
            return False
    except FolderInUse:
        return True
