"""Where a run is: steps done, and the time that they took."""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import Field

from flowclf.settings import Section, Weight

__all__ = ["Clock", "Position"]


class Position(Section):
    """Steps done, and seconds and CPU seconds of training until then."""

    step: Annotated[int, Field(ge=0)] = 0
    seconds: Weight = 0.0
    cpu_seconds: Weight = 0.0


class Clock:
    """Runs on from a position: what an interrupted run had spent is spent."""

    def __init__(self, start: Position) -> None:
        self._start = time.perf_counter() - start.seconds
        self._cpu_start = time.process_time() - start.cpu_seconds

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of this process, and of those before it."""
        return time.process_time() - self._cpu_start

    def at(self, step: int) -> Position:
        """The position after so many steps, now."""
        seconds = time.perf_counter() - self._start
        return Position(step=step, seconds=seconds, cpu_seconds=self.cpu_seconds)
