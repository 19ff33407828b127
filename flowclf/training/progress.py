"""Progress of a training: a bar on a terminal, occasional lines elsewhere, or a JSON file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import isfinite, log
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from flowclf.support.atomic_files import tell, write_whole

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

__all__ = ["Report", "file_report", "progress_bar"]

# Seconds between two lines: at least, and as a share of the time until then.
LEAST_SECONDS, SHARE = 5.0, 0.05
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
def progress_bar(name: str, verbose: bool = False) -> Iterator[Report]:
    """Show a bar with running averages of the terms on standard error; elsewhere lines.

    The report has `say(line)`, for what happens after the last step, and `record(row)`, which, if
    it is to be verbose, writes a line for each epoch.
    """
    from rich.console import Console

    console = Console(file=sys.stderr, markup=False, emoji=False)
    if not console.is_terminal:
        yield _LineReport(verbose)
        return
    with _two_line_bar(console) as progress:
        yield _BarReport(name, progress, verbose)


class _Epochs:
    """Lines of finished epochs."""

    verbose = False

    def record(self, row: dict[str, Any]) -> None:
        if not self.verbose:
            return
        parts = [f"{name} {value:.4g}" for name, value in row["train"].items()]
        held_out = row.get("validation", {})
        shown = ("accuracy", "negative_log_posterior_nats", "bits_per_dim")
        known = {name: held_out[name] for name in shown if held_out.get(name) is not None}
        parts += [f"validation {name} {value:.4g}" for name, value in known.items()]
        tell(
            f"epoch {row['epoch']}  {row['seconds']:.1f} s  lr {row['lr']:.3g}  {'  '.join(parts)}"
        )


class _BarReport(_Epochs):
    def __init__(self, name: str, progress: Progress, verbose: bool) -> None:
        self.verbose = verbose
        self.name, self.progress, self.averages = name, progress, _Averages()
        self.task = progress.add_task(name, total=None, terms="")

    def __call__(self, step: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None:
        self.averages.add(terms)
        shown: Any = {"description": f"{self.name}  epoch {epoch + 1}", "terms": str(self.averages)}
        self.progress.update(self.task, completed=step + 1, total=steps, **shown)

    def say(self, line: str) -> None:
        self.progress.update(self.task, description=f"{self.name}  {line}")


def _two_line_bar(console: Console) -> Progress:
    """Return a bar with the terms below it: on one line they exceed 80 columns."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    class TwoLines(Progress):
        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            yield from (task.fields["terms"] for task in self.tasks)

    share = TextColumn("{task.percentage:3.0f}%")
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        share,
        TimeRemainingColumn(),
    )
    return TwoLines(*columns, console=console)


class _LineReport(_Epochs):
    """A line at the first step and at the last, and every few seconds, more rarely as time goes."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose
        self.averages, self.start = _Averages(), time.perf_counter()
        self.last = float("-inf")
        self.first = 0

    def __call__(self, step: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None:
        self.averages.add(terms)
        seconds = time.perf_counter() - self.start
        if self.last < 0:
            self.first = step
        if step + 1 < steps and seconds - self.last < max(LEAST_SECONDS, SHARE * seconds):
            return
        self.last = seconds
        done = step + 1 - self.first
        left = f"  {clock_time(seconds / done * (steps - step - 1))} left" if done > 1 else ""
        tell(f"{seconds:7.1f} s  step {step + 1}/{steps}  epoch {epoch + 1}  {self.averages}{left}")

    def say(self, line: str) -> None:
        tell(f"{time.perf_counter() - self.start:7.1f} s  {line}")


def clock_time(seconds: float) -> str:
    """Write a time as 9 s, 1:05 min or 2:03:04 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"


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
