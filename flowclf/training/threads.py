"""CPU threads of a training: whether cores are free for them, and the number that is faster now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, nan
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

__all__ = ["ThreadWatch", "cores_short", "faster"]

# Threads in the queue at any time, on average, from which cores count as taken. Of two threads on
# two cores, 0 to 0.03 are on a quiet machine, 0.5 to 0.8 beside a busy process (IB-INN, MNIST).
SHORT = 0.25
WINDOW = 4.0  # seconds of steps that are looked at together
ROUNDS = 4  # steps of a trial with each number of threads; the first ones warm up
REST = 60.0  # seconds between trials, at least
REST_FACTOR = 20  # and in durations of a trial


def cores_short(queued: float, seconds: float, threads: int) -> int:
    """Return how many cores are taken from a process by others: 0 if all threads have their own.

    That is ⌈q⌉ from q = `SHORT` on, at most threads - 1, with the number q = queued / seconds of
    threads that wait for a core at any time, on average. CPU time / (wall time · threads) tells
    less, 0.67 to 0.86 on a quiet machine and 0.5 beside a busy process: threads that wait for each
    other spin or sleep, on free cores as on busy ones.

    Args:
        queued: seconds that the process's threads have waited for a core, summed over threads.
        seconds: wall time in which they did; not a number, here or for queued: not measured.
        threads: number of threads that compute.
    """
    short = queued / seconds if seconds > 0 else 0.0
    return min(ceil(short), threads - 1) if short >= SHORT else 0


def faster(seconds: dict[int, list[float]]) -> int:
    """Return the number of threads with the least median time of a step, first steps apart."""
    return min(seconds, key=lambda threads: median(seconds[threads][1:]))


def queued_seconds() -> float:
    """Return the seconds that this process's threads have waited for a core; nan: not on Linux."""
    try:
        texts = [p.read_text() for p in Path("/proc/self/task").glob("*/schedstat")]
        return 1e-9 * sum(int(text.split()[1]) for text in texts) if texts else nan
    except (OSError, IndexError, ValueError):  # a thread that has just ended, a kernel without it
        return nan


@dataclass
class ThreadWatch:
    """Time the steps of a training; say once that fewer threads are faster, or take them.

    A fixed number of threads is never changed. With "auto", steps of a trial are those of the
    training, with all threads and fewer by turns; the first trial is at the start, others follow
    once cores are taken, or while fewer threads than all are used.

    Args:
        asked: the setting train.threads.
        tell: shows a line to the user.
        queued, clock: seconds that threads have waited for a core, and that have passed.
    """

    asked: int | Literal["auto"] | None
    tell: Callable[[str], None]
    queued: Callable[[], float] = queued_seconds
    clock: Callable[[], float] = time.perf_counter
    choices: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with all threads."""
        self.most = self.threads = torch.get_num_threads()
        self._told, self._rest_until = False, -1.0
        self._trial: dict[int, list[float]] = {}
        self._new_window()
        if self.asked == "auto" and self.most > 1:
            self._begin_trial(1)

    @contextmanager
    def timed(self, step: int) -> Iterator[None]:
        """Time a step, the block; evaluations and checkpoints lie outside."""
        if self._trial:
            torch.set_num_threads(min(self._trial, key=self._tried_least))
        elif not self._steps:
            self._window_start, self._queued_before = self.clock(), self.queued()
        start = self.clock()
        yield
        seconds = self.clock() - start
        if self._trial:
            self._trial[torch.get_num_threads()].append(seconds)
            torch.set_num_threads(self.threads)
            if all(len(tried) == ROUNDS for tried in self._trial.values()):
                self._end_trial(step)
            return
        self._steps += seconds
        if self._steps >= WINDOW:
            self._look()

    def _tried_least(self, threads: int) -> tuple[int, int]:
        return len(self._trial[threads]), -threads

    def _look(self) -> None:
        elapsed, queued = self.clock() - self._window_start, self.queued() - self._queued_before
        # With an evaluation in the window, it may not be the steps that waited.
        paused = elapsed > 1.2 * self._steps
        short = 0 if paused else cores_short(queued, elapsed, self.threads)
        self._new_window()
        if self.asked != "auto":
            if short and not self._told:
                self._told = True
                self.tell(
                    f"note: other programs take cores from the {self.threads} threads; "
                    f"train.threads={self.threads - short} or auto would be faster now"
                )
        elif self.clock() >= self._rest_until and (short or self.threads < self.most):
            self._begin_trial(self.threads - short if short else self.threads)

    def _new_window(self) -> None:
        self._steps = 0.0

    def _begin_trial(self, fewer: int) -> None:
        self._trial = {self.most: [], fewer: []}

    def _end_trial(self, step: int) -> None:
        before, self.threads = self.threads, faster(self._trial)
        torch.set_num_threads(self.threads)
        times = {str(n): round(median(tried[1:]), 6) for n, tried in self._trial.items()}
        spent = sum(map(sum, self._trial.values()))
        self._trial, self._rest_until = {}, self.clock() + max(REST, REST_FACTOR * spent)
        if self.threads != before or not self.choices:
            shown = ", ".join(f"{value:.3g} s with {n}" for n, value in times.items())
            self.tell(f"threads: {self.threads} from step {step + 1} on; a step takes {shown}")
            self.choices.append({"step": step + 1, "threads": self.threads, "seconds": times})
