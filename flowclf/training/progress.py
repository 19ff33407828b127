"""Progress of a training: a bar on a terminal, occasional lines elsewhere, or a JSON file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import isfinite, log
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from flowclf.support.atomic_files import tell, write_whole

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

__all__ = ["Report", "file_report", "progress_bar"]

LOG_LINES = 10
SMOOTHING = 0.95


class Report(Protocol):
    """Callback after each step: its number, the number of steps, the epoch, the loss terms."""

    def __call__(self, step: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None: ...


def file_report(path: Path, every: float = 1.0) -> Report:
    """Return a report that writes step, steps, epoch, seconds and terms to a JSON file.

    Other processes read it: at most every `every` seconds it is replaced whole, without a flush to
    disk.
    """
    start, last = time.perf_counter(), float("-inf")

    def report(step: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last < every:
            return
        last = now
        state = {"step": step + 1, "steps": steps, "epoch": epoch, "seconds": now - start}
        values = {name: value for name, term in terms.items() if isfinite(value := float(term))}
        text = json.dumps(state | {"terms": values})
        # A folder that has gone stays away; of a full disk the next checkpoint says so.
        if path.parent.is_dir():
            with suppress(OSError):
                write_whole(path, lambda part: part.write_text(text, "utf-8"), flush=False)

    return report


@contextmanager
def progress_bar(name: str) -> Iterator[Report]:
    """Show a bar with running averages of the terms on standard error."""
    from rich.console import Console

    averages = _Averages()
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _LineReport(averages)
        return
    with _two_line_bar(console) as progress:
        task = progress.add_task(name, total=None, terms="")

        def report(step: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None:
            averages.add(terms)
            shown = {"description": f"{name}  epoch {epoch + 1}", "terms": str(averages)}
            progress.update(task, completed=step + 1, total=steps, **shown)  # type: ignore[arg-type]

        yield report


def _two_line_bar(console: Console) -> Progress:
    """Return a bar with the terms below it: on one line they exceed 80 columns."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    class TwoLines(Progress):
        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            yield from (task.fields["terms"] for task in self.tasks)

    share = TextColumn("{task.percentage:3.0f}%")
    columns = TextColumn("{task.description}"), BarColumn(), share, TimeRemainingColumn()
    return TwoLines(*columns, console=console)


class _LineReport:
    def __init__(self, averages: _Averages) -> None:
        self.averages, self.start = averages, time.perf_counter()

    def __call__(self, step: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None:
        self.averages.add(terms)
        if (step + 1) % max(1, steps // LOG_LINES) == 0:
            seconds, done = time.perf_counter() - self.start, f"step {step + 1}/{steps}"
            line = f"{seconds:7.1f} s  {done}  epoch {epoch + 1}  {self.averages}"
            tell(line)


class _Averages:
    """Exponential averages of the terms, with the rate also in bits per dimension."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def add(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            old = self.values.get(name, float(value))
            self.values[name] = SMOOTHING * old + (1 - SMOOTHING) * float(value)

    def __str__(self) -> str:
        shown = dict(self.values)
        accuracy = shown.pop("accuracy", None)
        rate = shown.get("rate_per_dim")
        parts = [f"{name} {value:.2f}" for name, value in shown.items()]
        parts += [] if accuracy is None else [f"accuracy {100 * accuracy:.1f}%"]
        parts += [] if rate is None else [f"bits/dim {rate / log(2):.2f}"]
        return "  ".join(parts)
